"""The status of all partitions, from Redis, and their lag, from Kafka's end offsets.

The values in Redis are not trusted: an unreadable one counts as missing. `status_model` has its
types, `diagnosis` the causes of what is wrong.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from projector.clients import redis_batch
from projector.clients.redis_cluster import CommandResult
from projector.config.settings import Settings
from projector.events.model import Topic
from projector.events.timestamps import to_rfc3339
from projector.operators.diagnosis.causes import causes
from projector.operators.refused_writes import refused_writes
from projector.operators.source_status import (
    LATE_S,
    REPORTED_S,
    StoredPartition,
    source_statuses,
    written_ago,
)
from projector.operators.status_model import (
    Deployment,
    KafkaTrouble,
    PartitionHealth,
    PartitionStatus,
    Status,
    StatusTotals,
    WorkerHealth,
    WorkerStatus,
)
from projector.store import activity, schema
from projector.store.activity import ActivityRates, PartitionActivity
from projector.store.partition_count import read_partition_count
from projector.store.partition_state import PartitionState
from projector.store.replay_marks import FirstLetter, is_present

PARTITIONS_PER_CALL: Final = 500
MAX_OWNER: Final = 200
MAX_NUMBER: Final = 2**53
# The fields that change with every checkpoint, and before and after one that is written in steps.
CHECKPOINT: Final = ("epoch", "revision", "facts")
# Answers of Redis for each partition.
PER_PARTITION: Final = 5


class Ends(NamedTuple):
    """The topics' first and end offsets in Kafka by partition, and the number of dead letters.

    A partition without a leader has no offsets: `leaderless` names its topics. The number is None
    while the dead letters have no leader. `topic_ids` is empty where the broker reports none.
    """

    beginnings: Mapping[int, Mapping[Topic, int]]
    ends: Mapping[int, Mapping[Topic, int]]
    dead_letters: int | None
    leaderless: Mapping[int, list[Topic]] = {}
    topic_ids: Mapping[Topic, str] = {}
    first_letters: Mapping[int, FirstLetter] = {}


class KafkaAnswer(NamedTuple):
    """The topics' ends, or the trouble that hides them."""

    ends: Ends | None = None
    trouble: KafkaTrouble | None = None


async def read_status(redis: Redis, settings: Settings, kafka: KafkaAnswer) -> Status:
    """Read the status, with its causes; raises `RedisError` and `OperatorError`."""
    ends, bound = kafka.ends, settings.max_staleness
    stored = [each async for each in _read_partitions(redis, await _count(redis, ends))]
    (marks,) = await redis_batch.execute(redis, [("HGETALL", schema.REPLAYED)])
    now = stored[-1].now if stored else int(marks.now)
    partitions = [_partition(each, bound, ends) for each in stored]
    activities = [each.activity for each in stored if each.activity]
    rates = activity.activity_rates(activities, now)
    found = Status(
        now, bound, partitions, _workers(stored, partitions), _totals(partitions, rates),
        ends.dead_letters if ends else None, _replayed(_value(marks.value) or {}, ends),
        kafka=_sentence(kafka.trouble) if kafka.trouble else None,
        sources=source_statuses(stored, bound), deployment=deployment_of(settings),
        kafka_trouble=kafka.trouble,
        refused_writes=await _refused_writes(redis, stored, partitions),
    )  # fmt: skip
    return msgspec.structs.replace(found, causes=causes(found))


async def _refused_writes(
    redis: Redis, stored: Iterable[StoredPartition], partitions: Iterable[PartitionStatus]
) -> str | None:
    """Return why Redis refuses writes, if a server has none that are fresh."""
    written, silent = set[str](), set[str]()
    for each, partition in zip(stored, partitions, strict=True):
        is_written = partition.state is PartitionHealth.FRESH or _catches_up(each)
        place = redis_batch.place_of(redis, schema.partition_key(each.partition))
        (written if is_written else silent).add(place)
    return await refused_writes(redis) if silent - written else None


def _replayed(marks: Iterable[bytes], ends: Ends | None) -> int:
    """Count the letters that the topic still has and that were replayed."""
    first = ends.first_letters if ends else {}
    return sum(is_present(mark.decode(errors="replace"), first) for mark in marks)


def deployment_of(settings: Settings) -> Deployment:
    """Describe the deployment that these settings name, without passwords."""
    return Deployment(
        settings.redis_place,
        settings.kafka,
        settings.topic_prefix,
        version("allowed-agents-projector"),
    )


def _sentence(trouble: KafkaTrouble) -> str:
    since = "" if trouble.since is None else f" (since {to_rfc3339(trouble.since)})"
    return f"{trouble.reason}{since}"


async def _count(redis: Redis, ends: Ends | None) -> int:
    """Return the number of partitions: from Redis, or from Kafka before the first worker runs."""
    stored = await read_partition_count(redis)
    if stored is None:
        return len({*ends.ends, *ends.leaderless}) if ends else 0
    return stored


