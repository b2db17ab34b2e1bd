"""TIME and stamps that owners share are each as good as an own one."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import AsyncMock

import fakeredis
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError

from projector.clients import redis_batch
from projector.clients.redis_cluster import CommandResult
from projector.clients.redis_servers import RedisServers
from projector.clients.trusted_clock import ClockError
from projector.errors import WriteRefusedError
from projector.store import partition_stamps, schema
from projector.store.partition_stamps import PartitionStamps
from projector.store.partition_store import PartitionStore

PARTITIONS = 40


@pytest.fixture
async def redis() -> AsyncIterator[fakeredis.FakeAsyncRedis]:
    async with fakeredis.FakeAsyncRedis() as client:
        yield client


async def claimed(redis: fakeredis.FakeAsyncRedis) -> PartitionStore:
    store = PartitionStore(redis, RedisServers(), 3, "me")
    await store.claim(4)
    return store


async def owned(redis: fakeredis.FakeAsyncRedis) -> list[PartitionStore]:
    """Return the stores of the owners of one process."""
    server = RedisServers()
    stamps = PartitionStamps(redis, server)
    stores = [PartitionStore(redis, server, n, "me", stamps) for n in range(PARTITIONS)]
    await asyncio.gather(*(store.claim(PARTITIONS) for store in stores))
    return stores


async def stamp_all(stores: list[PartitionStore], t0: int) -> list[BaseException | None]:
    return await asyncio.gather(*(store.stamp(t0) for store in stores), return_exceptions=True)


async def stamped(redis: fakeredis.FakeAsyncRedis) -> list[Any]:
    return [await redis.hget(schema.partition_key(n), "stamp") for n in range(PARTITIONS)]


class Pipelines:
    """Counts the round trips, and lets commands fail as another server would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[int] = []
        self.errors: dict[int, Exception] = {}
        self._execute = redis_batch.try_execute
        monkeypatch.setattr(redis_batch, "try_execute", self.try_execute)

    async def try_execute(self, redis: Any, commands: Any) -> list[CommandResult]:
        self.commands.append(len(commands))
        found = await self._execute(redis, commands)
        return [r._replace(value=self.errors.get(at, r.value)) for at, r in enumerate(found)]


