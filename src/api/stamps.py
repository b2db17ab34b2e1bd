"""Stamps of partitions, as one poll finds them in Redis, and what keeps a stamp from being read."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from projector.clients import redis_batch
from projector.clients.redis_cluster import CommandResult

# Longer numbers are damage, and may not fit into a float.
_NUMBER: Final = re.compile(rb"\d{1,15}")

# Reasons by the partition whose own stamp cannot be read, or by the server that is away.
Troubles = Mapping[int | str, str]


class Stamp(NamedTuple):
    """Every event of a partition up to `time_ms` (Redis TIME) is applied, under claim `epoch`.

    A poll that was sent at `sent` read it from `server`. Its time was at `fresh_at` or later. Both
    are seconds of `elapsed`, or -inf for a stamp that does not count.
    """

    time_ms: int
    epoch: int
    fresh_at: float
    sent: float
    server: str = ""


def decode_stamp(sent: float, answer: CommandResult, before: Stamp | None) -> Stamp | None:
    """Decode a stamp by the clock of its server; None if there is none, or not a number.

    If it is still the one from `before`, it is no younger, although Redis' clock may have stepped
    back. One from the future does not count, as after a failover to a server whose clock is behind.
    """
    fields = answer.value[:2]
    if not _is_readable(fields):
        return None
    time_ms, epoch = map(int, fields)
    passed_ms = answer.now - time_ms
    # Redis took its time after `sent`.
    fresh_at = sent - passed_ms / 1000 if passed_ms >= 0 else -math.inf
    if before and (before.time_ms, before.epoch) == (time_ms, epoch):
        fresh_at = min(fresh_at, before.fresh_at)
    counts = fresh_at > -math.inf
    return Stamp(time_ms, epoch, fresh_at, sent if counts else -math.inf, answer.place)


def _is_readable(fields: Sequence[bytes | None]) -> bool:
    return all(_NUMBER.fullmatch(field or b"") for field in fields)


def is_damage(error: Exception) -> bool:
    """Whether the key has another type; other errors are those of a server."""
    return str(error).startswith("WRONGTYPE")


def raise_common(answers: Sequence[CommandResult]) -> None:
    """Raise an error of the server if no stamp at all could be read."""
    errors = [each.value for each in answers if isinstance(each.value, Exception)]
    of_servers = [error for error in errors if not is_damage(error)]
    if of_servers and len(errors) == len(answers):
        raise of_servers[0]


def find_troubles(stamps: Sequence[CommandResult], others: Sequence[CommandResult]) -> Troubles:
    """Return what keeps stamps from being read; `others` are answers of servers without one."""
    found: dict[int | str, str] = {}
    for partition, answer in enumerate(stamps):
        if isinstance(answer.value, Exception):
            is_away = redis_batch.is_outage(answer.value)
            found[answer.place if is_away else partition] = str(answer.value)
        elif any(answer.value[:2]) and not _is_readable(answer.value[:2]):
            found[partition] = "the stamp is not a number"
    away = (each for each in others if redis_batch.is_outage(each.value))
    return found | {each.place: str(each.value) for each in away}
