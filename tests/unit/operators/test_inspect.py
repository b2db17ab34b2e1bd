"""Jobs, tokens, partitions and agents are read from Redis; missing ones are named."""

import pytest

from projector.domain.decision import ViewRules
from projector.errors import NoSuchPartitionError, NotReadyError, SnapshotError
from projector.operators import inspect
from projector.store import schema
from tests import builders
from tests.builders import digest
from tests.unit.operators import worlds
from tests.unit.operators.worlds import FOREVER, HOME, LEVEL, PARTITIONS, World


@pytest.fixture
async def world() -> World:
    return await worlds.filled()


async def test_a_job_without_a_record_is_searched_in_all_partitions(world: World) -> None:
    await world.redis.delete(schema.record_key(digest("token-9")))
    found = await inspect.inspect_job(world.redis, 9)
    assert found.token
    assert (found.token.record, found.token.facts) == (None, [])
    assert [(fact.partition, fact.key) for fact in found.facts] == [(HOME, "3/job/9")]


async def test_a_body_that_is_not_json_is_text(world: World) -> None:
    key = schema.record_key(digest("token-9"))
    header = (await world.redis.get(key)).partition(b"{")[0]
    await world.redis.set(key, header + b"{\xff", keepttl=True)
    found = await inspect.inspect_token(world.redis, digest("token-9"))
    assert found.record
    assert found.record.body == "{\\xff"


async def test_a_partition_that_does_not_exist_is_named(world: World) -> None:
    with pytest.raises(NoSuchPartitionError, match="there is no partition 2; there are 2, 0 to 1"):
        await inspect.inspect_partition(world.redis, PARTITIONS)


async def test_a_partition_that_no_worker_has_claimed_is_named(world: World) -> None:
    await world.redis.delete(schema.partition_key(HOME))
    with pytest.raises(NotReadyError, match=f"no worker has claimed partition {HOME} yet"):
        await inspect.inspect_partition(world.redis, HOME)


async def test_a_field_that_cannot_be_read_is_named(world: World) -> None:
    await world.redis.hset(schema.facts_key(HOME), "3/job/9", "garbage")
    with pytest.raises(SnapshotError, match=f"the field 3/job/9 of partition {HOME} is unreadable"):
        await inspect.inspect_partition(world.redis, HOME)


async def test_of_many_jobs_some_are_named_and_all_are_counted(world: World) -> None:
    jobs = range(10, 10 + inspect.MAX_JOBS)
    await world.apply(*(builders.started(job, 7, expires_at=FOREVER) for job in jobs))
    found = await inspect.inspect_agent(world.redis, ViewRules(LEVEL), 5)
    assert (found.jobs[0], len(found.jobs)) == (9, inspect.MAX_JOBS)
    assert found.jobs_total == inspect.MAX_JOBS + 1
