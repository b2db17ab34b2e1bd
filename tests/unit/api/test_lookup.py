"""Lookups against a fake Redis: what is answered from which record, and when it is 503 or 401."""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from types import SimpleNamespace

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from structlog.testing import capture_logs

from api.freshness import Freshness
from api.lookup import UNAUTHORIZED, Lookup, Reply
from api.lookup_request import LookupRequest
from api.read_batcher import OverloadedError, ReadBatcher
from api.redis_mget import Mget
from projector.clients import redis_batch
from projector.clients.redis_servers import RedisServers
from projector.store import schema
from projector.store.schema import Version, ViewRecord
from tests.unit.store.test_partition_count import SENTENCE

BODY = b'{"allowed_agents": [],  "kept": "byte for byte \xc3\xa9"}'
EPOCH = 1_800_000_000_000
PARTITIONS = 3
PATIENCE_S = 5.0
LONG_GRACE_S = 30.0
SHORT_GRACE_S = 0.3


class World:
    """The read side on a fake Redis. Tests write what owners would write."""

    def __init__(self) -> None:
        self.server = FakeServer()
        # With a timeout, Python 3.11 can lose the cancellation of whoever is sending.
        self.redis = FakeAsyncRedis(server=self.server, socket_timeout=None)
        self.freshness = Freshness(self.redis)
        self.lookup = self.with_limits()

    def with_limits(
        self,
        *,
        miss_grace: float = LONG_GRACE_S,
        waiting: int = 100,
        reads: ReadBatcher | None = None,
    ) -> Lookup:
        self.lookup = Lookup(
            reads or ReadBatcher(Mget(self.redis)), self.freshness, max_staleness=10.0,
            miss_grace=miss_grace, max_waiting=waiting,
        )  # fmt: skip
        return self.lookup

    async def put(
        self, token: str, status: int = 200, body: bytes | None = None, *, partition: int = 0,
        epoch: int = EPOCH,
    ) -> None:  # fmt: skip
        if body is None:
            body = b"" if status == 401 else BODY
        record = ViewRecord(status, partition, Version(epoch, 0x1F), body)
        await self.put_raw(token, record.encode())

    async def put_raw(self, token: str, raw: bytes) -> None:
        await self.redis.set(
            schema.token_record_key(hashlib.sha256(token.encode()).hexdigest()), raw
        )

    async def stamp(self, *partitions: int, age: float = 0.0, epoch: int = EPOCH) -> None:
        """Stamp the partitions (all, if none is named) as fresh `age` seconds ago."""
        moment = await redis_batch.server_time(self.redis, schema.PARTITIONS_KEY) - round(
            age * 1000
        )
        await self.stamp_at(moment, *(partitions or range(PARTITIONS)), epoch=epoch)

    async def stamp_at(self, moment: int, *partitions: int, epoch: int = EPOCH) -> None:
        for partition in partitions:
            await self.redis.hset(
                schema.partition_key(partition),
                mapping={"epoch": epoch, "stamp": moment, "stamp_epoch": epoch},
            )

    async def ask(self, token: str = "known", max_age: int | None = None) -> Reply:
        return await self.lookup.answer(LookupRequest(token.encode(), max_age))

    async def polled(self, times: int = 2) -> None:
        """Wait until what is in Redis now has been read: the second poll from here began later."""
        for _ in range(times):
            await self.freshness.next_poll(PATIENCE_S)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A Redis with fresh stamps on all partitions, polled every few milliseconds."""
    monkeypatch.setattr("api.freshness.POLL_INTERVAL_S", 0.005)
    monkeypatch.setattr("api.freshness.POLL_PAUSE_S", 0.002)
    world = World()
    await world.redis.set(schema.PARTITIONS_KEY, PARTITIONS)
    await world.stamp()
    polling = asyncio.create_task(world.freshness.run("redis://test"))
    await world.polled()
    yield world
    polling.cancel()
    await world.redis.aclose()


@contextlib.asynccontextmanager
async def owners(world: World, *partitions: int) -> AsyncIterator[None]:
    """Owners that keep stamping these partitions."""

    async def keep_stamping() -> None:
        while True:
            await world.stamp(*partitions)
            await asyncio.sleep(0.005)

    task = asyncio.create_task(keep_stamping())
    try:
        yield
    finally:
        task.cancel()


async def soon(answer: Awaitable[Reply]) -> Reply:
    async with asyncio.timeout(PATIENCE_S):
        return await answer


async def still_waits(answer: asyncio.Task[Reply], world: World) -> bool:
    await world.polled(3)
    return not answer.done()


def header(reply: Reply, name: bytes) -> bytes | None:
    return dict(reply.headers).get(name)


def reason(reply: Reply) -> str:
    """The reason of a well-formed 503."""
    assert reply.status == 503
    assert header(reply, b"retry-after") == b"1"
    assert header(reply, b"cache-control") == b"no-store"
    body = json.loads(reply.body)
    assert body.keys() == {"message", "reason"}
    assert body["message"] == "503 Service Unavailable"
    return str(body["reason"])


# records


@pytest.mark.parametrize("status", [200, 403, 503])
async def test_a_record_is_sent_byte_for_byte_with_its_status(world: World, status: int) -> None:
    await world.put("known", status, BODY, partition=2)
    reply = await world.ask()
    assert (reply.status, reply.body) == (status, BODY)
    assert dict(reply.headers) == {
        b"content-type": b"application/json",
        b"content-length": str(len(BODY)).encode(),
        b"cache-control": b"no-store",
        b"age": b"0",
        b"view-version": f"2.{EPOCH}.31".encode(),
    } | ({b"retry-after": b"1"} if status == 503 else {})


async def test_the_key_is_the_sha256_of_the_token(world: World) -> None:
    digest = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    record = ViewRecord(200, 0, Version(EPOCH, 1), BODY)
    await world.redis.set(f"allowed-agents:token:{digest}", record.encode())
    assert (await world.ask("foo")).status == 200


async def test_all_reasons_for_401_give_one_and_the_same_answer(world: World) -> None:
    await world.put("finished", 401, b"")
    answers = [await world.ask("finished")]
    answers += [await world.lookup.answer(LookupRequest(None, None))]
    async with owners(world):
        answers += [await soon(world.ask("unknown"))]
    assert answers == [UNAUTHORIZED] * 3
    assert UNAUTHORIZED.status == 401
    assert UNAUTHORIZED.body == b'{"message":"401 Unauthorized"}'
    names = [name for name, _ in UNAUTHORIZED.headers]
    assert names == [b"content-type", b"content-length", b"cache-control"]


async def test_a_request_without_a_usable_token_needs_no_redis(world: World) -> None:
    world.server.connected = False
    assert await world.lookup.answer(LookupRequest(None, None)) == UNAUTHORIZED


RECORD = ViewRecord(200, 0, Version(EPOCH, 1), BODY).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        RECORD[:34],
        RECORD[:34] + b"{" + BODY,
        b"xxx" + RECORD[3:],
        RECORD[:4] + b"xxxx" + RECORD[8:],
        RECORD[:9] + b"x" * 12 + RECORD[21:],
        RECORD[:22] + b"x" * 12 + RECORD[34:],
        RECORD[:4] + b"-001" + RECORD[8:],
        RECORD[:9] + b"-" + b"0" * 11 + RECORD[21:],
        b"204" + RECORD[3:],
        b"000" + RECORD[3:],
        b"2_0" + RECORD[3:],
        RECORD.replace(b" ", b"_", 1),
    ],
    ids=lambda raw: ascii(raw[:36]),
)
async def test_a_record_that_cannot_be_read_is_503(world: World, raw: bytes) -> None:
    await world.put_raw("known", raw)
    assert reason(await world.ask()) == "the stored view cannot be read"


# freshness


async def test_age_tells_when_the_partition_was_last_known_fresh(world: World) -> None:
    await world.put("known")
    await world.stamp(0, age=3.05)
    await world.polled()
    assert header(await world.ask(), b"age") == b"3"


async def test_a_partition_beyond_the_bound_is_503_and_the_others_are_answered(
    world: World,
) -> None:
    for partition, token in enumerate(["fresh", "stale"]):
        await world.put(token, partition=partition)
    await world.stamp(1, age=11)
    await world.polled()
    assert "partition 1 was last known fresh 1" in (said := reason(await world.ask("stale")))
    assert "the bound is 10 s" in said
    assert (await world.ask("fresh")).status == 200


@pytest.mark.parametrize(
    ("max_age", "status"), [(None, 200), (1, 503), (4, 503), (8, 200), (3600, 200), (9**9, 200)]
)
async def test_a_max_age_that_is_asked_for_tightens_the_bound(
    world: World, max_age: int | None, status: int
) -> None:
    await world.put("known")
    await world.stamp(0, age=5)
    await world.polled()
    assert (await world.ask(max_age=max_age)).status == status


@pytest.mark.parametrize("max_age", [None, 10, 12, 3600, 9**9])
async def test_a_max_age_that_is_asked_for_never_loosens_the_bound(
    world: World, max_age: int | None
) -> None:
    await world.put("known")
    await world.stamp(0, age=11)
    await world.polled()
    assert "the bound is 10 s" in reason(await world.ask(max_age=max_age))


@pytest.mark.parametrize("status", [200, 401, 403, 503])
async def test_a_record_from_before_the_partitions_claim_is_503(world: World, status: int) -> None:
    """A tombstone too: that of a removed project can be taken back."""
    await world.put("known", status, epoch=EPOCH - 1)
    assert reason(await world.ask()) == "the view is older than the claim of partition 0"


async def test_a_record_of_a_claim_that_has_not_stamped_yet_is_answered(world: World) -> None:
    await world.put("known", epoch=EPOCH + 1)
    assert (await world.ask()).status == 200


async def test_a_partition_that_was_never_stamped_is_503(world: World) -> None:
    await world.put("known", partition=1)
    await world.redis.delete(schema.partition_key(1))
    await world.polled()
    assert reason(await world.ask()) == "partition 1 is not known to be fresh yet"


async def test_a_partition_beyond_the_number_of_partitions_is_503(world: World) -> None:
    await world.put("known", partition=PARTITIONS)
    assert "not known to be fresh" in reason(await world.ask())


@pytest.mark.parametrize("number", [None, b"", b"0", b"-1"], ids=ascii)
async def test_without_the_number_of_partitions_every_token_is_503_and_none_401(
    world: World, number: bytes | None
) -> None:
    await world.put("known")
    if number is None:
        await world.redis.delete(schema.PARTITIONS_KEY)
    else:
        await world.redis.set(schema.PARTITIONS_KEY, number)
    await world.polled()
    world.with_limits(miss_grace=SHORT_GRACE_S)
    async with owners(world):
        for token in ("known", "unknown"):
            reason(await soon(world.ask(token)))


@pytest.mark.parametrize("kind", ["another type", "no number"])
@pytest.mark.parametrize("token", ["known", "unknown"])
async def test_a_key_without_a_number_of_partitions_is_the_reason_of_every_503(
    world: World, kind: str, token: str
) -> None:
    await world.put("known")
    await world.redis.delete(schema.PARTITIONS_KEY)
    if kind == "another type":
        await world.redis.rpush(schema.PARTITIONS_KEY, "2")
    else:
        await world.redis.set(schema.PARTITIONS_KEY, "abc")
    await world.polled()
    world.with_limits(miss_grace=SHORT_GRACE_S)
    async with owners(world):
        assert reason(await soon(world.ask(token))) == SENTENCE


async def test_the_log_names_a_key_without_a_number_of_partitions_once(world: World) -> None:
    with capture_logs() as logged:
        await world.redis.set(schema.PARTITIONS_KEY, "abc")
        await world.polled(4)
        await world.redis.set(schema.PARTITIONS_KEY, PARTITIONS)
        await world.polled()
    assert [(line["event"], line.get("reason")) for line in logged] == [
        ("not ready, trying again", SENTENCE), ("ready again", None),
    ]  # fmt: skip


async def test_before_the_first_poll_every_token_is_503_and_none_401(world: World) -> None:
    await world.put("known")
    world.freshness = Freshness(world.redis)
    world.with_limits(miss_grace=SHORT_GRACE_S)
    for token in ("known", "unknown"):
        reason(await soon(world.ask(token)))


@pytest.mark.parametrize("field", ["stamp", "stamp_epoch"])
async def test_a_stamp_that_cannot_be_read_costs_its_own_partition_alone(
    world: World, field: str
) -> None:
    await world.put("known")
    await world.put("other", partition=1)
    await world.stamp()
    await world.redis.hset(schema.partition_key(0), field, "soon")
    await world.polled()
    assert "is not known to be fresh" in reason(await world.ask())
    assert (await world.ask("other")).status == 200
    await world.stamp(0)
    await world.polled()
    assert (await world.ask()).status == 200


# Redis away


async def test_while_redis_is_away_every_lookup_is_503_until_it_is_back(world: World) -> None:
    await world.put("known")
    world.server.connected = False
    for token in ("known", "unknown"):
        assert reason(await world.ask(token)) == "Redis is not reachable"
    world.server.connected = True
    await world.stamp()
    await world.polled()
    assert (await world.ask()).status == 200


async def test_an_outage_is_logged_once_and_so_is_its_end(world: World) -> None:
    with capture_logs() as logged:
        world.server.connected = False
        await world.polled(4)
        world.server.connected = True
        await world.polled(4)
    assert [entry["log_level"] for entry in logged] == ["warning", "info"]
    assert {entry["place"] for entry in logged} == {"redis://test"}


class Scripted:
    """Answers one call after another as told."""

    def __init__(self, *answers: bytes | Exception | None) -> None:
        self._answers = iter(answers)

    async def __call__(self, _keys: Sequence[str]) -> list[bytes | None]:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return [answer]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (OSError("gone"), "Redis is not reachable"),
        (OverloadedError("full"), "too many lookups are waiting"),
        (b"garbage", "the stored view cannot be read"),
        (b"", "the stored view cannot be read"),
        (RuntimeError("broken"), "internal error"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("at", ["first", "second"])
async def test_whatever_is_wrong_at_the_first_or_the_second_read_is_503(
    world: World, at: str, answer: bytes | Exception, says: str
) -> None:
    fetch = Scripted(answer) if at == "first" else Scripted(None, answer)
    lookup = world.with_limits(reads=ReadBatcher(fetch))
    async with owners(world):
        assert reason(await soon(lookup.answer(LookupRequest(b"known", None)))) == says


# misses


async def test_an_unknown_token_is_401_only_after_every_partition_was_stamped_later(
    world: World,
) -> None:
    async with owners(world, 0, 1):
        answer = asyncio.create_task(world.ask("unknown"))
        assert await still_waits(answer, world)
        await world.stamp(2)
        assert await soon(answer) == UNAUTHORIZED


async def test_stamps_for_moments_before_the_request_prove_nothing(world: World) -> None:
    """Written after its arrival, but about a time when its event could be on the way still."""
    before = await redis_batch.server_time(world.redis, schema.PARTITIONS_KEY)
    await asyncio.sleep(0.005)
    answer = asyncio.create_task(world.ask("unknown"))
    await world.polled()
    await world.stamp_at(before, *range(PARTITIONS))
    assert await still_waits(answer, world)
    await world.stamp()
    assert await soon(answer) == UNAUTHORIZED


async def test_a_miss_that_cannot_be_proven_in_time_is_503(world: World) -> None:
    world.with_limits(miss_grace=SHORT_GRACE_S)
    async with owners(world, 0, 1):
        said = reason(await soon(world.ask("unknown")))
    assert said == "the token may be valid: events about it may be on their way"


@pytest.mark.parametrize("status", [200, 403, 503, 401])
async def test_a_token_that_appears_while_its_lookup_waits_is_answered(
    world: World, status: int
) -> None:
    answer = asyncio.create_task(world.ask("late"))
    assert await still_waits(answer, world)
    await world.put("late", status)
    await world.stamp()
    assert (await soon(answer)).status == status


async def test_a_token_that_appears_from_before_the_claim_is_503(world: World) -> None:
    answer = asyncio.create_task(world.ask("late"))
    assert await still_waits(answer, world)
    await world.put("late", epoch=EPOCH - 1)
    await world.stamp()
    assert "older than the claim" in reason(await soon(answer))


async def test_a_miss_in_a_redis_that_was_emptied_proves_nothing(world: World) -> None:
    """The token is gone with everything else; that the stamps are too shows a moment later."""

    async def emptied(_keys: Sequence[str]) -> list[bytes | None]:
        if world.freshness.covers(arrival, arrival):
            await world.redis.flushall()
        return [None]

    lookup = world.with_limits(miss_grace=SHORT_GRACE_S, reads=ReadBatcher(emptied))
    arrival = time.monotonic()
    answer = asyncio.create_task(lookup.answer(LookupRequest(b"known", None)))
    await world.polled()
    await world.stamp()
    assert "may be on their way" in reason(await soon(answer))


async def test_a_miss_in_a_redis_that_was_emptied_and_healed_at_once_is_no_401(
    world: World,
) -> None:
    """The stamps are back before anybody saw that they were gone, and so is the token."""

    emptied = False

    async def healed(keys: Sequence[str]) -> list[bytes | None]:
        nonlocal emptied
        if emptied or not world.freshness.covers(arrival, arrival):
            return list(await mget(keys))
        emptied = True
        await world.redis.flushall()
        missed = list(await mget(keys))
        await world.put("known")
        await world.redis.set(schema.PARTITIONS_KEY, PARTITIONS)
        await world.stamp()
        return missed

    mget = Mget(world.redis)
    lookup = world.with_limits(reads=ReadBatcher(healed))
    arrival = time.monotonic()
    answer = asyncio.create_task(lookup.answer(LookupRequest(b"known", None)))
    await world.polled()
    await world.stamp()
    assert await soon(answer) != UNAUTHORIZED


async def test_the_number_of_partitions_counts_that_was_read_after_the_request(
    world: World,
) -> None:
    """A partition more may be where the token's event is."""
    world.with_limits(miss_grace=SHORT_GRACE_S)
    await world.redis.set(schema.PARTITIONS_KEY, PARTITIONS + 1)
    async with owners(world):
        reason(await soon(world.ask("unknown")))