async def _read_partitions(redis: Redis, count: int) -> AsyncIterator[StoredPartition]:
    for chunk in _chunks(count):
        keys = [schema.partition_key(partition) for partition in chunk]
        activities = [schema.activity_key(partition) for partition in chunk]
        commands: list[tuple[str, ...]] = [("HGETALL", key) for key in keys]
        commands += [("HLEN", schema.facts_key(partition)) for partition in chunk]
        commands += [("HMGET", key, *CHECKPOINT) for key in keys]
        commands += [("GET", key) for key in activities]
        commands += [("PTTL", key) for key in activities]
        found = await redis_batch.execute(redis, commands)
        for partition, *answers in zip(chunk, *_parts(found), strict=True):
            yield _stored(partition, answers)


def _stored(partition: int, answers: Sequence[CommandResult]) -> StoredPartition:
    fields, facts, checkpoint, raw, left = answers
    hash_ = _value(fields.value)
    state = _decode_state(hash_ or {})
    damage = None
    if state is None and (hash_ or isinstance(fields.value, Exception)):
        damage = f"{schema.partition_key(partition)} is unreadable"
    # Else a checkpoint was written between the reads.
    elif state and _value(checkpoint.value) == [hash_.get(name.encode()) for name in CHECKPOINT]:
        damage = _damaged_facts(state, _value(facts.value))
    return StoredPartition(
        partition, int(fields.now), state, activity.decode_activity(_value(raw.value)),
        _value(left.value), damage,
    )  # fmt: skip


def _damaged_facts(state: PartitionState, found: int | None) -> str | None:
    if not state.has_checkpoint or found == state.facts:
        return None
    return f"{found or 0} facts where {state.facts} were written"


def _parts(found: Sequence[CommandResult]) -> Iterator[Sequence[CommandResult]]:
    length = len(found) // PER_PARTITION
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
        activity.activity_rates([doing], stored.now) if doing else None,
        stored.damage,
        list(ends.leaderless.get(stored.partition, ())) if ends else [],
        _other_logs(state, ends) if state and ends else [],
        doing.outage if doing and _is_present(stored, doing) else None,
        doing.letters if doing else 0,
    )


def _is_present(stored: StoredPartition, doing: PartitionActivity) -> bool:
    """Whether the present owner wrote the report lately and, without a stamp, after the last."""
    epoch = stored.state.version.epoch if stored.state else None
    if doing.epoch != epoch:
        return False
    return _catches_up(stored) if doing.unstamped else written_ago(stored, doing) <= REPORTED_S


def _other_logs(state: PartitionState, ends: Ends) -> list[Topic]:
    """Return the topics in Kafka whose ids are not those that the owner stored."""
    return [
        topic
        for topic, log in state.logs.items()
        if state.offsets.get(topic)
        and log.topic_id
        and ends.topic_ids.get(topic, log.topic_id) != log.topic_id
    ]


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


def _workers(
    stored: Sequence[StoredPartition], partitions: Iterable[PartitionStatus]
) -> list[WorkerStatus]:
    behind = {p.partition for p in stored if _catches_up(p)}
    waiting = {p.partition for p in stored if p.state and p.state.awaited(p.now)}
    owned: dict[str, list[PartitionStatus]] = {}
    for partition in partitions:
        if partition.owner is not None:
            owned.setdefault(partition.owner, []).append(partition)
    return [
        WorkerStatus(
            owner,
            [partition.partition for partition in theirs],
            min((p.age for p in theirs if p.age is not None), default=None),
            _worker_health(theirs, waiting, behind),
        )
        for owner, theirs in sorted(owned.items())
    ]


def _catches_up(stored: StoredPartition) -> bool:
    """Whether the owner has claimed or reported lately, the latter after it had stopped stamping.

    A report from before that may be of a worker that has ended since.
    """
    state, doing = stored.state, stored.activity
    # An epoch is the time of its claim.
    if state and 0 <= stored.now - state.version.epoch <= LATE_S * 1000:
        return True
    if state is None or doing is None or doing.epoch != state.version.epoch:
        return False
    ago, age = written_ago(stored, doing), _age(state, stored.now)
    return ago <= REPORTED_S and (age is None or age - ago > (0 if doing.unstamped else LATE_S))


def _worker_health(
    partitions: Sequence[PartitionStatus], waiting: set[int], behind: set[int]
) -> WorkerHealth:
    if any(p.state is PartitionHealth.FRESH for p in partitions):
        return WorkerHealth.WORKING
    if any(p.partition in waiting for p in partitions):
        return WorkerHealth.WAITING
    if any(p.partition in behind for p in partitions):
        return WorkerHealth.BEHIND
    return WorkerHealth.SILENT


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
