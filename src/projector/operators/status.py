"""The status of all partitions, from Redis, and their lag, from Kafka's end offsets.

The values in Redis are not trusted: an unreadable one counts as missing. The JSON of `Status` is
public; docs/monitoring.md describes it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from projector.clients import redis_batch
from projector.clients.redis_cluster import CommandResult
from projector.events.model import Topic
from projector.operators.source_status import (
    LATE_S,
    SourceHealth,
    SourceStatus,
    StoredPartition,
    source_statuses,
)
from projector.store import activity, schema
from projector.store.activity import ActivityRates
from projector.store.partition_count import read_partition_count
from projector.store.partition_state import PartitionState

MINUTES: Final = 5
PARTITIONS_PER_CALL: Final = 500
MAX_OWNER: Final = 200
MAX_NUMBER: Final = 2**53


class PartitionHealth(StrEnum):
    """The freshness of a partition; the worst last."""

    FRESH = "fresh"
    LATE = "late"
    STALE = "stale"
    UNCLAIMED = "unclaimed"


class Ends(NamedTuple):
    """The topics' first and end offsets in Kafka by partition, and the number of dead letters."""

    beginnings: Mapping[int, Mapping[Topic, int]]
    ends: Mapping[int, Mapping[Topic, int]]
    dead_letters: int


class PartitionStatus(Struct, frozen=True):
    """One partition; values that are not known are None.

    `age` is the time in seconds since it was last fresh, `lag` the number of records that are not
    applied, by topic.
    """

    partition: int
    state: PartitionHealth
    owner: str | None
    age: float | None
    epoch: int | None
    revision: int | None
    facts: int | None
    live_tokens: int | None
    lag: dict[Topic, int] | None
    rates: ActivityRates | None


class WorkerStatus(Struct, frozen=True):
    """A worker that owns partitions; `age` in seconds is that of the freshest."""

    owner: str
    partitions: list[int]
    age: float | None


class StatusTotals(Struct, frozen=True):
    """Sums over all partitions, without the values that are not known."""

    partitions: int
    fresh: int
    late: int
    stale: int
    unclaimed: int
    facts: int
    live_tokens: int
    lag: int | None
    rates: ActivityRates


class Status(Struct, frozen=True):
    """All partitions, workers, sources and totals at the time `at` (ms of Redis TIME).

    `kafka` is the reason why Kafka's numbers are missing. `sources` are those that workers wait
    for, the worst first.
    """

    at: int
    max_staleness: float
    partitions: list[PartitionStatus]
    workers: list[WorkerStatus]
    totals: StatusTotals
    dead_letters: int | None
    kafka: str | None = None
    sources: list[SourceStatus] = []

    @property
    def is_fresh(self) -> bool:
        """Whether there are partitions, all fresh, and each source is heard and nowhere ignored."""
        heard = all(s.state is SourceHealth.HEARD and not s.ignored_by for s in self.sources)
        return heard and bool(self.partitions) and self.totals.fresh == len(self.partitions)


async def read_status(redis: Redis, max_staleness: float, ends: Ends | None = None) -> Status:
    """Read the status; `max_staleness` in seconds. Raises `RedisError` and `OperatorError`."""
    stored = [each async for each in _read_partitions(redis, await _count(redis, ends))]
    now = stored[-1].now if stored else 0
    partitions = [_partition(each, max_staleness, ends) for each in stored]
    activities = [each.activity for each in stored if each.activity]
    rates = activity.activity_rates(activities, now, MINUTES)
    return Status(
        now, max_staleness, partitions, _workers(partitions), _totals(partitions, rates),
        ends.dead_letters if ends else None, sources=source_statuses(stored, max_staleness),
    )  # fmt: skip


async def _count(redis: Redis, ends: Ends | None) -> int:
    """Return the number of partitions: from Redis, or from Kafka before the first worker runs."""
    stored = await read_partition_count(redis)
    if stored is None:
        return len(ends.ends) if ends else 0
    return stored


async def _read_partitions(redis: Redis, count: int) -> AsyncIterator[StoredPartition]:
    for chunk in _chunks(count):
        commands = [("HGETALL", schema.partition_key(partition)) for partition in chunk]
        commands += [("GET", schema.activity_key(partition)) for partition in chunk]
        commands += [("PTTL", schema.activity_key(partition)) for partition in chunk]
        found = await redis_batch.execute(redis, commands)
        for partition, fields, raw, left in zip(chunk, *_thirds(found), strict=True):
            yield StoredPartition(
                partition,
                int(fields.now),
                _decode_state(_value(fields.value) or {}),
                activity.decode_activity(_value(raw.value)),
                _value(left.value),
            )


