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
    found = await inspect.inspect_view(world.redis, digest("token-9"))
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


async def test_a_shared_agent_is_shown_with_the_jobs_that_it_is_shared_with(world: World) -> None:
    await world.apply(builders.shared_agent(7, 99, groups=[{"id": 3}]))
    found = await inspect.inspect_agent(world.redis, ViewRules(LEVEL), 7)
    assert [fact.key for fact in found.facts] == ["3/shared-agent/7"]
    assert (found.jobs, found.facts[0].event.topic) == ([9], "agent-config")


# jobs without a digest


@pytest.fixture
async def signed(world: World) -> World:
    """The company with job 12, whose tokens are signed."""
    await world.apply(builders.started(12, 7, token=None, expires_at=FOREVER))
    return world


async def test_a_job_without_a_digest_has_its_record_under_its_id(signed: World) -> None:
    found = await inspect.inspect_job(signed.redis, 12)
    assert found.job_key == "record"
    assert found.token
    assert found.token.record
    assert (found.token.sha256, found.token.record.status) == (None, 200)
    assert [fact.key for fact in found.token.facts] == ["3/job/12"]
    assert [fact.key for fact in found.facts] == ["3/job/12"]
    assert (await inspect.inspect_job(signed.redis, 9)).job_key == "digest"
    agent = await inspect.inspect_agent(signed.redis, ViewRules(LEVEL), 5)
    assert agent.jobs == [9, 12]
    partition = await inspect.inspect_partition(signed.redis, HOME)
    assert partition.live_tokens == 2


@pytest.mark.parametrize(
    ("held", "kind"), [(b"x", "unreadable"), (b"", "unreadable"), (None, None)]
)
async def test_the_facts_of_a_job_are_found_whatever_its_key_holds(
    signed: World, held: bytes | None, kind: str | None
) -> None:
    await signed.redis.delete(schema.job_key(12))
    if held is not None:
        await signed.redis.set(schema.job_key(12), held)
    found = await inspect.inspect_job(signed.redis, 12)
    assert (found.job_key, found.token) == (kind, None)
    assert [fact.key for fact in found.facts] == ["3/job/12"]


async def test_a_key_of_another_type_is_unreadable(signed: World) -> None:
    await signed.redis.delete(schema.job_key(12))
    await signed.redis.rpush(schema.job_key(12), "x")
    assert (await inspect.inspect_job(signed.redis, 12)).job_key == "unreadable"