async def test_more_unknown_tokens_than_may_wait_are_503_at_once(world: World) -> None:
    world.with_limits(waiting=2)
    waiting = [asyncio.create_task(world.ask(f"unknown {i}")) for i in range(2)]
    assert await still_waits(waiting[0], world)
    assert (
        reason(await soon(world.ask("one more")))
        == "too many tokens are waiting for proof that they are not valid"
    )
    await world.put("known")
    assert (await world.ask()).status == 200
    await world.stamp()
    assert await soon(waiting[0]) == await soon(waiting[1]) == UNAUTHORIZED


@pytest.mark.parametrize("ends", ["proven", "unproven"])
async def test_a_lookup_that_waited_makes_room_for_the_next_however_it_ends(
    world: World, ends: str
) -> None:
    world.with_limits(waiting=1, miss_grace=SHORT_GRACE_S if ends == "unproven" else LONG_GRACE_S)
    first = asyncio.create_task(world.ask("first"))
    assert await still_waits(first, world)
    if ends == "proven":
        await world.stamp()
    await asyncio.wait([first], timeout=PATIENCE_S)
    async with owners(world):
        assert await soon(world.ask("second")) == UNAUTHORIZED


# to the millisecond


class Clock:
    """Both clocks by hand: Redis TIME and this process's own, in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, redis: float, own: float) -> None:
        self.own = own
        redis_clock = SimpleNamespace(time=lambda: redis)
        monkeypatch.setattr("fakeredis.commands_mixins.server_mixin.time", redis_clock)
        monkeypatch.setattr("api.freshness.time", SimpleNamespace(monotonic=lambda: self.own))


async def test_no_stamp_proves_a_miss_on_a_server_that_was_met_after_it(world: World) -> None:
    """A server of a cluster comes back empty; the stamps are on another and go on."""
    server = RedisServers()
    freshness = Freshness(world.redis, server)
    polling = asyncio.create_task(freshness.run("redis://test"))
    arrival = time.monotonic()
    async with owners(world, *range(PARTITIONS)):
        while not freshness.covers(arrival, arrival):
            await freshness.next_poll(PATIENCE_S)
        server.met_at = time.monotonic()
        assert not freshness.covers(arrival, arrival)
        while not freshness.covers(arrival, arrival):
            await freshness.next_poll(PATIENCE_S)
    polling.cancel()


async def poll_once(stamp: int) -> Freshness:
    redis = FakeAsyncRedis(socket_timeout=None)
    await redis.set(schema.PARTITIONS_KEY, 1)
    await redis.hset(schema.partition_key(0), mapping={"stamp": stamp, "stamp_epoch": 7})
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
    freshness = await poll_once(stamp=997_000)
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
    freshness = await poll_once(stamp=999_999)
    assert freshness.covers(49.0, since=50.0)
    assert not freshness.covers(49.0, since=50.001)


async def test_a_stamp_from_the_future_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failover led to a server whose clock is behind: nothing is known to be fresh there."""
    Clock(monkeypatch, redis=1000.0, own=50.0)
    freshness = await poll_once(stamp=1_000_001)
    assert freshness.ages() == [None]
    assert not freshness.covers(49.0, since=0.0)


