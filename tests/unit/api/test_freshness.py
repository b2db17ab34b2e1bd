"""Freshness of partitions by two clocks: Redis TIME and this process's own."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from api.freshness import Freshness
from projector.clients import redis_batch
from projector.clients.redis_servers import RedisServers
from projector.store import schema
from tests.unit.api.lookup_world import PARTITIONS, PATIENCE_S, LookupWorld, owners


class Clock:
    """Both clocks by hand: Redis TIME and this process's own, in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, redis: float, own: float) -> None:
        self.own = own
        redis_clock = SimpleNamespace(time=lambda: redis)
        monkeypatch.setattr("fakeredis.commands_mixins.server_mixin.time", redis_clock)
        monkeypatch.setattr("api.freshness.time", SimpleNamespace(monotonic=lambda: self.own))


async def test_no_stamp_proves_a_miss_on_a_server_that_was_met_after_it(
    lookup_world: LookupWorld,
) -> None:
    """A server of a cluster comes back empty; the stamps are on another and go on."""
    server = RedisServers()
    freshness = Freshness(lookup_world.redis, server)
    polling = asyncio.create_task(freshness.run("redis://test"))
    arrival = time.monotonic()
    async with owners(lookup_world, *range(PARTITIONS)):
        while not freshness.covers(arrival, arrival):
            await freshness.next_poll(PATIENCE_S)
        server.met_at = time.monotonic()
        assert not freshness.covers(arrival, arrival)
        while not freshness.covers(arrival, arrival):
            await freshness.next_poll(PATIENCE_S)
    polling.cancel()


async def poll_once(*stamps: int) -> Freshness:
    redis = FakeAsyncRedis(socket_timeout=None)
    await redis.set(schema.PARTITIONS_KEY, len(stamps))
    for partition, stamp in enumerate(stamps):
        await redis.hset(
            schema.partition_key(partition), mapping={"stamp": stamp, "stamp_epoch": 7}
        )
    freshness = Freshness(redis)
    polling = asyncio.create_task(freshness.run("redis://test"))
    await freshness.next_poll(PATIENCE_S)
    polling.cancel()
    await redis.aclose()
    return freshness


async def test_the_age_goes_on_with_the_own_clock_between_polls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch, redis=1000.0, own=50.0)
    freshness = await poll_once(997_000)
    assert freshness.age(0) == 3.0
    clock.own += 4.5
    assert freshness.age(0) == 7.5
    assert freshness.ages() == [7.5]


@pytest.mark.parametrize(
    ("stamp", "arrival", "covered"),
    [
        (999_999, 49.990, True),
        (999_990, 49.980, True),
        (999_990, 49.990, False),
        (999_990, 50.0, False),
        (999_990, 60.0, False),
        (1_000_000, 50.0, False),
        (1_000_000, 49.9995, False),
    ],
)
async def test_a_stamp_covers_a_request_only_if_it_is_later_in_every_case(
    monkeypatch: pytest.MonkeyPatch, stamp: int, arrival: float, covered: bool
) -> None:
    """Redis says 1000.000999 s, the own clock 50 s; stamps are cut to whole milliseconds.

    In the last case the request came at 1000.000499 s at the latest, the stamp says 1000.000 s.
    """
    Clock(monkeypatch, redis=1000.000999, own=50.0)
    assert (await poll_once(stamp)).covers(arrival, since=0.0) is covered


async def test_a_poll_from_before_it_was_asked_for_covers_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Clock(monkeypatch, redis=1000.0, own=50.0)
    freshness = await poll_once(999_999)
    assert freshness.covers(49.0, since=50.0)
    assert not freshness.covers(49.0, since=50.001)


async def test_a_stamp_from_the_future_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failover led to a server whose clock is behind: nothing is known to be fresh there."""
    Clock(monkeypatch, redis=1000.0, own=50.0)
    freshness = await poll_once(1_000_001)
    assert freshness.ages() == [None]
    assert not freshness.covers(49.0, since=0.0)


async def test_whoever_hurries_need_not_wait_for_the_next_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.freshness.POLL_INTERVAL_S", 3600.0)
    lookup_world = LookupWorld()
    polling = asyncio.create_task(lookup_world.freshness.run("redis://test"))
    await lookup_world.freshness.next_poll(PATIENCE_S)
    lookup_world.freshness.hurry()
    async with asyncio.timeout(PATIENCE_S):
        await lookup_world.freshness.next_poll(3600)
    polling.cancel()
    await lookup_world.redis.aclose()


async def test_the_time_that_redis_takes_to_answer_counts_as_age(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch, redis=1000.0, own=50.0)
    execute = redis_batch.execute

    async def slow(*args: Any) -> Any:
        answers = await execute(*args)
        clock.own += 1.0
        return answers

    monkeypatch.setattr("projector.clients.redis_batch.execute", slow)
    freshness = await poll_once(999_000)
    assert freshness.age(0) == 1.0 + (clock.own - 50.0)
    assert not freshness.covers(50.001, since=50.001)


@pytest.mark.parametrize("ahead_ms", [-5_000, 5_000])
async def test_a_stamp_is_measured_by_the_clock_of_its_own_server(
    monkeypatch: pytest.MonkeyPatch, ahead_ms: int
) -> None:
    """In a cluster the second partition is on another server, whose clock differs."""
    Clock(monkeypatch, redis=1000.0, own=50.0)
    execute = redis_batch.execute

    async def of_two_servers(redis: Any, commands: Any) -> Any:
        first, *others = await execute(redis, commands)
        return [first, *(other._replace(now=other.now + ahead_ms) for other in others)]

    monkeypatch.setattr("projector.clients.redis_batch.execute", of_two_servers)
    freshness = await poll_once(999_000, 998_000 + ahead_ms)
    assert freshness.ages() == [1.0, 2.0]


async def test_every_poll_reaches_every_server_of_a_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that holds no stamp has views: its failover must not pass unnoticed."""
    Clock(monkeypatch, redis=1000.0, own=50.0)

    async def barrier_commands(_redis: Any) -> list[Any]:
        return [("GET", "another server")]

    asked: list[Any] = []
    execute = redis_batch.execute

    async def noted(redis: Any, commands: Any) -> Any:
        asked.extend(commands)
        return await execute(redis, commands)

    monkeypatch.setattr("projector.clients.redis_batch.barrier_commands", barrier_commands)
    monkeypatch.setattr("projector.clients.redis_batch.execute", noted)
    freshness = await poll_once(999_000)
    assert freshness.ages() == [1.0]
    assert ("GET", "another server") in asked
