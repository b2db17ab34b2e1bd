"""Freshness of partitions by two clocks: Redis TIME and this process's own."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis
from redis.exceptions import ConnectionError as LostConnectionError
from structlog.testing import capture_logs

from api.freshness import Freshness
from projector.clients import redis_batch
from projector.clients.redis_servers import RedisServers
from projector.clients.trusted_clock import TrustedClock
from projector.elapsed import elapsed
from projector.store import schema
from tests.unit.api.lookup_world import PARTITIONS, PATIENCE_S, LookupWorld, owners


class Clock:
    """Both clocks by hand: Redis TIME and this process's own, in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, redis: float, own: float) -> None:
        self.own = own
        redis_clock = SimpleNamespace(time=lambda: redis)
        monkeypatch.setattr("fakeredis.commands_mixins.server_mixin.time", redis_clock)
        monkeypatch.setattr("api.freshness.elapsed", lambda: self.own)


def covers(freshness: Freshness, arrival: float, since: float, server: str = "") -> bool:
    """Whether the latest poll proves that a token without a record is unknown."""
    return freshness.covers(freshness.poll, arrival, since, None, server)


async def test_no_stamp_proves_a_miss_on_a_server_that_was_met_after_it(
    lookup_world: LookupWorld,
) -> None:
    """A server of a cluster comes back empty; the stamps are on another and go on."""
    server = RedisServers()
    freshness = Freshness(lookup_world.redis, server)
    polling = asyncio.create_task(freshness.run("redis://test"))
    arrival = elapsed()
    async with owners(lookup_world, *range(PARTITIONS)):
        while not covers(freshness, arrival, arrival):
            await freshness.next_poll(PATIENCE_S)
        server.meet("")
        assert not covers(freshness, arrival, arrival)
        while not covers(freshness, arrival, arrival):
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
    assert freshness.ages() == [3.0]
    clock.own += 4.5
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
    assert covers(await poll_once(stamp), arrival, since=0.0) is covered


async def test_a_poll_from_before_it_was_asked_for_covers_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Clock(monkeypatch, redis=1000.0, own=50.0)
    freshness = await poll_once(999_999)
    assert covers(freshness, 49.0, since=50.0)
    assert not covers(freshness, 49.0, since=50.001)


async def test_a_stamp_from_the_future_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failover led to a server whose clock is behind: nothing is known to be fresh there."""
    Clock(monkeypatch, redis=1000.0, own=50.0)
    freshness = await poll_once(1_000_001)
    assert freshness.ages() == [None]
    assert not covers(freshness, 49.0, since=0.0)


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
    execute = redis_batch.try_execute

    async def slow(*args: Any) -> Any:
        answers = await execute(*args)
        clock.own += 1.0
        return answers

    monkeypatch.setattr("projector.clients.redis_batch.try_execute", slow)
    freshness = await poll_once(999_000)
    assert freshness.ages() == [1.0 + (clock.own - 50.0)]
    assert not covers(freshness, 50.001, since=50.001)


@pytest.mark.parametrize("ahead_ms", [-5_000, 5_000])
async def test_a_stamp_is_measured_by_the_clock_of_its_own_server(
    monkeypatch: pytest.MonkeyPatch, ahead_ms: int
) -> None:
    """In a cluster the second partition is on another server, whose clock differs."""
    Clock(monkeypatch, redis=1000.0, own=50.0)
    execute = redis_batch.try_execute

    async def of_two_servers(redis: Any, commands: Any) -> Any:
        first, *others = await execute(redis, commands)
        return [first, *(other._replace(now=other.now + ahead_ms) for other in others)]

    monkeypatch.setattr("projector.clients.redis_batch.try_execute", of_two_servers)
    freshness = await poll_once(999_000, 998_000 + ahead_ms)
    assert freshness.ages() == [1.0, 2.0]


async def test_every_poll_reaches_every_server_of_a_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that holds no stamp has views: its failover must not pass unnoticed."""
    Clock(monkeypatch, redis=1000.0, own=50.0)

    async def identity_commands(_redis: Any) -> list[Any]:
        return [("GET", "another server")]

    asked: list[Any] = []
    execute = redis_batch.try_execute

    async def noted(redis: Any, commands: Any) -> Any:
        asked.extend(commands)
        return await execute(redis, commands)

    monkeypatch.setattr("projector.clients.redis_batch.identity_commands", identity_commands)
    monkeypatch.setattr("projector.clients.redis_batch.try_execute", noted)
    freshness = await poll_once(999_000)
    assert freshness.ages() == [1.0]
    assert ("GET", "another server") in asked


