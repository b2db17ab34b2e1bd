"""An owner's line in the overlay: set before its views, fenced, and removed behind them."""

from collections.abc import AsyncIterator, Sequence
from itertools import count
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis
from redis.exceptions import ConnectionError as LostConnectionError

from projector.clients.redis_servers import RedisServers
from projector.domain.views import View, ViewId
from projector.errors import WriteRefusedError
from projector.events.model import Topic
from projector.store import overlay, overlay_line, schema
from projector.store.overlay import HeldBack
from projector.store.overlay_line import OverlayLine
from projector.store.partition_store import PartitionStore
from projector.store.schema import Version, ViewRecord
from tests.builders import NOW, digest

EPOCH = 0x1A0C5E2F3B1
AGENT, USER = frozenset({"agent:7"}), frozenset({"user:5"})
CHECKPOINT = Version(EPOCH, 20)


@pytest.fixture
async def redis() -> AsyncIterator[FakeAsyncRedis]:
    redis = FakeAsyncRedis()
    yield redis
    await redis.aclose()


def line(redis: FakeAsyncRedis, partition: int = 3, epoch: int = EPOCH) -> OverlayLine:
    revisions = count(8)
    return OverlayLine(redis, partition, lambda: Version(epoch, next(revisions)))


async def held(redis: FakeAsyncRedis) -> dict[int, Sequence[HeldBack]]:
    raw = await get(redis, schema.OVERLAY)
    assert not raw or raw.endswith(b"\n")
    return dict(overlay.decode(raw))


async def get(redis: Any, key: str) -> bytes:
    return await redis.get(key) or b""


async def test_lines_of_partitions_stand_beside_each_other(redis: FakeAsyncRedis) -> None:
    one, other = line(redis), line(redis, 4)
    await one.add(AGENT)
    await other.add(USER)
    expected = {p: [HeldBack(Version(EPOCH, 8), n)] for p, n in ((3, AGENT), (4, USER))}
    assert await held(redis) == expected
    assert 25_000 < await redis.pttl(schema.OVERLAY) <= 30_000
    await one.add(USER)
    assert (await held(redis))[3] == [*expected[3], HeldBack(Version(EPOCH, 9), USER)]
    await one.remove(CHECKPOINT)
    assert await held(redis) == {4: expected[4]}
    assert 25_000 < await redis.pttl(schema.OVERLAY) <= 30_000
    await other.remove(CHECKPOINT)
    assert not await redis.exists(schema.OVERLAY)


async def test_views_of_the_next_write_are_newer_than_the_line(redis: FakeAsyncRedis) -> None:
    store = PartitionStore(redis, RedisServers(), 3, "me")
    await store.claim(4)
    view = View(ViewId(digest("a")), 9, 200, b'{"allowed_agents":[]}', NOW * 2)
    for _ in range(2):
        await store.write_views([view])
        before = ViewRecord.decode(await get(redis, schema.record_key(view.id)))
        await store.overlay.add(AGENT)
        assert overlay.is_held_back(before, await get(redis, schema.OVERLAY))
        await store.write_views([view])
        after = ViewRecord.decode(await get(redis, schema.record_key(view.id)))
        assert not overlay.is_held_back(after, await get(redis, schema.OVERLAY))
        await store.checkpoint(dict.fromkeys(Topic, 1), {}, 0)


