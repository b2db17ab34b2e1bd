"""The wait for answers that contain what was sent, by the offsets in Redis."""

import asyncio
from typing import Any

import fakeredis
import pytest

from projector.events.model import Topic
from projector.feed.applied import Positions, wait_until_applied
from projector.store import schema
from projector.store.partition_state import SERVED_JOBS

POSITIONS: Positions = {(Topic.MEMBERSHIP, 0): 5, (Topic.AGENT_CONFIG, 1): 7}
JOB: Positions = {(Topic.JOB_LIFECYCLE, 0): 5}
# Seconds: nothing is to come.
SOON = 0.05
# Seconds: bounds a test that hangs.
LATER = 5


@pytest.fixture
def redis() -> Any:
    return fakeredis.FakeAsyncRedis()


async def checkpoint(redis: Any, partition: int, **offsets: object) -> None:
    fields = {f"offset:{Topic[name.upper()]}": str(at) for name, at in offsets.items()}
    await redis.hset(schema.partition_key(partition), mapping=fields)


async def test_it_ends_once_every_partition_has_the_offsets(redis: Any) -> None:
    await checkpoint(redis, 0, membership=4, agent_config=9)
    waiting = asyncio.create_task(wait_until_applied(redis, POSITIONS, LATER))
    for partition, offsets in ((0, {"membership": 5}), (1, {"membership": 9, "agent_config": 8})):
        await asyncio.sleep(SOON)
        assert not waiting.done()
        await checkpoint(redis, partition, **offsets)
    assert await waiting


@pytest.mark.parametrize("offset", [4, "five", ""])
async def test_time_runs_out_for_a_partition_that_is_not_as_far(redis: Any, offset: object) -> None:
    await checkpoint(redis, 0, membership=5)
    await checkpoint(redis, 1, agent_config=offset)
    assert not await wait_until_applied(redis, POSITIONS, SOON)


async def test_partitions_that_no_worker_has_claimed_are_waited_for(redis: Any) -> None:
    assert not await wait_until_applied(redis, POSITIONS, SOON)
    await redis.set(schema.partition_key(0), "another type")
    assert not await wait_until_applied(redis, POSITIONS, SOON)


async def test_a_first_view_that_is_held_back_is_waited_for(redis: Any) -> None:
    await checkpoint(redis, 0, job_lifecycle=9)
    await redis.hset(schema.partition_key(0), SERVED_JOBS, 4)
    assert not await wait_until_applied(redis, JOB, SOON)
    await redis.hset(schema.partition_key(0), SERVED_JOBS, 5)
    assert await wait_until_applied(redis, JOB, SOON)


async def test_the_checkpoint_of_an_older_worker_counts(redis: Any) -> None:
    await checkpoint(redis, 0, job_lifecycle=5)
    assert await wait_until_applied(redis, JOB, SOON)


async def test_an_older_worker_may_have_left_a_higher_offset_of_first_views(redis: Any) -> None:
    """It begins anew without the field, which a later worker had written."""
    await checkpoint(redis, 0, job_lifecycle=4)
    await redis.hset(schema.partition_key(0), SERVED_JOBS, 9)
    assert not await wait_until_applied(redis, JOB, SOON)


async def test_the_wait_goes_on_while_redis_does_not_answer() -> None:
    server = fakeredis.FakeServer()
    server.connected = False
    redis: Any = fakeredis.FakeAsyncRedis(server=server)
    waiting = asyncio.create_task(wait_until_applied(redis, JOB, LATER))
    await asyncio.sleep(SOON)
    assert not waiting.done()
    server.connected = True
    await checkpoint(redis, 0, job_lifecycle=5)
    assert await waiting


async def test_nothing_to_wait_for_needs_no_redis() -> None:
    assert await wait_until_applied(fakeredis.FakeAsyncRedis(connected=False), {}, LATER)
