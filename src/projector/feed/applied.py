"""The wait until answers contain what was sent, by the partitions' checkpoints in Redis.

An owner writes views before the checkpoint that has the next offsets, or both in one call. So the
offsets in Redis are behind the answers, and never ahead of them. Two cases look like exceptions:

- **A first view is held back** until the other topics are as far. The checkpoint has its own field
  for the offset below which none is (`store/partition_state`).
- **An event becomes a dead letter**. It changes no answer, and its offset counts as applied.

An offset counts in its own log alone. The topic of what was sent has an id in Kafka, and the
checkpoint has that of the topic whose events were applied. They differ once a topic was recreated.

A claim by another owner, `projector rebuild` and an emptied Redis take the offsets back or away.
They return behind all views.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.clients.retry import OUTAGES
from projector.elapsed import elapsed
from projector.events.model import Topic
from projector.store import schema
from projector.store.partition_state import PartitionState, read_served_offsets

# The offset behind the last record that was sent, by topic and partition.
Positions = dict[tuple[Topic, int], int]

# Most events are in the answers within milliseconds; a long wait costs Redis little.
FIRST_PAUSE_S: Final = 0.002
LONGEST_PAUSE_S: Final = 0.05
# Seconds: an owner stamps four times a second.
SILENT_S: Final = 2.0
LOOK: Final = "look at `projector status`"


async def wait_until_applied(
    redis: Redis,
    positions: Mapping[tuple[Topic, int], int],
    topic_ids: Mapping[Topic, str],
    timeout_s: float,
    on_outage: Callable[[Exception], None] = lambda _error: None,
) -> bool:
    """Wait until the answers contain all records before these positions; False after `timeout_s`.

    `topic_ids` are those in Kafka, read after the records were acknowledged.
    While Redis does not answer, the wait goes on; a call of its client lasts at most some seconds.
    `on_outage` gets the error of each such call.
    """
    deadline = elapsed() + timeout_s
    waiting = dict(positions)
    pause = FIRST_PAUSE_S
    while waiting:
        # Without a timeout around the call: a client may lose its cancellation.
        try:
            waiting = await _missing(redis, waiting, topic_ids)
        except OUTAGES as error:
            on_outage(error)
        if not waiting or (left := deadline - elapsed()) <= 0:
            break
        await asyncio.sleep(min(pause, left))
        pause = min(LONGEST_PAUSE_S, 2 * pause)
    return not waiting


async def _missing(
    redis: Redis, positions: Mapping[tuple[Topic, int], int], topic_ids: Mapping[Topic, str]
) -> Positions:
    """Return those of the positions that the answers do not contain."""
    partitions = sorted({partition for _, partition in positions})
    found = await read_served_offsets(redis, partitions, topic_ids)
    offsets = dict(zip(partitions, found, strict=True))
    return {
        (topic, partition): position
        for (topic, partition), position in positions.items()
        if offsets[partition].get(topic, 0) < position
    }


class Delay(NamedTuple):
    """The reason that answers lack events, in words around the partitions, and the advice."""

    before: str
    after: str
    advice: str


async def find_delays(
    redis: Redis, positions: Mapping[tuple[Topic, int], int], topic_ids: Mapping[Topic, str]
) -> dict[Delay, list[int]]:
    """Return why answers lack records before these positions, and in which partitions.

    Raises `RedisError`.
    """
    missing = await _missing(redis, positions, topic_ids)
    partitions = sorted({partition for _, partition in missing})
    commands = [("HGETALL", schema.partition_key(partition)) for partition in partitions]
    found = await redis_batch.execute(redis, commands)
    delays: defaultdict[Delay, list[int]] = defaultdict(list)
    for partition, state in zip(partitions, found, strict=True):
        delays[_delay(state.value, state.now, topic_ids)].append(partition)
    return delays


def _delay(fields: object, now_ms: float, topic_ids: Mapping[Topic, str]) -> Delay:
    state = _decode(fields)
    if state is None or not state.version.epoch:
        return Delay("no worker has claimed", "", "start `projector worker` on this Redis")
    if any(log.is_of_another(topic_ids.get(topic, "")) for topic, log in state.logs.items()):
        after = " in Kafka are not those whose events were applied"
        return Delay("the topics of", after, LOOK)
    if state.stamp is None:
        return Delay(f"worker {state.owner} has not yet stamped", "", LOOK)
    silent_s = (now_ms - state.stamp) / 1000
    if silent_s > SILENT_S:
        return Delay(f"worker {state.owner} has not stamped", f" for {silent_s:.0f} s", LOOK)
    return Delay(f"worker {state.owner} still applies events of", "", "wait longer with --wait")


def _decode(fields: object) -> PartitionState | None:
    try:
        return PartitionState.decode(fields) if isinstance(fields, dict) else None
    except ValueError:
        return None
