"""The overlay: changes that hold back the records which are still to be written again.

A change that takes an agent from 100,000 tokens takes seconds to write. Its name is in the overlay
before that, in one write. Lookups read the overlay together with the record. While a record is
older than the change and names what changed, they answer 503. A shortened list would be wrong for
jobs that keep the agent by another grant.

The value has lines of each partition whose owner writes such changes, and expires after 30 s:
`0003 01a0c5e2f3b1 00000000a3f1 agent:7 group:12 user:5`. Each has the changes of one version.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec
import structlog

from projector.store.schema import Version, ViewRecord

log = structlog.get_logger()

_LINE: Final = re.compile(r"(\d{4}) (0[0-9a-f]{11}) ([0-9a-f]{12})((?: [a-z]+:\d+)+)", re.ASCII)


class HeldBack(NamedTuple):
    """Records with a lower version than this that name one of `names` are held back."""

    version: Version
    names: frozenset[str]


class _Entity(msgspec.Struct):
    id: int


class _Project(_Entity):
    groups: list[_Entity]


class _Body(msgspec.Struct):
    """The parts of a body that changes are named after."""

    allowed_agents: list[_Entity]
    project: _Project
    user: _Entity


_decoder: Final = msgspec.json.Decoder(_Body)


def encode_line(partition: int, version: Version, names: Iterable[str]) -> str:
    """Encode a line of one partition, without the line break behind it."""
    return f"{partition:04} {version} {' '.join(sorted(names))}"


def encode_lines(partition: int, names: Mapping[str, Version]) -> str:
    """Encode the lines of one partition, one for each version."""
    lines: dict[Version, list[str]] = {}
    for name, version in names.items():
        lines.setdefault(version, []).append(name)
    return "".join(f"{encode_line(partition, *line)}\n" for line in lines.items())


# Lookups decode it each time, and it changes only as a long write begins and ends.
@lru_cache(maxsize=8)
def decode(raw: bytes) -> Mapping[int, Sequence[HeldBack]]:
    """Return what is held back in each partition, by its lines.

    A malformed line does not count. Lookups then answer by the bound of staleness alone.
    """
    found: dict[int, list[HeldBack]] = {}
    for line in raw.decode(errors="replace").splitlines():
        if match := _LINE.fullmatch(line):
            partition, epoch, revision, names = match.groups()
            version = Version(int(epoch, 16), int(revision, 16))
            held = HeldBack(version, frozenset(names.split()))
            found.setdefault(int(partition), []).append(held)
        else:
            log.warning("overlay line malformed", size=len(line))
    return found


def is_held_back(record: ViewRecord, overlay: bytes) -> bool:
    """Whether a change that may take an agent away is still to be written to this record.

    Only lists of agents are held back. One that cannot be read is, as it may name anything.
    """
    lines = decode(overlay).get(record.partition, ())
    newer = [held.names for held in lines if record.version < held.version]
    if not newer or record.status != HTTPStatus.OK:
        return False
    try:
        body = _decoder.decode(record.body)
    except (msgspec.DecodeError, RecursionError):
        return True
    return not frozenset().union(*newer).isdisjoint(_names(body))


def _names(body: _Body) -> Iterator[str]:
    yield f"user:{body.user.id}"
    yield f"project:{body.project.id}"
    for group in body.project.groups:
        yield f"group:{group.id}"
    for agent in body.allowed_agents:
        yield f"agent:{agent.id}"
