"""What others read of a partition while its owner goes on: exact, or said to be in doubt."""

from collections.abc import AsyncIterator
from typing import Any

import fakeredis
import pytest

from projector.clients.redis_servers import RedisServers
from projector.domain import fact_keys
from projector.domain.projection import Policy, Projection
from projector.errors import SnapshotError
from projector.events.model import Topic
from projector.operators import snapshot
from projector.store import schema
from projector.store.partition_store import PartitionStore
from projector.store.schema import Version
from tests import builders
from tests.builders import digest

FACTS = schema.facts_key(0)


@pytest.fixture
async def redis() -> AsyncIterator[fakeredis.FakeAsyncRedis]:
    async with fakeredis.FakeAsyncRedis() as client:
        yield client


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "PATIENCE_S", 0.05)
    monkeypatch.setattr(snapshot, "PAUSE_S", 0.01)


class Owned:
    """A partition whose owner applies events and checkpoints them."""

    def __init__(self, redis: fakeredis.FakeAsyncRedis) -> None:
        self.store = PartitionStore(redis, RedisServers(), 0, "me")
        self.projection = Projection(0, Policy(1, 30, 1000))
        self.feed = builders.Feed()
        self.next = dict.fromkeys(Topic, 0)

    async def apply(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            record = self.feed(message)
            assert self.projection.apply(record) is None
            self.next[record.topic] = record.offset + 1
        changes = builders.take_changes(self.projection, builders.NOW)
        await self.store.checkpoint(self.next, changes.facts, len(self.projection.facts))


async def owned(redis: fakeredis.FakeAsyncRedis) -> Owned:
    partition = Owned(redis)
    await partition.store.claim(1)
    await partition.apply(
        builders.project(7),
        builders.member(1, project_id=7),
        builders.started(9, 7),
        builders.started(8, 7, 2),
    )
    return partition


async def test_a_snapshot_holds_the_facts_of_the_checkpoint(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    partition = await owned(redis)
    found = await snapshot.read_snapshot(redis, 0)
    assert dict(found.facts.items()) == dict(partition.projection.facts.items())
    assert found.state.version == partition.store.version
    assert found.in_doubt == frozenset()


async def test_a_reference_to_a_dead_letter_is_no_fact(redis: fakeredis.FakeAsyncRedis) -> None:
    partition = await owned(redis)
    letter = fact_keys.Key("*/dead-letter/membership:41")
    await partition.store.checkpoint(partition.next, {letter: b"{}"}, 5)
    assert len((await snapshot.read_snapshot(redis, 0)).facts) == 4


async def test_what_changes_while_it_is_read_leaves_its_tokens_in_doubt_and_no_others(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = await owned(redis)
    whole = snapshot._counted
    calls = 0

    async def then_the_owner_goes_on(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        state = await whole(*args)
        if calls == 1:
            await partition.apply(builders.member(1, "guest", project_id=7))
        return state

    monkeypatch.setattr(snapshot, "_counted", then_the_owner_goes_on)
    found = await snapshot.read_snapshot(redis, 0)
    assert found.in_doubt == {digest("token-9")}


async def test_it_waits_for_the_checkpoint_that_made_a_view_valid(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    partition = await owned(redis)
    epoch, revision = partition.store.version
    await snapshot.read_snapshot(redis, 0, Version(epoch, revision))
    with pytest.raises(SnapshotError, match="behind its views"):
        await snapshot.read_snapshot(redis, 0, Version(epoch, revision + 1))


async def test_a_checkpoint_that_is_not_there_or_not_whole_is_refused(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    with pytest.raises(SnapshotError, match="no checkpoint"):
        await snapshot.read_snapshot(redis, 0)
    partition = await owned(redis)
    await partition.store.checkpoint(partition.next, {}, -1)
    with pytest.raises(SnapshotError, match="not written to its end"):
        await snapshot.read_snapshot(redis, 0)


async def test_a_lost_fact_is_noticed(redis: fakeredis.FakeAsyncRedis) -> None:
    await owned(redis)
    await redis.hdel(FACTS, "3/project/7")
    with pytest.raises(SnapshotError, match="3 facts where 4"):
        await snapshot.read_snapshot(redis, 0)


async def test_a_lost_fact_is_noticed_though_the_owner_goes_on(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    """It may be what refuses: a blocked user, a removed membership."""
    partition = await owned(redis)
    await redis.hdel(FACTS, "3/member/project:7/user:1/direct")
    await partition.apply(builders.group(4))
    with pytest.raises(SnapshotError, match="4 facts where 5"):
        await snapshot.read_snapshot(redis, 0)


async def test_a_checkpoint_that_is_given_up_while_it_is_read_is_refused(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = await owned(redis)
    counted = snapshot._counted

    async def then_it_is_forgotten(*args: Any) -> Any:
        found = await counted(*args)
        await partition.store.forget_checkpoint()
        return found

    monkeypatch.setattr(snapshot, "_counted", then_it_is_forgotten)
    with pytest.raises(SnapshotError, match="no checkpoint"):
        await snapshot.read_snapshot(redis, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("3/project/7", b"garbage"), ("3/member/nowhere", b'{"offset":0,"timestamp":0}')],
)
async def test_a_fact_that_cannot_be_read_is_named_and_no_crash(
    redis: fakeredis.FakeAsyncRedis, field: str, value: bytes
) -> None:
    partition = await owned(redis)
    await redis.hset(FACTS, field, value)
    await partition.store.checkpoint(partition.next, {}, await redis.hlen(FACTS))
    with pytest.raises(SnapshotError, match="unreadable"):
        await snapshot.read_snapshot(redis, 0)
