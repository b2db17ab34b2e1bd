"""The silent sources that partitions wait for, and the sentence about them in a 503."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from projector.clients.redis_cluster import CommandResult
from projector.store.silent_source import NEVER_VOUCHED, decode_silent

# A reason stays one line that a person can read.
MAX_NAMED: Final = 3


class Silence(NamedTuple):
    """A source, silent since a moment in seconds of `elapsed`; -inf if it never vouched."""

    source: str
    since: float


Silences = Mapping[int, Silence]


def find_silences(sent: float, answers: Sequence[CommandResult]) -> Silences:
    """Return the source that each partition waits for, by the clock of the partition's server.

    The answers, to a poll that was sent at `sent`, end with the field `silent`.
    """
    found: dict[int, Silence] = {}
    for partition, answer in enumerate(answers):
        if isinstance(answer.value, Exception):
            continue
        if silent := decode_silent(answer.value[-1], answer.now):
            seconds = silent.seconds(answer.now)
            found[partition] = Silence(
                silent.name, sent - (math.inf if seconds is None else seconds)
            )
    return found


def describe_silences(silences: Iterable[Silence], now: float) -> str:
    """Write one clause for each source, the longest silence first; empty without any."""
    since: dict[str, float] = {}
    for silence in silences:
        since[silence.source] = min(silence.since, since.get(silence.source, math.inf))
    longest = sorted(since, key=lambda source: (since[source], source))
    clauses = [_clause(source, now - since[source]) for source in longest[:MAX_NAMED]]
    more = len(longest) - MAX_NAMED
    return ", ".join([*clauses, f"and {more} more"] if more > 0 else clauses)


def _clause(source: str, seconds: float) -> str:
    duration = NEVER_VOUCHED if seconds == math.inf else f"for {seconds:.0f} s"
    return f"source {source} has been silent {duration}"