async def test_a_line_is_set_again_during_a_long_write_and_stays_as_it_was(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = line(redis)
    await own.add(AGENT)
    before = await held(redis)
    await redis.delete(schema.OVERLAY)
    await own.renew()
    assert await held(redis) == {}
    monkeypatch.setattr(overlay_line, "RENEW_S", 0.0)
    await own.renew()
    assert await held(redis) == before


async def test_without_an_answer_it_is_set_at_the_next_occasion(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = line(redis)

    async def fail(*_: object, **__: object) -> None:
        raise LostConnectionError("away")

    monkeypatch.setattr(redis, "execute_command", fail)
    await own.add(AGENT)
    await own.renew()
    monkeypatch.undo()
    await own.renew()
    assert (await held(redis))[3] == [HeldBack(Version(EPOCH, 8), AGENT)]
    monkeypatch.setattr(redis, "execute_command", fail)
    await own.remove(CHECKPOINT)
    monkeypatch.undo()
    await own.remove(CHECKPOINT)
    assert await held(redis) == {}


async def test_a_replaced_owner_neither_sets_nor_removes(redis: FakeAsyncRedis) -> None:
    old, new = line(redis), line(redis, epoch=EPOCH + 1)
    await old.add(AGENT)
    await new.add(USER)
    expected = {3: [HeldBack(Version(EPOCH + 1, 8), USER)]}
    await old.add(AGENT)
    with pytest.raises(WriteRefusedError, match="partition 3 is newer"):
        await old.renew()
    assert old.refused_by == EPOCH + 1
    await old.remove(CHECKPOINT)
    assert await held(redis) == expected


async def test_a_claim_goes_beyond_the_epoch_that_refused_its_line(redis: FakeAsyncRedis) -> None:
    """The clock may have gone back since. Otherwise it would be refused until the line expires."""
    await line(redis, epoch=EPOCH * 8).add(USER)
    store = PartitionStore(redis, RedisServers(), 3, "me")
    await store.claim(4)
    await store.overlay.add(AGENT)
    await store.claim(4)
    await store.overlay.renew()
    assert (await held(redis))[3] == [HeldBack(Version(EPOCH * 8 + 1, 2), AGENT)]


async def test_a_claim_goes_beyond_the_epoch_that_refused_the_removal(
    redis: FakeAsyncRedis,
) -> None:
    await line(redis, epoch=EPOCH * 8).add(USER)
    store = PartitionStore(redis, RedisServers(), 3, "me")
    await store.claim(4)
    await store.overlay.remove(store.version)
    assert (await held(redis)).keys() == {3}
    await store.claim(4)
    await store.overlay.remove(store.version)
    assert await held(redis) == {}


class Calls:
    """Records the calls of a line's script, to send them once more later."""

    def __init__(self, own: OverlayLine) -> None:
        self._script, self._sent = own._set_lines, list[dict[str, Any]]()
        own._set_lines = self  # type: ignore[assignment]

    async def __call__(self, **call: Any) -> Any:
        self._sent.append(call)
        return await self._script(**call)

    async def repeat(self, number: int) -> None:
        await self._script(**self._sent[number])


async def test_an_attempt_that_comes_late_replaces_no_newer_line(redis: FakeAsyncRedis) -> None:
    """A client gives up an attempt and repeats it, and the first one still runs."""
    store = PartitionStore(redis, RedisServers(), 3, "me")
    await store.claim(4)
    calls = Calls(store.overlay)
    await store.overlay.add(AGENT)
    await store.overlay.add(USER)
    both = await held(redis)
    await calls.repeat(0)
    assert await held(redis) == both
    await store.checkpoint(dict.fromkeys(Topic, 1), {}, 0)
    await store.overlay.remove(store.version)
    await store.overlay.add(AGENT)
    newer = await held(redis)
    for late in range(3):
        await calls.repeat(late)
        assert await held(redis) == newer
    await calls.repeat(3)
    assert await held(redis) == newer


async def test_records_written_for_a_change_are_not_held_back_by_a_later_one(
    redis: FakeAsyncRedis,
) -> None:
    store = PartitionStore(redis, RedisServers(), 3, "me")
    await store.claim(4)
    await store.overlay.add(AGENT)
    body = b'{"allowed_agents":[{"id":7}],"project":{"id":1,"groups":[]},"user":{"id":1}}'
    view = View(ViewId(digest("a")), 9, 200, body, NOW * 2)
    await store.write_views([view])
    await store.overlay.add(USER)
    record = ViewRecord.decode(await get(redis, schema.record_key(view.id)))
    assert not overlay.is_held_back(record, await get(redis, schema.OVERLAY))


async def test_a_claim_keeps_what_is_still_to_be_written_and_then_removes_every_line(
    redis: FakeAsyncRedis,
) -> None:
    await line(redis, epoch=1).add(USER)
    store = PartitionStore(redis, RedisServers(), 3, "me")
    await store.claim(4)
    assert (await held(redis))[3][0].names == USER
    await store.overlay.remove(store.version)
    assert await held(redis) == {}
    await store.overlay.add(AGENT)
    await store.claim(4)
    await store.overlay.renew()
    assert (await held(redis))[3] == [HeldBack(store.version._replace(revision=2), AGENT)]


@pytest.mark.parametrize(
    "damage",
    [
        "", "no line\n", "0003 x\n0004", "\n\n", b"\xff\x00\n", "0003 f 0 agent:7\n",
        "0003 ffffffffffff 000000000000 agent:7\n", "0003 0FFFFFFFFFFF 000000000000 agent:7\n",
        "0003 00fffffffffff 000000000000 agent:7\n", "0003 0fffffffffff 0 agent:7\n",
    ],
)  # fmt: skip
async def test_damage_is_replaced(redis: FakeAsyncRedis, damage: str | bytes) -> None:
    store = PartitionStore(redis, RedisServers(), 3, "me")
    for _ in range(2):
        await redis.set(schema.OVERLAY, damage)
        await store.claim(4)
        await store.overlay.add(AGENT)
        await store.overlay.renew()
        assert (await held(redis)).keys() == {3}
        assert await redis.ttl(schema.OVERLAY) > 0
    assert store.version.epoch < 2**42


async def test_a_key_of_another_type_is_replaced(redis: FakeAsyncRedis) -> None:
    for _ in range(2):
        await redis.hset(schema.OVERLAY, "a", "b")
        own = line(redis)
        await own.add(AGENT)
        assert (await held(redis)).keys() == {3}
        await redis.delete(schema.OVERLAY)
        await redis.hset(schema.OVERLAY, "a", "b")
        await own.remove(CHECKPOINT)
        assert not await redis.exists(schema.OVERLAY)


async def test_names_have_a_bound(redis: FakeAsyncRedis) -> None:
    own = line(redis)
    await own.add({f"agent:{number}" for number in range(overlay_line.MAX_NAMES - 1)})
    await own.add(AGENT | USER | {"agent:1000000"})
    lines = (await held(redis))[3]
    assert sum(len(line.names) for line in lines) == overlay_line.MAX_NAMES
