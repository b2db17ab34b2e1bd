"""How the partitions are: what Redis says of each, and how far behind it is where Kafka was asked.

What stands in Redis may be anything: what cannot be read counts as not there, and the texts are
whoever's. The JSON of `Status` is public; docs/monitoring.md describes it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from projector.clients import redis_batch
from projector.events.model import Topic
from projector.store import activity
from projector.store import schema as views
from projector.store.activity import PartitionActivity
from projector.store.partition_count import read_partition_count
from projector.store.partition_state import PartitionState

# A partition is stamped four times a second; two seconds without a stamp are no accident.
LATE_S: Final = 2.0
MINUTES: Final = 5
PARTITIONS_PER_CALL: Final = 500
MAX_OWNER: Final = 200
MAX_NUMBER: Final = 2**53


class PartitionHealth(StrEnum):
    """How a partition is; the worst last."""

    FRESH = "fresh"
    LATE = "late"
    STALE = "stale"
    UNCLAIMED = "unclaimed"


class Ends(NamedTuple):
    """How far the topics go in Kafka, by partition; how many dead letters there are."""

    beginnings: Mapping[int, Mapping[Topic, int]]
    ends: Mapping[int, Mapping[Topic, int]]
    dead_letters: int


class Rates(Struct, frozen=True):
    """What happened in the last minutes: per second; latencies of revocations in seconds."""

    events: float
    refused: float
    views: float
    revocations: int
    revocation_p50: float | None
    revocation_p99: float | None
    revocation_max: float | None


class PartitionStatus(Struct, frozen=True):
    """One partition. `age`: seconds since it was last known fresh. None: not known.

    `lag`: by topic, how many records of Kafka are not applied.
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
    rates: Rates | None


class WorkerStatus(Struct, frozen=True):
    """A worker that holds claims. `age`: seconds since any of its partitions was known fresh."""

    owner: str
    partitions: list[int]
    age: float | None


class StatusTotals(Struct, frozen=True):
    """All partitions together; of what is not known of some, the sum of the others."""

    partitions: int
    fresh: int
    late: int
    stale: int
    unclaimed: int
    facts: int
    live_tokens: int
    lag: int | None
    rates: Rates


class Status(Struct, frozen=True):
    """Everything at once; `at` in ms of Redis TIME. `kafka`: why Kafka's numbers are not known."""

    at: int
    max_staleness: float
    partitions: list[PartitionStatus]
    workers: list[WorkerStatus]
    totals: StatusTotals
    dead_letters: int | None
    kafka: str | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether there are partitions, and all are fresh."""
        return bool(self.partitions) and self.totals.fresh == len(self.partitions)


class _Held(NamedTuple):
    """What Redis holds of one partition, at `now`."""

    partition: int
    now: int
    state: PartitionState | None
    activity: PartitionActivity | None


async def read_status(redis: Redis, max_staleness: float, ends: Ends | None = None) -> Status:
    """The status now; `max_staleness` in seconds. Raises `RedisError` and `SetupError`."""
    held = [one async for one in _held(redis, await _count(redis, ends))]
    now = held[-1].now if held else 0
    partitions = [_partition(one, max_staleness, ends) for one in held]
    activities = [one.activity for one in held if one.activity]
    return Status(
        now, max_staleness, partitions, _workers(partitions),
        _totals(partitions, _rates(activities, now)), ends.dead_letters if ends else None,
    )  # fmt: skip


async def _count(redis: Redis, ends: Ends | None) -> int:
    """How many partitions there are; Kafka knows it where no worker has ever run."""
    stored = await read_partition_count(redis)
    if stored is None:
        return len(ends.ends) if ends else 0
    return stored


async def _held(redis: Redis, count: int) -> AsyncIterator[_Held]:
    for chunk in _chunks(count):
        asked = [("HGETALL", views.partition_key(partition)) for partition in chunk]
        asked += [("GET", views.activity_key(partition)) for partition in chunk]
        found = await redis_batch.execute(redis, asked)
        held, doing = found[: len(chunk)], found[len(chunk) :]
        for partition, fields, raw in zip(chunk, held, doing, strict=True):
            state = _decoded(_known(fields.value) or {})
            yield _Held(
                partition, int(fields.now), state, activity.decode_activity(_known(raw.value))
            )


def _chunks(count: int) -> Iterator[Sequence[int]]:
    for start in range(0, count, PARTITIONS_PER_CALL):
        yield range(start, min(count, start + PARTITIONS_PER_CALL))


def _known(found: Any) -> Any:
    """None for a key of another type; raises any other error."""
    if isinstance(found, ResponseError) and str(found).startswith("WRONGTYPE"):
        return None
    if isinstance(found, Exception):
        raise found
    return found


def _decoded(fields: Mapping[bytes, bytes]) -> PartitionState | None:
    try:
        state = PartitionState.decode(fields)
    except ValueError:
        return None
    if state is None:
        return None
    numbers = (*state.version, *state.offsets.values(), state.facts or 0, state.stamp or 0)
    return state if all(-1 <= number < MAX_NUMBER for number in numbers) else None


def _partition(held: _Held, max_staleness: float, ends: Ends | None) -> PartitionStatus:
    state, doing = held.state, held.activity
    age = _age(state, held.now)
    return PartitionStatus(
        held.partition,
        _state(state, age, max_staleness),
        state.owner[:MAX_OWNER] if state and state.version.epoch else None,
        age,
        state.version.epoch if state else None,
        state.version.revision if state else None,
        state.facts if state and state.has_checkpoint else None,
        doing.live_tokens if doing else None,
        _lag(held, ends),
        _rates([doing], held.now) if doing else None,
    )


def _age(state: PartitionState | None, now: int) -> float | None:
    """A stamp from the future is none: a failover led to a server whose clock is behind."""
    if state is None or state.stamp is None or state.stamp_epoch is None or state.stamp > now:
        return None
    return (now - state.stamp) / 1000


def _state(
    state: PartitionState | None, age: float | None, max_staleness: float
) -> PartitionHealth:
    if state is None or not state.version.epoch:
        return PartitionHealth.UNCLAIMED
    if age is None or age > max_staleness:
        return PartitionHealth.STALE
    return PartitionHealth.LATE if age > LATE_S else PartitionHealth.FRESH


def _lag(held: _Held, ends: Ends | None) -> dict[Topic, int] | None:
    """Never below zero: a broker may know less than it has delivered (embedded ones do)."""
    if ends is None or held.partition not in ends.ends:
        return None
    applied = {**ends.beginnings[held.partition], **(held.state.offsets if held.state else {})}
    return {t: max(0, end - applied.get(t, 0)) for t, end in ends.ends[held.partition].items()}


def _rates(activities: Iterable[PartitionActivity], now: int) -> Rates:
    found = activity.activity_rates(activities, now, MINUTES)
    return Rates(
        found.applied, found.refused, found.views,
        found.revocations, found.p50, found.p99, found.slowest,
    )  # fmt: skip


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


def _totals(partitions: Sequence[PartitionStatus], rates: Rates) -> StatusTotals:
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
