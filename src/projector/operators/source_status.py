"""The status of the sources that workers wait for, from what the partitions' owners wrote.

All ages are by Redis' clock. They are upper bounds: an owner writes its activity every few seconds.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from msgspec import Struct

from projector.store.activity import PartitionActivity
from projector.store.partition_state import PartitionState
from projector.store.partition_store import ACTIVITY_KEPT_S

# Partitions are stamped four times a second, so 2 s without a stamp is a fault.
LATE_S: Final = 2.0
# An activity that another program wrote may name any number.
MAX_SOURCES: Final = 100


class SourceHealth(StrEnum):
    """The health of a source; the worst last."""

    HEARD = "heard"
    LATE = "late"
    SILENT = "silent"


class SourceStatus(Struct, frozen=True):
    """A source: `age` in seconds since its last heartbeat that counted, None before the first.

    `waiting` are the partitions whose stamps wait for it.
    """

    source: str
    state: SourceHealth
    age: float | None
    waiting: list[int]


class StoredPartition(NamedTuple):
    """A partition's state and activity in Redis at `now` (ms); the latter expires in `left_ms`."""

    partition: int
    now: int
    state: PartitionState | None
    activity: PartitionActivity | None
    left_ms: int = -1


def source_statuses(stored: Iterable[StoredPartition], max_staleness: float) -> list[SourceStatus]:
    """Compute the status of each source that a partition names, the worst first."""
    ages: dict[str, list[float]] = {}
    waiting: dict[str, list[int]] = {}
    for each in stored:
        for source in each.activity.sources if each.activity else ():
            ages.setdefault(source, []).extend(_ages(each, source))
        if silent := each.state and each.state.silent:
            ages.setdefault(silent.name, []).extend(_since(silent.vouched_ms, each.now))
            waiting.setdefault(silent.name, []).append(each.partition)
    found = (_status(n, ages[n], waiting.get(n, []), max_staleness) for n in sorted(ages))
    return sorted(found, key=_badness, reverse=True)[:MAX_SOURCES]


def _ages(stored: StoredPartition, source: str) -> Iterator[float]:
    """Yield the times in seconds within which the source's last heartbeat must have counted."""
    state, doing = stored.state, stored.activity
    if doing is None:
        return
    counted_ms = doing.sources[source]
    if counted_ms is not None:
        yield (max(0, doing.at - counted_ms) + _written_ms_ago(stored, doing)) / 1000
    # A stamp of an owner that names the source follows a heartbeat that came after the stamp's T0.
    if state and state.stamp_epoch == doing.epoch:
        yield from _since(state.stamp or 0, stored.now)


def _since(then_ms: int, now_ms: int) -> Iterator[float]:
    """Yield the seconds since a time; nothing for 0 or a time from the future."""
    if 0 < then_ms <= now_ms:
        yield (now_ms - then_ms) / 1000


def _written_ms_ago(stored: StoredPartition, doing: PartitionActivity) -> int:
    """Return the activity's age by its expiry: the worker's clock may differ from Redis'."""
    if stored.left_ms >= 0:
        return max(0, ACTIVITY_KEPT_S * 1000 - stored.left_ms)
    return max(0, stored.now - doing.at)


def _status(
    source: str, ages: list[float], waiting: list[int], max_staleness: float
) -> SourceStatus:
    age = min(ages, default=None)
    if age is None or age > max_staleness:
        return SourceStatus(source, SourceHealth.SILENT, age, waiting)
    late = waiting or age > LATE_S
    return SourceStatus(source, SourceHealth.LATE if late else SourceHealth.HEARD, age, waiting)


def _badness(status: SourceStatus) -> tuple[int, float]:
    age = float("inf") if status.age is None else status.age
    return list(SourceHealth).index(status.state), age
