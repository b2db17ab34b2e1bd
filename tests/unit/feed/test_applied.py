"""The wait for answers that contain what was sent, by the offsets in Redis."""

import asyncio
from typing import Any, Final

import fakeredis
import pytest

from projector.events.model import Topic
from projector.feed.applied import Positions, wait_until_applied
from projector.store import schema
from projector.store.partition_state import SERVED_JOBS

POSITIONS: Positions = {(Topic.MEMBERSHIP, 0): 5, (Topic.AGENT_CONFIG, 1): 7}
JOB: Positions = {(Topic.JOB_LIFECYCLE, 0): 5}
# Of topics in Kafka.
IDS: Final = {topic: f"id-of-{topic}" for topic in Topic}
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


async def serve(redis: Any, served: str | None) -> None:
    fields = {"epoch": "7"} | ({} if served is None else {SERVED_JOBS: served})
    await redis.hset(schema.partition_key(0), mapping=fields)


async def test_it_ends_once_every_partition_has_the_offsets(redis: Any) -> None:
    await checkpoint(redis, 0, membership=4, agent_config=9)
    waiting = asyncio.create_task(wait_until_applied(redis, POSITIONS, IDS, LATER))
    for partition, offsets in ((0, {"membership": 5}), (1, {"membership": 9, "agent_config": 8})):
        await asyncio.sleep(SOON)
        assert not waiting.done()
        await checkpoint(redis, partition, **offsets)
    assert await waiting


@pytest.mark.parametrize("offset", [4, "five", ""])
async def test_time_runs_out_for_a_partition_that_is_not_as_far(redis: Any, offset: object) -> None:
    await checkpoint(redis, 0, membership=5)
    await checkpoint(redis, 1, agent_config=offset)
    assert not await wait_until_applied(redis, POSITIONS, IDS, SOON)


async def test_partitions_that_no_worker_has_claimed_are_waited_for(redis: Any) -> None:
    assert not await wait_until_applied(redis, POSITIONS, IDS, SOON)
    await redis.set(schema.partition_key(0), "another type")
    assert not await wait_until_applied(redis, POSITIONS, IDS, SOON)


async def test_a_first_view_that_is_held_back_is_waited_for(redis: Any) -> None:
    await checkpoint(redis, 0, job_lifecycle=9)
    await serve(redis, "7 4")
    assert not await wait_until_applied(redis, JOB, IDS, SOON)
    await serve(redis, "7 5")
    assert await wait_until_applied(redis, JOB, IDS, SOON)


@pytest.mark.parametrize("served", [None, "", "9", "6 9", "8 9", "7 ", "7 x", "7 9 9"])
async def test_a_job_is_waited_for_until_its_owner_names_what_is_served(
    redis: Any, served: str | None
) -> None:
    """An older worker does not, and leaves what an owner before it has written."""
    await checkpoint(redis, 0, job_lifecycle=9)
    await serve(redis, served)
    assert not await wait_until_applied(redis, JOB, IDS, SOON)


async def test_first_views_count_up_to_the_next_offset_alone(redis: Any) -> None:
    await checkpoint(redis, 0, job_lifecycle=4)
    await serve(redis, "7 9")
    assert not await wait_until_applied(redis, JOB, IDS, SOON)


@pytest.mark.parametrize(
    ("log", "is_applied"),
    [
        ("id-of-membership 4 90 00ff", True),
        ("id-of-membership", True),
        ("- 4 90 00ff", True),
        ("another-id 4 90 00ff", False),
        ("another-id", False),
        ("id-of-membership 4", False),
        ("\udcff", False),
    ],
)
async def test_an_offset_counts_in_its_own_log_alone(
    redis: Any, log: str, is_applied: bool
) -> None:
    await checkpoint(redis, 0, membership=1000)
    field = log.encode(errors="surrogateescape")
    await redis.hset(schema.partition_key(0), f"log:{Topic.MEMBERSHIP}", field)
    positions = {(Topic.MEMBERSHIP, 0): 6}
    assert await wait_until_applied(redis, positions, IDS, SOON) == is_applied


async def test_without_ids_in_kafka_the_offset_counts(redis: Any) -> None:
    await checkpoint(redis, 0, membership=1000)
    await redis.hset(schema.partition_key(0), f"log:{Topic.MEMBERSHIP}", "another-id")
    assert await wait_until_applied(redis, {(Topic.MEMBERSHIP, 0): 6}, {}, SOON)


async def test_the_wait_goes_on_while_redis_does_not_answer() -> None:
    server = fakeredis.FakeServer()
    server.connected = False
    redis: Any = fakeredis.FakeAsyncRedis(server=server)
    waiting = asyncio.create_task(wait_until_applied(redis, JOB, IDS, LATER))
    await asyncio.sleep(SOON)
    assert not waiting.done()
    server.connected = True
    await checkpoint(redis, 0, job_lifecycle=5)
    await serve(redis, "7 5")
    assert await waiting


async def test_nothing_to_wait_for_needs_no_redis() -> None:
    assert await wait_until_applied(fakeredis.FakeAsyncRedis(connected=False), {}, IDS, LATER)