class Polled:
    """A `Freshness` that polls when it is let, both clocks by hand, and stamps by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, partitions: int = 2) -> None:
        self.redis_s = 1000.0
        self.own = 50.0
        self.away: set[str] = set()
        # The `run_id` of every server; without, INFO is answered as by fakeredis.
        self.run_id = ""
        self.servers = RedisServers()
        self.redis = FakeAsyncRedis(socket_timeout=None)
        self.freshness = Freshness(self.redis, self.servers)
        self._partitions = partitions
        self._execute = redis_batch.try_execute
        redis_clock = SimpleNamespace(time=lambda: self.redis_s)
        monkeypatch.setattr("fakeredis.commands_mixins.server_mixin.time", redis_clock)
        monkeypatch.setattr("api.freshness.elapsed", lambda: self.own)
        monkeypatch.setattr("projector.clients.redis_servers.elapsed", lambda: self.own)
        monkeypatch.setattr("projector.clients.redis_batch.try_execute", self._on_two_servers)

    async def _on_two_servers(self, redis: Any, commands: Any) -> Any:
        """The partition 1 is on server B, all else on A."""
        found = []
        for command, result in zip(commands, await self._execute(redis, commands), strict=True):
            server = "B" if schema.partition_key(1) in command else "A"
            value = result.value
            if command[0] == "INFO" and self.run_id:
                value = {"run_id": self.run_id, "master_replid": "r"}
            if server in self.away:
                value = LostConnectionError("gone")
            found.append(result._replace(value=value, place=server))
        return found

    async def stamp(self, partition: int, at: float) -> None:
        await self.redis.hset(
            schema.partition_key(partition), mapping={"stamp": round(at * 1000), "stamp_epoch": 7}
        )

    async def poll(self) -> None:
        await self.redis.set(schema.PARTITIONS_KEY, self._partitions)
        self.freshness._take(await self.freshness._read(), "redis://test")

    def passes(self, seconds: float) -> None:
        self.redis_s += seconds
        self.own += seconds

    def age(self, partition: int, server: str) -> float | None:
        known = self.freshness.known(self.freshness.poll, partition, server)
        return known[0] if known else None


async def test_another_server_behind_a_kept_connection_is_met_by_the_next_poll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy may keep its clients' connections over a failover, so no new one asks."""
    polled = Polled(monkeypatch, partitions=1)
    await polled.stamp(0, 999.5)
    polled.run_id = "first"
    for _ in range(2):
        polled.passes(0.25)
        await polled.poll()
    assert polled.age(0, "A") == pytest.approx(1.0)
    polled.run_id = "second"
    polled.passes(0.25)
    await polled.poll()
    assert polled.age(0, "A") is None
    polled.passes(0.25)
    await polled.poll()
    assert polled.age(0, "A") == pytest.approx(1.5)


async def test_an_unchanged_stamp_grows_older_although_redis_clock_steps_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its worker sleeps. By the new clock the stamp would be one second old."""
    world = Polled(monkeypatch)
    for partition in (0, 1):
        await world.stamp(partition, 999.0)
    await world.poll()
    world.passes(8.0)
    await world.poll()
    world.redis_s -= 8.0
    world.passes(0.25)
    for _ in range(2):
        await world.poll()
        assert world.freshness.ages() == [9.25, 9.25]
    await world.stamp(0, world.redis_s)
    await world.poll()
    assert world.freshness.ages() == [0.0, 9.25]


async def test_a_stamp_that_was_once_from_the_future_never_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Redis' clock stepped back by 8 s, and reaches the stamp's time again when it is 8 s old."""
    world = Polled(monkeypatch, partitions=1)
    await world.stamp(0, 1000.0)
    await world.poll()
    world.redis_s -= 8.0
    world.passes(0.25)
    for _ in range(2):
        await world.poll()
        assert world.freshness.ages() == [None]
        assert not covers(world.freshness, 0.0, since=0.0, server="A")
        world.passes(8.0)
    await world.stamp(0, world.redis_s)
    await world.poll()
    assert world.freshness.ages() == [0.0]


async def test_a_stamp_counts_for_views_of_another_server_only_if_it_is_later_than_its_meeting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """B fails over to a replica that lags. The stamp on A goes on, or stays where it was."""
    world = Polled(monkeypatch)
    await world.stamp(0, 999.0)
    await world.poll()
    assert (world.age(0, "A"), world.age(0, "B")) == (1.0, 1.0)
    world.servers.meet("B")
    world.passes(0.25)
    await world.poll()
    assert (world.age(0, "A"), world.age(0, "B")) == (1.25, None)
    await world.stamp(0, 1000.0)
    await world.poll()
    assert (world.age(0, "A"), world.age(0, "B")) == (0.25, None)
    await world.stamp(0, 1000.001)
    await world.poll()
    assert world.age(0, "B") == pytest.approx(0.249)