async def test_whoever_hurries_need_not_wait_for_the_next_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.freshness.POLL_INTERVAL_S", 3600.0)
    world = World()
    polling = asyncio.create_task(world.freshness.run("redis://test"))
    await world.freshness.next_poll(PATIENCE_S)
    world.freshness.hurry()
    async with asyncio.timeout(PATIENCE_S):
        await world.freshness.next_poll(3600)
    polling.cancel()
    await world.redis.aclose()


# a 401 that may end: the project was removed, and its return may be on its way

PROVISIONAL = b'{"message":"401 Unauthorized"}'


async def test_a_removed_projects_token_is_401_once_its_own_partition_is_fresh(
    world: World,
) -> None:
    await world.put("known", 401, PROVISIONAL, partition=1)
    await world.stamp(0, 2, age=60)
    answer = asyncio.create_task(world.ask())
    assert await still_waits(answer, world)
    async with owners(world, 1):
        assert await soon(answer) == UNAUTHORIZED


async def test_a_project_that_came_back_meanwhile_is_answered(world: World) -> None:
    await world.put("known", 401, PROVISIONAL)
    answer = asyncio.create_task(world.ask())
    assert await still_waits(answer, world)
    await world.put("known", 200)
    async with owners(world, 0):
        assert (await soon(answer)).status == 200