async def test_owners_share_a_reading_that_begins_after_they_ask(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = await owned(redis)
    times = iter((1000.0, 2000.0))

    async def identify(*_: object) -> list[CommandResult]:
        return [CommandResult({}, next(times))]

    monkeypatch.setattr(redis_batch, "identify", identify)
    monkeypatch.setattr(RedisServers, "note", AsyncMock())
    found = await asyncio.gather(*(store.now() for store in stores))
    assert found == [1000] * PARTITIONS
    assert await stores[0].now() == 2000


async def test_stamps_of_a_moment_take_few_round_trips(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = await owned(redis)
    # The server knows the script from here on.
    await stores[0].stamp(1)
    pipelines = Pipelines(monkeypatch)
    assert await stamp_all(stores, 7) == [None] * PARTITIONS
    assert pipelines.commands == [16, 16, 8]
    assert await stamped(redis) == [b"7"] * PARTITIONS


async def test_a_stamp_is_refused_by_itself(redis: fakeredis.FakeAsyncRedis) -> None:
    """Each owner has its own claim, revision and facts, whoever stamps beside it."""
    stores = await owned(redis)
    other = PartitionStore(redis, RedisServers(), 5, "other")
    await other.claim(PARTITIONS)
    await redis.hset(schema.partition_key(6), "revision", 9)
    await redis.set(schema.facts_key(7), "no hash")
    found = await stamp_all(stores, 7)
    reasons = {n: str(error) for n, error in enumerate(found) if error is not None}
    assert [(n, reason.split()[-1]) for n, reason in reasons.items()] == [
        (5, "claim"), (6, "revision"), (7, "facts")
    ]  # fmt: skip
    assert all(isinstance(found[n], WriteRefusedError) for n in reasons)
    assert [n for n, stamp in enumerate(await stamped(redis)) if stamp != b"7"] == [5, 6, 7]


async def test_a_server_or_clock_that_changed_refuses_every_stamp(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = await owned(redis)
    monkeypatch.setattr(RedisServers, "expected_time", lambda *_: 1.0)
    assert all(isinstance(error, ClockError) for error in await stamp_all(stores, 7))
    assert await stamped(redis) == [None] * PARTITIONS


@pytest.mark.parametrize("error", [ReadOnlyError("a replica"), ResponseError("any other")])
async def test_a_stamp_that_fails_is_repeated_alone_by_the_clients_own_way(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A client leaves a server that calls itself a replica; a pipeline returns its error."""
    stores = await owned(redis)
    await stores[0].stamp(1)
    Pipelines(monkeypatch).errors = {3: error}
    assert await stamp_all(stores[:8], 7) == [None] * 8


async def test_a_server_that_has_lost_its_scripts_gets_them_again(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    stores = await owned(redis)
    await stores[0].stamp(1)
    await redis.script_flush()
    assert await stamp_all(stores, 7) == [None] * PARTITIONS
    assert await stamped(redis) == [b"7"] * PARTITIONS


async def test_the_error_of_a_stamp_is_its_owners_alone(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = await owned(redis)
    script = stores[0]._stamps._script
    await redis.script_load(script.script)
    Pipelines(monkeypatch).errors = {3: ResponseError("no"), 5: ResponseError("no")}

    async def alone(_: object, *, keys: tuple[str, str], args: object) -> bytes:
        if keys[0] == schema.partition_key(3):
            raise RedisConnectionError("away")
        await asyncio.sleep(0.01)
        return b"ok"

    monkeypatch.setattr(type(script), "__call__", alone)
    found = await stamp_all(stores[:8], 7)
    assert [n for n, error in enumerate(found) if error is not None] == [3]
    assert isinstance(found[3], RedisConnectionError)


async def test_a_moment_counts_only_once_every_server_was_seen_after_it(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await claimed(redis)
    asked: list[object] = []

    async def prove(client: object) -> None:
        asked.append(client)
        raise RedisConnectionError("one is away")

    monkeypatch.setattr("projector.clients.redis_batch.barrier", prove)
    with pytest.raises(RedisConnectionError):
        await store.now()
    assert asked == [redis]


async def test_time_is_read_before_every_server_is_asked(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover between the two would else be older than the time, and not noticed."""
    store = await claimed(redis)
    now = await store.now()
    asked: list[str] = []

    async def identify(*_: object) -> list[CommandResult]:
        asked.append("time")
        return [CommandResult({}, now)]

    async def barrier(_: object) -> None:
        asked.append("barrier")

    monkeypatch.setattr("projector.clients.redis_batch.identify", identify)
    monkeypatch.setattr("projector.clients.redis_batch.barrier", barrier)
    assert await store.now() == now
    assert asked == ["time", "barrier"]


async def test_an_answer_that_comes_late_is_asked_for_again(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may have slept meanwhile, so the time in it could be of any moment."""
    store = await claimed(redis)
    now = float(await store.now())
    moments = iter([0.0, 12.0, 12.0, 12.1, 12.1])

    async def identify(*_: object) -> list[CommandResult]:
        return [CommandResult({}, now)]

    monkeypatch.setattr("projector.clients.redis_batch.identify", identify)
    monkeypatch.setattr(partition_stamps, "elapsed", lambda: next(moments))
    monkeypatch.setattr(store._server, "note", noted := AsyncMock())
    assert await store.now() == int(now)
    noted.assert_awaited_once()


async def test_answers_that_always_come_late_are_an_outage(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await claimed(redis)
    moments = iter(range(0, 100, 10))
    monkeypatch.setattr(partition_stamps, "elapsed", lambda: next(moments))
    with pytest.raises(ClockError, match="too late"):
        await store.now()
