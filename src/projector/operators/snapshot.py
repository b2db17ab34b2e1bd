"""A partition's facts as read from its checkpoint, by a process that does not own it.

The owner goes on writing while the checkpoint is read. A fact that changed meanwhile shows by its
offset. The tokens whose views it may change are in doubt until the next snapshot. All others are as
of one revision.
"""

import asyncio
from collections.abc import Iterable
from itertools import chain
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct
from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.domain import entities, fact_keys, facts
from projector.domain.fact_keys import Key
from projector.domain.index.fact_index import FactIndex
from projector.errors import SnapshotError
from projector.events.model import Topic
from projector.store import schema
from projector.store.checkpoint_writes import FIELDS_PER_CALL
from projector.store.partition_state import PartitionState
from projector.store.schema import Version

# Give up on a checkpoint that is not written to its end, or stays behind its views.
PATIENCE_S: Final = 5.0
PAUSE_S: Final = 0.1


class Snapshot(NamedTuple):
    """The facts of a partition as of `state`, at `now` (ms of Redis TIME).

    `state` was read before the facts, so these are not older. `in_doubt` are the tokens whose facts
    changed during the reading.
    """

    partition: int
    state: PartitionState
    facts: FactIndex
    in_doubt: frozenset[str]
    now: int


class _FactOffset(Struct):
    """The one field of a fact that decides whether it is newer than the state."""

    offset: int


_OFFSET_DECODER: Final = msgspec.json.Decoder(_FactOffset)


async def read_snapshot(redis: Redis, partition: int, reached: Version | None = None) -> Snapshot:
    """Read the partition's facts, not older than the version `reached`.

    Waits up to `PATIENCE_S` for that checkpoint. Raises `SnapshotError` if there is no complete
    checkpoint, or only older ones, and `RedisError`.
    """
    before = await _complete_state(redis, partition, reached)
    stored: dict[bytes, bytes] = {}
    async for field, value in redis.hscan_iter(schema.facts_key(partition), count=FIELDS_PER_CALL):
        stored[field] = value
    after = await _checked_state(redis, partition)
    now = await redis_batch.server_time(redis, schema.facts_key(partition))
    if after is None or after.version.epoch != before.version.epoch:
        raise SnapshotError(
            f"another worker claimed partition {partition} while it was read; ask again"
        )
    if not after.has_checkpoint:
        raise SnapshotError(_not_ready(partition, after, None))
    if after.version == before.version and len(stored) != before.facts:
        raise _incomplete(partition, len(stored), before.facts)
    try:
        # In a thread: indexing 100,000 facts takes half a second, too long for the event loop.
        index, in_doubt = await asyncio.to_thread(_index, stored, before.offsets)
    except (ValueError, LookupError) as error:
        raise SnapshotError(f"a fact of partition {partition} is unreadable: {error!r}") from None
    return Snapshot(partition, before, index, in_doubt, now)


async def _complete_state(redis: Redis, partition: int, reached: Version | None) -> PartitionState:
    """Wait until the checkpoint is complete and not older than `reached`; return its state."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        found = await _checked_state(redis, partition)
        if found and found.has_checkpoint and (reached is None or found.version >= reached):
            return found
        if asyncio.get_running_loop().time() > deadline:
            raise SnapshotError(_not_ready(partition, found, reached))
        await asyncio.sleep(PAUSE_S)


async def _checked_state(redis: Redis, partition: int) -> PartitionState | None:
    """Read the state; refuse a checkpoint that lacks facts, since a lost fact may revoke."""
    state = ("HGETALL", schema.partition_key(partition))
    answers = await redis_batch.execute(
        redis, [state, ("HLEN", schema.facts_key(partition)), state]
    )
    for answer in answers:
        if isinstance(answer.value, Exception):
            raise answer.value
    found, later = (_decoded(partition, answers[at].value) for at in (0, 2))
    count = answers[1].value
    # A checkpoint written between the reads has another count, and another version.
    is_same = found and later and found.version == later.version
    if found and is_same and found.has_checkpoint and found.facts != count:
        raise _incomplete(partition, count, found.facts)
    return found


def _incomplete(partition: int, count: int, written: int | None) -> SnapshotError:
    return SnapshotError(
        f"partition {partition} has {count} facts where {written} were written",
        f"read everything from Kafka again: `projector rebuild --partition {partition}`",
    )


async def read_state(redis: Redis, partition: int) -> PartitionState | None:
    """Read the partition's state, None before the first claim; raises `SnapshotError`."""
    fields: dict[Any, Any] = await redis.hgetall(schema.partition_key(partition))
    return _decoded(partition, fields)


def _decoded(partition: int, fields: dict[Any, Any]) -> PartitionState | None:
    try:
        return PartitionState.decode(fields)
    except ValueError as error:
        raise SnapshotError(f"{schema.partition_key(partition)} is unreadable: {error}") from None


def _not_ready(partition: int, found: PartitionState | None, reached: Version | None) -> str:
    if found is None or found.facts is None:
        return f"partition {partition} has no checkpoint; is a worker running?"
    if not found.has_checkpoint:
        return f"the checkpoint of partition {partition} is not written to its end; ask again"
    return (
        f"the checkpoint of partition {partition} is behind its views: {found.version}, not yet "
        f"{reached}; is a worker running?"
    )


def _index(
    stored: dict[bytes, bytes], offsets: dict[Topic, int]
) -> tuple[FactIndex, frozenset[str]]:
    """Index the facts; find the tokens that facts from `offsets` on may have changed."""
    older: dict[bytes, bytes] = {}
    newer: dict[Key, bytes] = {}
    for key, raw in _facts(stored):
        next_offset = offsets.get(entities.TOPIC_OF_KIND[fact_keys.kind_of(key)], 0)
        if _OFFSET_DECODER.decode(raw).offset < next_offset:
            older[key.encode()] = raw
        else:
            newer[key] = raw
    index = FactIndex()
    for _ in chain(index.load(older), index.settle()):
        pass
    for key, raw in newer.items():
        for _ in index.put(key, facts.decode_fact(key, raw)):
            pass
    in_doubt = frozenset(index.dirty)
    index.dirty.clear()
    return index, in_doubt


def _facts(stored: dict[bytes, bytes]) -> Iterable[tuple[Key, bytes]]:
    """Leave out the references to dead letters, which are fields of the same hash."""
    for field, raw in stored.items():
        key = Key(field.decode(errors="replace"))
        if key.count("/") >= 2 and fact_keys.kind_of(key) in entities.ENTITY_KINDS:
            yield key, raw