async def test_a_removed_projects_token_in_an_emptied_redis_needs_the_whole_proof(
    world: World,
) -> None:
    await world.put("known", 401, PROVISIONAL)
    answer = asyncio.create_task(world.ask())
    assert await still_waits(answer, world)
    await world.redis.delete(schema.token_record_key(hashlib.sha256(b"known").hexdigest()))
    async with owners(world, 0):
        assert await still_waits(answer, world)
        async with owners(world, 1, 2):
            assert await soon(answer) == UNAUTHORIZED


async def test_a_removed_projects_token_is_503_where_nothing_can_be_proven(world: World) -> None:
    await world.put("known", 401, PROVISIONAL)
    world.with_limits(miss_grace=SHORT_GRACE_S)
    assert "on their way" in reason(await world.ask())


async def test_a_finished_jobs_token_is_401_at_once(world: World) -> None:
    """Finished is final."""
    await world.put("known", 401)
    assert await world.ask() == UNAUTHORIZED


async def test_a_removed_projects_token_is_read_again_behind_the_proof(world: World) -> None:
    """A failover to a server without the last writes could have come between stamp and read."""
    await world.put("known", 401, PROVISIONAL)
    asked = asyncio.create_task(world.ask())
    assert await still_waits(asked, world)
    mget = Mget(world.redis)
    first = True

    async def stale_once(keys: Sequence[str]) -> Sequence[bytes | None]:
        nonlocal first
        stored = await mget(keys)
        if first:
            first = False
            await world.put("known", 200)
        return stored

    world.lookup._reads._fetch = stale_once
    async with owners(world):
        assert (await soon(asked)).status == 200