async def test_a_stamp_counts_for_views_of_its_own_server_if_it_was_read_after_the_meeting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stamps and views come back from one dump, or from one stream of replication."""
    world = Polled(monkeypatch)
    await world.stamp(0, 999.0)
    await world.poll()
    world.passes(0.1)
    world.servers.meet("A")
    assert world.age(0, "A") is None
    assert world.freshness.ages() == [None, None]
    world.passes(0.1)
    await world.poll()
    assert world.age(0, "A") == pytest.approx(1.2)


async def test_a_view_of_a_server_that_was_never_met_is_of_unknown_age(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Polled(monkeypatch)
    world.servers.cluster = True
    world.servers.meet("A")
    world.passes(1.0)
    await world.stamp(0, world.redis_s)
    await world.poll()
    assert (world.age(0, "A"), world.age(0, "B")) == (0.0, None)


async def test_a_poll_during_which_a_server_was_met_is_followed_by_another_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Polled(monkeypatch)
    await world.poll()
    assert not world.freshness._hurry.is_set()
    world.servers.meet("A")
    await world.poll()
    assert world.freshness._hurry.is_set()


async def test_a_server_that_is_away_takes_only_the_stamps_that_it_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Polled(monkeypatch)
    for partition in (0, 1):
        await world.stamp(partition, 999.0)
    await world.poll()
    world.away = {"B"}
    world.passes(2.0)
    await world.stamp(0, world.redis_s)
    await world.stamp(1, world.redis_s)
    with capture_logs() as logged:
        for _ in range(3):
            await world.poll()
        assert world.freshness.ages() == [0.0, 3.0]
        assert not covers(world.freshness, 0.0, since=world.own, server="A")
        poll = world.freshness.poll
        assert world.freshness.covers(poll, 0.0, world.own, 0, "A")
        assert not world.freshness.covers(poll, 0.0, world.own, 1, "A")
        world.away = set()
        await world.poll()
    assert world.freshness.ages() == [0.0, 0.0]
    assert covers(world.freshness, 0.0, since=world.own, server="A")
    assert [(line["event"], line["place"]) for line in logged] == [
        ("not ready, trying again", "B"), ("ready again", "B"),
    ]  # fmt: skip


async def test_while_the_server_of_the_number_of_partitions_is_away_the_former_number_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Polled(monkeypatch)
    await world.stamp(1, 999.0)
    await world.poll()
    world.away = {"A"}
    world.passes(1.0)
    await world.stamp(1, world.redis_s)
    await world.poll()
    assert world.freshness.ages() == [None, 0.0]
    poll = world.freshness.poll
    assert world.freshness.covers(poll, 0.0, world.own, 1, "B")
    assert not covers(world.freshness, 0.0, since=world.own, server="B")


async def test_the_number_of_partitions_must_be_read_after_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A partition more may be where the token's event is."""
    world = Polled(monkeypatch)
    for partition in (0, 1):
        await world.stamp(partition, 999.0)
    await world.poll()
    world.freshness.poll = world.freshness.poll._replace(counted=49.0)
    assert covers(world.freshness, 0.0, since=49.0, server="A")
    assert not covers(world.freshness, 0.0, since=49.5, server="A")


async def test_a_poll_of_which_no_server_answers_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Polled(monkeypatch)
    await world.poll()
    world.away = {"A", "B"}
    with pytest.raises(LostConnectionError):
        await world.poll()


# the time of Redis, by which signed tokens end


async def test_the_time_of_redis_goes_on_by_this_process_own_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Polled(monkeypatch)
    world.freshness.clock = TrustedClock(1100.0 * 1000, world.own)
    assert world.freshness.clock.expected(world.own) is None
    await world.poll()
    read_at = world.redis_s * 1000
    assert world.freshness.clock.expected(world.own) == pytest.approx(read_at)
    assert world.freshness.clock.expected(world.own + 5) == pytest.approx(read_at + 5000)


async def test_a_jump_of_redis_clock_is_not_believed_until_it_has_stood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Polled(monkeypatch)
    world.freshness.clock = TrustedClock(1000.0 * 1000, world.own)
    await world.poll()
    world.redis_s += 3600
    for _ in range(3):
        world.passes(10.0)
        await world.poll()
        assert world.freshness.clock.expected(world.own) == pytest.approx(
            (world.redis_s - 3600) * 1000
        )
    world.passes(11.0)
    await world.poll()
    assert world.freshness.clock.expected(world.own) == pytest.approx(world.redis_s * 1000)


async def test_a_reading_that_is_far_from_this_machines_clock_is_not_believed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then there is no time, rather than a wrong one."""
    world = Polled(monkeypatch)
    world.freshness.clock = TrustedClock(5000.0 * 1000, world.own)
    await world.poll()
    assert world.freshness.clock.expected(world.own) is None