def _thirds(found: Sequence[CommandResult]) -> Iterator[Sequence[CommandResult]]:
    length = len(found) // 3
    return (found[start : start + length] for start in range(0, len(found), length))


def _chunks(count: int) -> Iterator[Sequence[int]]:
    for start in range(0, count, PARTITIONS_PER_CALL):
        yield range(start, min(count, start + PARTITIONS_PER_CALL))


def _value(found: Any) -> Any:
    """Return the value; None for a key of another type. Raises other errors."""
    if isinstance(found, ResponseError) and str(found).startswith("WRONGTYPE"):
        return None
    if isinstance(found, Exception):
        raise found
    return found


def _decode_state(fields: Mapping[bytes, bytes]) -> PartitionState | None:
    try:
        state = PartitionState.decode(fields)
    except ValueError:
        return None
    if state is None:
        return None
    numbers = (*state.version, *state.offsets.values(), state.facts or 0, state.stamp or 0)
    return state if all(-1 <= number < MAX_NUMBER for number in numbers) else None


def _partition(stored: StoredPartition, max_staleness: float, ends: Ends | None) -> PartitionStatus:
    state, doing = stored.state, stored.activity
    age = _age(state, stored.now)
    return PartitionStatus(
        stored.partition,
        _health(state, age, max_staleness),
        state.owner[:MAX_OWNER] if state and state.version.epoch else None,
        age,
        state.version.epoch if state else None,
        state.version.revision if state else None,
        state.facts if state and state.has_checkpoint else None,
        doing.live_tokens if doing else None,
        _lag(stored, ends),
        activity.activity_rates([doing], stored.now, MINUTES) if doing else None,
    )


def _age(state: PartitionState | None, now: int) -> float | None:
    """Return the age in seconds; None for a stamp from the future.

    A failover to a server whose clock is behind leaves such a stamp.
    """
    if state is None or state.stamp is None or state.stamp_epoch is None or state.stamp > now:
        return None
    return (now - state.stamp) / 1000


def _health(
    state: PartitionState | None, age: float | None, max_staleness: float
) -> PartitionHealth:
    if state is None or not state.version.epoch:
        return PartitionHealth.UNCLAIMED
    if age is None or age > max_staleness:
        return PartitionHealth.STALE
    return PartitionHealth.LATE if age > LATE_S else PartitionHealth.FRESH


def _lag(stored: StoredPartition, ends: Ends | None) -> dict[Topic, int] | None:
    """Subtract; not below zero, since an embedded broker's end may be behind its deliveries."""
    partition, state = stored.partition, stored.state
    if ends is None or partition not in ends.ends:
        return None
    applied = {**ends.beginnings[partition], **(state.offsets if state else {})}
    return {t: max(0, end - applied.get(t, 0)) for t, end in ends.ends[partition].items()}


def _workers(partitions: Iterable[PartitionStatus]) -> list[WorkerStatus]:
    owned: dict[str, list[PartitionStatus]] = {}
    for partition in partitions:
        if partition.owner is not None:
            owned.setdefault(partition.owner, []).append(partition)
    return [
        WorkerStatus(
            owner,
            [partition.partition for partition in theirs],
            min((p.age for p in theirs if p.age is not None), default=None),
        )
        for owner, theirs in sorted(owned.items())
    ]


def _totals(partitions: Sequence[PartitionStatus], rates: ActivityRates) -> StatusTotals:
    lags = [sum(partition.lag.values()) for partition in partitions if partition.lag is not None]
    count = Counter(partition.state for partition in partitions)
    return StatusTotals(
        partitions=len(partitions),
        fresh=count[PartitionHealth.FRESH],
        late=count[PartitionHealth.LATE],
        stale=count[PartitionHealth.STALE],
        unclaimed=count[PartitionHealth.UNCLAIMED],
        facts=sum(partition.facts or 0 for partition in partitions),
        live_tokens=sum(partition.live_tokens or 0 for partition in partitions),
        lag=sum(lags) if lags else None,
        rates=rates,
    )
