"""A snapshot of a partition whose owner goes on writing: exact, or marked as in doubt."""

from collections.abc import AsyncIterator
from typing import Any

import fakeredis
import pytest

from projector.domain import fact_keys
from projector.errors import SnapshotError
from projector.operators import snapshot
from projector.store import schema
from projector.store.schema import Version
from tests import builders
from tests.builders import digest
from tests.unit.operators.worlds import FOREVER, HOME, OwnedPartition

FACTS = schema.facts_key(HOME)


@pytest.fixture
async def redis() -> AsyncIterator[fakeredis.FakeAsyncRedis]:
    async with fakeredis.FakeAsyncRedis() as client:
        yield client


async def owned(redis: fakeredis.FakeAsyncRedis) -> OwnedPartition:
    partition = OwnedPartition(redis)
    await partition.claim()
    await partition.apply(
        builders.project(7),
        builders.member(1, project_id=7),
        builders.started(9, 7, expires_at=FOREVER),
        builders.started(8, 7, 2, expires_at=FOREVER),
    )
    return partition


async def test_a_snapshot_holds_the_facts_of_the_checkpoint(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    partition = await owned(redis)
    found = await snapshot.read_snapshot(redis, HOME)
    assert dict(found.facts.items()) == dict(partition.projection.facts.items())
    assert found.state.version == partition.store.version
    assert found.in_doubt == frozenset()


async def test_a_reference_to_a_dead_letter_is_no_fact(redis: fakeredis.FakeAsyncRedis) -> None:
    partition = await owned(redis)
    letter = fact_keys.Key("*/dead-letter/membership:41")
    await partition.store.checkpoint(partition.next, {letter: b"{}"}, 5)
    assert len((await snapshot.read_snapshot(redis, HOME)).facts) == 4


async def test_what_changes_while_it_is_read_leaves_its_tokens_in_doubt_and_no_others(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = await owned(redis)
    whole = snapshot._checked_state
    calls = 0

    async def then_the_owner_goes_on(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        state = await whole(*args)
        if calls == 1:
            await partition.apply(builders.member(1, "guest", project_id=7))
        return state

    monkeypatch.setattr(snapshot, "_checked_state", then_the_owner_goes_on)
    found = await snapshot.read_snapshot(redis, HOME)
    assert found.in_doubt == {digest("token-9")}


async def test_a_group_that_changes_while_it_is_read_leaves_all_tokens_below_it_in_doubt(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = await owned(redis)
    await partition.apply(builders.group(3), builders.project(7, 3))
    checked = snapshot._checked_state
    calls = 0

    async def then_the_owner_goes_on(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        state = await checked(*args)
        if calls == 1:
            await partition.apply(builders.group(3, 4))
        return state

    monkeypatch.setattr(snapshot, "_checked_state", then_the_owner_goes_on)
    found = await snapshot.read_snapshot(redis, HOME)
    assert found.in_doubt == {digest("token-9"), digest("token-8")}


async def test_it_waits_for_the_checkpoint_that_made_a_view_valid(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    partition = await owned(redis)
    epoch, revision = partition.store.version
    await snapshot.read_snapshot(redis, HOME, Version(epoch, revision))
    with pytest.raises(SnapshotError, match="behind its views"):
        await snapshot.read_snapshot(redis, HOME, Version(epoch, revision + 1))


async def test_a_checkpoint_that_is_not_there_or_not_whole_is_refused(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    with pytest.raises(SnapshotError, match="no checkpoint"):
        await snapshot.read_snapshot(redis, HOME)
    partition = await owned(redis)
    await partition.store.checkpoint(partition.next, {}, -1)
    with pytest.raises(SnapshotError, match="not written to its end"):
        await snapshot.read_snapshot(redis, HOME)


async def test_a_lost_fact_is_noticed(redis: fakeredis.FakeAsyncRedis) -> None:
    await owned(redis)
    await redis.hdel(FACTS, "3/project/7")
    with pytest.raises(SnapshotError, match="3 facts where 4"):
        await snapshot.read_snapshot(redis, HOME)


async def test_a_lost_fact_is_noticed_though_the_owner_goes_on(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    """It may be what refuses: a blocked user, a removed membership."""
    partition = await owned(redis)
    await redis.hdel(FACTS, "3/member/project:7/user:1/direct")
    await partition.apply(builders.group(4))
    with pytest.raises(SnapshotError, match="4 facts where 5"):
        await snapshot.read_snapshot(redis, HOME)


async def test_a_checkpoint_that_is_given_up_while_it_is_read_is_refused(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = await owned(redis)
    counted = snapshot._checked_state

    async def then_it_is_forgotten(*args: Any) -> Any:
        found = await counted(*args)
        await partition.store.forget_checkpoint()
        return found

    monkeypatch.setattr(snapshot, "_checked_state", then_it_is_forgotten)
    with pytest.raises(SnapshotError, match="no checkpoint"):
        await snapshot.read_snapshot(redis, HOME)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("3/project/7", b"garbage"),
        ("3/project/7", b'{"offset":0}'),
        ("3/member/nowhere", b'{"offset":0,"timestamp":0,"data":{"level":30}}'),
    ],
)
async def test_a_fact_that_cannot_be_read_is_named_and_no_crash(
    redis: fakeredis.FakeAsyncRedis, field: str, value: bytes
) -> None:
    partition = await owned(redis)
    await redis.hset(FACTS, field, value)
    await partition.store.checkpoint(partition.next, {}, await redis.hlen(FACTS))
    with pytest.raises(SnapshotError, match="unreadable"):
        await snapshot.read_snapshot(redis, HOME)
