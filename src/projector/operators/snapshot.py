"""One partition's facts as they stand in its checkpoint, for those who ask and do not own it.

The owner goes on writing while the checkpoint is being read. What changed meanwhile is known by
its offset, and with it the tokens whose views it may change: those are in doubt until the next
snapshot, all others are as of one revision.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.domain import entities, fact_keys, facts
from projector.domain.fact_index import FactIndex
from projector.domain.fact_keys import Key
from projector.errors import SnapshotError
from projector.events.model import Topic
from projector.store import schema
from projector.store.partition_state import PartitionState
from projector.store.schema import Version

FIELDS_PER_CALL: Final = 1000
PATIENCE_S: Final = 5.0
PAUSE_S: Final = 0.1


class Snapshot(NamedTuple):
    """The facts of a partition as of `state`, at `now` (ms of Redis TIME).

    `state` is from before they were read: the facts are no older. `in_doubt` are the tokens that
    facts changed for while they were being read.
    """

    partition: int
    state: PartitionState
    facts: FactIndex
    in_doubt: frozenset[str]
    now: int


async def read_snapshot(redis: Redis, partition: int, reached: Version | None = None) -> Snapshot:
    """The partition's facts, no older than the checkpoint that `reached` names.

    Waits some seconds for that checkpoint. Raises `SnapshotError` if there is no whole checkpoint
    or none so new, and `RedisError`.
    """
    before = await _whole(redis, partition, reached)
    stored: dict[bytes, bytes] = {}
    async for field, value in redis.hscan_iter(schema.facts_key(partition), count=FIELDS_PER_CALL):
        stored[field] = value
    after = await _counted(redis, partition)
    now = await redis_batch.server_time(redis, schema.facts_key(partition))
    if after is None or after.version.epoch != before.version.epoch:
        raise SnapshotError(
            f"partition {partition} was claimed by another worker while it was read; ask again"
        )
    if not after.has_checkpoint:
        raise SnapshotError(_unready(partition, after, None))
    if after.version == before.version and len(stored) != before.facts:
        raise SnapshotError(_incomplete(partition, len(stored), before.facts))
    try:
        # Beside the event loop: a hundred thousand facts take about a second.
        known, in_doubt = await asyncio.to_thread(_assembled, stored, before.offsets)
    except (ValueError, LookupError) as error:
        raise SnapshotError(f"a fact of partition {partition} is unreadable: {error!r}") from None
    return Snapshot(partition, before, known, in_doubt, now)


async def _whole(redis: Redis, partition: int, reached: Version | None) -> PartitionState:
    """The state once its checkpoint is whole and goes as far as `reached`."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        found = await _counted(redis, partition)
        if found and found.has_checkpoint and (reached is None or found.version >= reached):
            return found
        if asyncio.get_running_loop().time() > deadline:
            raise SnapshotError(_unready(partition, found, reached))
        await asyncio.sleep(PAUSE_S)


async def _counted(redis: Redis, partition: int) -> PartitionState | None:
    """The state, once as many facts are there as it says: a lost one may be what refuses."""
    state = ("HGETALL", schema.partition_key(partition))
    answers = await redis_batch.execute(
        redis, [state, ("HLEN", schema.facts_key(partition)), state]
    )
    for answer in answers:
        if isinstance(answer.value, Exception):
            raise answer.value
    found, later = (_decoded(partition, answers[at].value) for at in (0, 2))
    count = answers[1].value
    # A checkpoint that came in between has another count, and another version.
    is_of_one_moment = found and later and found.version == later.version
    if found and is_of_one_moment and found.has_checkpoint and found.facts != count:
        raise SnapshotError(_incomplete(partition, count, found.facts))
    return found


def _incomplete(partition: int, count: int, written: int | None) -> str:
    return (
        f"partition {partition} has {count} facts where {written} were written; "
        "the next worker that claims it reads everything from Kafka again"
    )


async def state(redis: Redis, partition: int) -> PartitionState | None:
    """The partition's state, None without a claim; `SnapshotError` where it cannot be read."""
    fields: dict[Any, Any] = await redis.hgetall(schema.partition_key(partition))
    return _decoded(partition, fields)


def _decoded(partition: int, fields: dict[Any, Any]) -> PartitionState | None:
    try:
        return PartitionState.decode(fields)
    except ValueError as error:
        raise SnapshotError(f"{schema.partition_key(partition)} is unreadable: {error}") from None


def _unready(partition: int, found: PartitionState | None, reached: Version | None) -> str:
    if found is None or found.facts is None:
        return f"partition {partition} has no checkpoint; is a worker running?"
    if not found.has_checkpoint:
        return f"the checkpoint of partition {partition} is not written to its end; ask again"
    return (
        f"the checkpoint of partition {partition} is behind its views: {found.version}, not yet "
        f"{reached}; is a worker running?"
    )


def _assembled(
    stored: dict[bytes, bytes], offsets: dict[Topic, int]
) -> tuple[FactIndex, frozenset[str]]:
    """The facts, and the tokens that those from `offsets` on may have changed."""
    known, newer = FactIndex(), []
    for key, raw in _things(stored):
        fact = facts.decode_fact(key, raw)
        if fact.offset < offsets.get(entities.TOPIC_OF_KIND[fact_keys.kind_of(key)], 0):
            known.put(key, fact)
        else:
            newer.append((key, fact))
    known.dirty.clear()
    for key, fact in newer:
        known.put(key, fact)
    in_doubt = frozenset(known.dirty)
    known.dirty.clear()
    return known, in_doubt


def _things(stored: dict[bytes, bytes]) -> Iterable[tuple[Key, bytes]]:
    """The facts among the fields: references to dead letters stand beside them."""
    for field, raw in stored.items():
        key = Key(field.decode(errors="replace"))
        if key.count("/") >= 2 and fact_keys.kind_of(key) in entities.ENTITY_KINDS:
            yield key, raw
