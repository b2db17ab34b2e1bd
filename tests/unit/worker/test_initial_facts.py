"""A new owner begins with the checkpoint, if it is whole."""

from typing import Any

import pytest

from projector.events.model import Topic
from projector.store import schema
from tests import builders
from tests.unit.worker.owned_partition import COMPANY, PARTITION, Setup, running


async def test_a_restarted_owner_goes_on_from_the_checkpoint(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        pass
    epoch = await setup.field("epoch")
    setup.kafka.reads.clear()
    setup.kafka.add(builders.removed("agent", 5))
    await setup.redis.hdel(schema.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("another"):
        assert await setup.agents() == []
    assert await setup.field("epoch") != epoch
    assert [starts for starts, _ in setup.kafka.reads] == [
        {Topic.MEMBERSHIP: 3, Topic.AGENT_CONFIG: 1, Topic.JOB_LIFECYCLE: 1}
    ]


async def test_facts_that_redis_repeats_are_counted_once(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HSCAN may bring a field more than once, and does while its hash is being resized."""
    setup.kafka.add(b"{", *COMPANY, builders.started(9, 7))
    setup.kafka.takes_letters = False
    async with setup.owning():
        pass
    hscan = setup.redis.hscan

    async def repeated(name: str, cursor: int, count: int) -> Any:
        _, fields = await hscan(name, 0, count=count)
        return 0 if cursor else 1, fields

    monkeypatch.setattr(setup.redis, "hscan", repeated)
    setup.kafka.reads.clear()
    await setup.redis.hdel(schema.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("another"):
        assert await setup.agents() == [5]
    # The letter's record alone.
    assert {ends[Topic.MEMBERSHIP] for _, ends in setup.kafka.reads} == {1}


async def test_where_a_fact_is_missing_everything_is_read_again(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        pass
    await setup.redis.hdel(schema.facts_key(PARTITION), "3/agent/5")
    setup.kafka.reads.clear()
    await setup.redis.hdel(schema.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("another"):
        assert await setup.agents() == [5]
    assert [starts for starts, _ in setup.kafka.reads] == [dict.fromkeys(Topic, 0)]


async def test_a_damaged_partition_hash_is_read_again_from_kafka(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    held = schema.partition_key(PARTITION)
    for name in ("epoch", "revision", "facts", "of-a-later-version"):
        await setup.redis.hset(held, name, "v")
    async with setup.owning():
        assert await setup.agents() == [5]
        assert await setup.field("of-a-later-version") == b"v"


async def test_a_field_that_is_no_fact_is_a_checkpoint_that_cannot_be_used(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        pass
    await setup.redis.hset(schema.facts_key(PARTITION), "stray", b"{}")
    await setup.redis.hdel(schema.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("next"):
        assert await setup.agents() == [5]
        assert not await setup.redis.hexists(schema.facts_key(PARTITION), "stray")


async def test_a_checkpoint_that_cannot_be_used_needs_the_whole_history(setup: Setup) -> None:
    """Kafka no longer has the first membership events, which only the checkpoint's facts held."""
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        pass
    await setup.redis.hdel(schema.facts_key(PARTITION), "3/agent/5")
    await setup.redis.hdel(schema.partition_key(PARTITION), "stamp")
    setup.kafka.begins = setup.kafka.begins | {Topic.MEMBERSHIP: 2}
    async with running(setup.new_owner("next")):
        assert await setup.field("stamp") is None
