"""The wait until answers contain what was sent, by the partitions' checkpoints in Redis.

An owner writes views before the checkpoint that has the next offsets, or both in one call. So the
offsets in Redis are behind the answers, and never ahead of them. Two cases look like exceptions:

- **A first view is held back** until the other topics are as far. The checkpoint has its own field
  for the offset below which none is (`store/partition_state`).
- **An event becomes a dead letter**. It changes no answer, and its offset counts as applied.

A claim by another owner, `projector rebuild` and an emptied Redis take the offsets back or away.
They return behind all views.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from redis.asyncio import Redis

from projector.clients.retry import OUTAGES
from projector.events.model import Topic
from projector.store.partition_state import read_served_offsets

# The offset behind the last record that was sent, by topic and partition.
Positions = dict[tuple[Topic, int], int]

# Most events are in the answers within milliseconds; a long wait costs Redis little.
FIRST_PAUSE_S: Final = 0.002
LONGEST_PAUSE_S: Final = 0.05
# Seconds: an owner stamps four times a second.
SILENT_S: Final = 2.0


async def wait_until_applied(
    redis: Redis, positions: Mapping[tuple[Topic, int], int], timeout_s: float
) -> bool:
    """Wait until the answers contain all records before these positions; False after `timeout_s`.

    While Redis does not answer, the wait goes on.
    """
    waiting = dict(positions)
    pause = FIRST_PAUSE_S
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while waiting:
                with suppress(*OUTAGES):
                    waiting = await _missing(redis, waiting)
                if waiting:
                    await asyncio.sleep(pause)
                    pause = min(LONGEST_PAUSE_S, 2 * pause)
    return not waiting


async def _missing(redis: Redis, positions: Mapping[tuple[Topic, int], int]) -> Positions:
    """Return those of the positions that the answers do not contain."""
    partitions = sorted({partition for _, partition in positions})
    found = await read_served_offsets(redis, partitions)
    offsets = dict(zip(partitions, found, strict=True))
    return {
        (topic, partition): position
        for (topic, partition), position in positions.items()
        if offsets[partition].get(topic, 0) < position
    }
