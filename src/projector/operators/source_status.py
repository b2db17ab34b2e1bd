"""The status of the sources that workers wait for, from what the partitions' owners wrote.

All ages are by Redis' clock. They are upper bounds: an owner writes its activity every few seconds.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from msgspec import Struct

from projector.store.activity import KEPT_S, PartitionActivity
from projector.store.partition_state import PartitionState

# Partitions are stamped four times a second, so 2 s without a stamp is a fault.
LATE_S: Final = 2.0
# Owners write their activity every 5 s. An older one is of an owner that is stuck or gone.
REPORTED_S: Final = 7.0
# An activity that another program wrote may name any number.
MAX_SOURCES: Final = 100


class SourceHealth(StrEnum):
    """The health of a source; the worst last."""

    HEARD = "heard"
    UNKNOWN = "unknown"
    LATE = "late"
    SILENT = "silent"


class SourceStatus(Struct, frozen=True):
    """A source: `age` in seconds since its last heartbeat that counted, None before the first.

    `waiting` are the partitions whose stamps wait for it, `ignored_by` those whose owner does not
    name it. The state is unknown while no owner reports: then the workers are the trouble.
    """

    source: str
    state: SourceHealth
    age: float | None
    waiting: list[int]
    ignored_by: list[int] = []


class StoredPartition(NamedTuple):
    """A partition's state and activity in Redis at `now` (ms); the latter expires in `left_ms`.

    `damage` is what of the partition cannot be read, or is incomplete.
    """

    partition: int
    now: int
    state: PartitionState | None
    activity: PartitionActivity | None
    left_ms: int = -1
    damage: str | None = None


class _Evidence:
    """The times in seconds since a source's heartbeats, as partitions prove or report them."""

    def __init__(self) -> None:
        self.ages: list[float] = []
        # Of owners that have reported lately.
        self.reports: list[float] = []
        self.waiting: dict[int, bool] = {}

    def add_past(self, then_ms: int, now_ms: int) -> None:
        """Add the time since then; 0 is never, and a time from the future follows a failover."""
        if 0 < then_ms <= now_ms:
            self.ages.append((now_ms - then_ms) / 1000)

    def add_report(self, age: float | None, ago: float) -> None:
        """Add the age in an activity that was written so many seconds ago."""
        if age is not None:
            self.ages.append(age + ago)
        if ago <= REPORTED_S:
            self.reports.append(math.inf if age is None else age)

    def status(self, source: str, ignored_by: list[int], max_staleness: float) -> SourceStatus:
        age = min(self.ages, default=math.inf)
        known = None if age == math.inf else age
        health = self._health(age, max_staleness)
        return SourceStatus(source, health, known, list(self.waiting), ignored_by)

    def _health(self, age: float, max_staleness: float) -> SourceHealth:
        if age <= LATE_S and not self.waiting:
            return SourceHealth.HEARD
        if any(self.waiting.values()) or min(self.reports, default=0.0) > LATE_S:
            return SourceHealth.SILENT if age > max_staleness else SourceHealth.LATE
        heard = self.reports and not self.waiting
        return SourceHealth.HEARD if heard else SourceHealth.UNKNOWN


def source_statuses(stored: Iterable[StoredPartition], max_staleness: float) -> list[SourceStatus]:
    """Compute the status of each source that a partition names, the worst first."""
    found: defaultdict[str, _Evidence] = defaultdict(_Evidence)
    partitions = list(stored)
    for each in partitions:
        _add_activity(found, each)
        _add_silence(found, each)
    statuses = (
        found[source].status(source, _ignoring(partitions, source), max_staleness)
        for source in sorted(found)
    )
    return sorted(statuses, key=_badness, reverse=True)[:MAX_SOURCES]


def _add_activity(found: defaultdict[str, _Evidence], stored: StoredPartition) -> None:
    state, activity = stored.state, stored.activity
    if activity is None:
        return
    for source, counted_ms in activity.sources.items():
        if _ignores(state, source):
            continue  # A former owner wrote it.
        age = None if counted_ms is None else max(0, activity.at - counted_ms) / 1000
        ago = written_ago(stored, activity)
        found[source].add_report(age, ago)
        # The stamp of an owner that names the source follows a heartbeat from after the stamp's T0.
        if state and state.stamp_epoch == activity.epoch:
            found[source].add_past(state.stamp or 0, stored.now)
        # The field `silent` names one source, although the partition may wait for more.
        is_late = ago <= REPORTED_S and (age is None or age > LATE_S)
        if is_late and state and state.awaited(stored.now):
            found[source].waiting[stored.partition] = True


def _add_silence(found: defaultdict[str, _Evidence], stored: StoredPartition) -> None:
    """Add the source that the owner wrote it waits for, within the last two seconds."""
    activity = stored.activity
    if silent := stored.state and stored.state.awaited(stored.now):
        reports = activity is not None and written_ago(stored, activity) <= REPORTED_S
        found[silent.name].waiting[stored.partition] = reports
        found[silent.name].add_past(silent.vouched_ms, stored.now)


def _ignoring(stored: Iterable[StoredPartition], source: str) -> list[int]:
    return [each.partition for each in stored if _ignores(each.state, source)]


def _ignores(state: PartitionState | None, source: str) -> bool:
    """Whether the partition's owner is known to stamp without this source."""
    return bool(state and state.sources is not None and source not in state.sources)


def written_ago(stored: StoredPartition, activity: PartitionActivity) -> float:
    """Return the activity's age by its expiry: a worker's clock differs from Redis'."""
    if stored.left_ms >= 0:
        return max(0.0, KEPT_S - stored.left_ms / 1000)
    return max(0.0, (stored.now - activity.at) / 1000)


def _badness(status: SourceStatus) -> tuple[int, float]:
    age = math.inf if status.age is None else status.age
    return list(SourceHealth).index(status.state), age
