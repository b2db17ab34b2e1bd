"""Lookups against a fake Redis: what is answered from which record, and when it is 503 or 401."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from api.freshness import NEVER, Freshness
from api.lookup_request import LookupRequest
from api.read_batcher import InTasks, OverloadedError, ReadBatcher, Values
from api.redis_mget import Mget
from api.replies import UNAUTHORIZED, Reply
from projector.clients import redis_batch
from projector.elapsed import elapsed
from projector.store import schema
from projector.store.schema import Version, ViewRecord
from tests.unit.api.lookup_world import (
    BODY,
    EPOCH,
    LONG_GRACE_S,
    PARTITIONS,
    PATIENCE_S,
    LookupWorld,
    owners,
    soon,
    still_waits,
)
from tests.unit.store.test_partition_count import SENTENCE

SHORT_GRACE_S = 0.3


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
async def test_a_record_is_sent_byte_for_byte_with_its_status(
    lookup_world: LookupWorld, status: int
) -> None:
    await lookup_world.put("known", status, BODY, partition=2)
    reply = await lookup_world.ask()
    assert (reply.status, reply.body) == (status, BODY)
    assert dict(reply.headers) == {
        b"content-type": b"application/json",
        b"content-length": str(len(BODY)).encode(),
        b"cache-control": b"no-store",
        b"age": b"0",
        b"view-version": f"2.{EPOCH}.31".encode(),
    } | ({b"retry-after": b"1"} if status == 503 else {})


async def test_the_key_is_the_sha256_of_the_token(lookup_world: LookupWorld) -> None:
    digest = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    record = ViewRecord(200, 0, Version(EPOCH, 1), BODY)
    await lookup_world.redis.set(f"allowed-agents:token:{digest}", record.encode())
    assert (await lookup_world.ask("foo")).status == 200


async def test_all_reasons_for_401_give_one_and_the_same_answer(lookup_world: LookupWorld) -> None:
    await lookup_world.put("finished", 401, b"")
    answers = [await lookup_world.ask("finished")]
    answers += [await lookup_world.lookup.answer(LookupRequest(None, None))]
    async with owners(lookup_world):
        answers += [await soon(lookup_world.ask("unknown"))]
    assert answers == [UNAUTHORIZED] * 3
    assert UNAUTHORIZED.status == 401
    assert UNAUTHORIZED.body == b'{"message":"401 Unauthorized"}'
    names = [name for name, _ in UNAUTHORIZED.headers]
    assert names == [b"content-type", b"content-length", b"cache-control"]


async def test_a_request_without_a_usable_token_needs_no_redis(lookup_world: LookupWorld) -> None:
    lookup_world.server.connected = False
    assert await lookup_world.lookup.answer(LookupRequest(None, None)) == UNAUTHORIZED


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
async def test_a_record_that_cannot_be_read_is_503(lookup_world: LookupWorld, raw: bytes) -> None:
    await lookup_world.put_raw("known", raw)
    assert reason(await lookup_world.ask()) == "the stored view cannot be read"


# freshness


async def test_age_tells_when_the_partition_was_last_known_fresh(lookup_world: LookupWorld) -> None:
    await lookup_world.put("known")
    await lookup_world.stamp(0, age=3.05)
    await lookup_world.polled()
    assert header(await lookup_world.ask(), b"age") == b"3"


async def test_a_partition_beyond_the_bound_is_503_and_the_others_are_answered(
    lookup_world: LookupWorld,
) -> None:
    for partition, token in enumerate(["fresh", "stale"]):
        await lookup_world.put(token, partition=partition)
    await lookup_world.stamp(1, age=11)
    await lookup_world.polled()
    assert "partition 1 was last known fresh 1" in (said := reason(await lookup_world.ask("stale")))
    assert "the bound is 10 s" in said
    assert (await lookup_world.ask("fresh")).status == 200


@pytest.mark.parametrize(
    ("max_age", "status"), [(None, 200), (1, 503), (4, 503), (8, 200), (3600, 200), (9**9, 200)]
)
async def test_a_max_age_that_is_asked_for_tightens_the_bound(
    lookup_world: LookupWorld, max_age: int | None, status: int
) -> None:
    await lookup_world.put("known")
    await lookup_world.stamp(0, age=5)
    await lookup_world.polled()
    assert (await lookup_world.ask(max_age=max_age)).status == status


@pytest.mark.parametrize("max_age", [None, 10, 12, 3600, 9**9])
async def test_a_max_age_that_is_asked_for_never_loosens_the_bound(
    lookup_world: LookupWorld, max_age: int | None
) -> None:
    await lookup_world.put("known")
    await lookup_world.stamp(0, age=11)
    await lookup_world.polled()
    assert "the bound is 10 s" in reason(await lookup_world.ask(max_age=max_age))


@pytest.mark.parametrize(
    ("age", "max_age", "status"),
    [
        (10.0, None, 200), (10.001, None, 503), (10.999, None, 503), (10.001, 3600, 503),
        (1.0, 1, 200), (1.001, 1, 503), (1.999, 1, 503),
    ],
)  # fmt: skip
async def test_the_bound_is_the_bound_and_nothing_is_added_to_it(
    lookup_world: LookupWorld, monkeypatch: pytest.MonkeyPatch, age: float, max_age: int | None,
    status: int,
) -> None:  # fmt: skip
    await lookup_world.put("known")
    monkeypatch.setattr(lookup_world.freshness, "known", lambda *_: (age, EPOCH))
    assert (await lookup_world.ask(max_age=max_age)).status == status


@pytest.mark.parametrize("status", [200, 401, 403, 503])
async def test_a_record_from_before_the_partitions_claim_is_503(
    lookup_world: LookupWorld, status: int
) -> None:
    """A tombstone too: that of a removed project can be taken back."""
    await lookup_world.put("known", status, epoch=EPOCH - 1)
    assert reason(await lookup_world.ask()) == "the view is older than the claim of partition 0"


async def test_a_record_of_a_claim_that_has_not_stamped_yet_is_answered(
    lookup_world: LookupWorld,
) -> None:
    await lookup_world.put("known", epoch=EPOCH + 1)
    assert (await lookup_world.ask()).status == 200


async def test_a_partition_that_was_never_stamped_is_503(lookup_world: LookupWorld) -> None:
    await lookup_world.put("known", partition=1)
    await lookup_world.redis.delete(schema.partition_key(1))
    await lookup_world.polled()
    assert reason(await lookup_world.ask()) == "partition 1 is not known to be fresh yet"


# a partition waits for a silent source


async def test_a_stale_partition_that_waits_for_a_source_names_it(
    lookup_world: LookupWorld,
) -> None:
    await lookup_world.put("known")
    await lookup_world.stamp(0, age=12)
    await lookup_world.silence(0, "gitlab", 12)
    await lookup_world.polled()
    said = reason(await lookup_world.ask())
    assert said.startswith("source gitlab has been silent for 12 s; partition 0 was last known")
    await lookup_world.redis.hdel(schema.partition_key(0), "silent")
    await lookup_world.polled()
    assert reason(await lookup_world.ask()).startswith("partition 0 was last known fresh")


async def test_a_source_that_is_silent_within_the_bound_costs_known_tokens_nothing(
    lookup_world: LookupWorld,
) -> None:
    await lookup_world.put("known")
    await lookup_world.stamp(0, age=3)
    await lookup_world.silence(0, "gitlab", 3)
    await lookup_world.polled()
    reply = await lookup_world.ask()
    assert (reply.status, reply.body) == (200, BODY)
    assert "source gitlab has been silent for 3 s; partition 0" in reason(
        await lookup_world.ask(max_age=1)
    )


async def test_a_partition_that_was_never_stamped_names_the_source_that_it_waits_for(
    lookup_world: LookupWorld,
) -> None:
    await lookup_world.put("known", partition=1)
    await lookup_world.redis.delete(schema.partition_key(1))
    await lookup_world.silence(1, "gitlab", None)
    await lookup_world.polled()
    assert reason(await lookup_world.ask()) == (
        "source gitlab has been silent since before the partition's owner began; "
        "partition 1 is not known to be fresh yet"
    )


@pytest.mark.parametrize(
    "raw", [b"gitlab", b"GITLAB 1", b"git\x1b[2Jlab 1", b"\xff" * 100_000, b"gitlab " + b"9" * 400]
)
async def test_a_malformed_source_reaches_no_client_and_hides_no_stamp(
    lookup_world: LookupWorld, raw: bytes
) -> None:
    for partition, token in enumerate(["stale", "fresh"]):
        await lookup_world.put(token, partition=partition)
        await lookup_world.redis.hset(schema.partition_key(partition), "silent", raw)
    await lookup_world.stamp(0, age=12)
    await lookup_world.polled()
    assert reason(await lookup_world.ask("stale")).startswith("partition 0 was last known fresh")
    assert (await lookup_world.ask("fresh")).status == 200


async def test_a_miss_that_waits_for_a_source_names_it(lookup_world: LookupWorld) -> None:
    """Only sources that keep the miss from being proven: partition 1 is stamped again and again."""
    lookup_world.with_limits(miss_grace=SHORT_GRACE_S)
    await lookup_world.silence(0, "gitlab", 7)
    await lookup_world.silence(1, "hr", 60)
    await lookup_world.polled()
    async with owners(lookup_world, 1, 2):
        said = reason(await soon(lookup_world.ask("unknown")))
    assert said == (
        "source gitlab has been silent for 7 s; "
        "the token may be valid: events about it may be on their way"
    )


@pytest.mark.parametrize("partitions", [0, 2])
async def test_a_miss_before_any_worker_has_stamped_asks_for_a_worker(
    lookup_world: LookupWorld, partitions: int
) -> None:
    """Events on their way were blamed while no worker had ever run."""
    await lookup_world.redis.flushall()
    if partitions:
        await lookup_world.redis.set(schema.PARTITIONS_KEY, partitions)
    lookup_world.with_limits(miss_grace=SHORT_GRACE_S)
    await lookup_world.polled()
    assert reason(await soon(lookup_world.ask("unknown"))) == (
        "no partition has been fresh yet: start `projector worker`, or read in its log what it "
        "waits for"
    )


async def test_a_removed_projects_token_waits_for_the_source_of_its_own_partition(
    lookup_world: LookupWorld,
) -> None:
    lookup_world.with_limits(miss_grace=SHORT_GRACE_S)
    await lookup_world.put("known", 401, PROVISIONAL, partition=1)
    await lookup_world.silence(0, "gitlab", 7)
    await lookup_world.silence(1, "hr", 3)
    await lookup_world.polled()
    assert reason(await soon(lookup_world.ask())).startswith("source hr has been silent for ")


async def test_a_source_is_not_blamed_once_the_owner_that_noted_it_is_gone(
    lookup_world: LookupWorld,
) -> None:
    """The owner died, or is of an older version that never removes the note."""
    await lookup_world.put("known")
    await lookup_world.stamp(0, age=12)
    await lookup_world.silence(0, "gitlab", 12, noted_ago=3)
    await lookup_world.polled()
    assert reason(await lookup_world.ask()).startswith("partition 0 was last known fresh")


async def test_a_source_is_not_blamed_while_redis_is_away(lookup_world: LookupWorld) -> None:
    """The latest poll grows old, and the source may be back."""
    await lookup_world.stamp(0, age=12)
    await lookup_world.silence(0, "gitlab", 12)
    await lookup_world.polled()
    freshness = lookup_world.freshness
    assert freshness.with_cause("late", [0]) == "source gitlab has been silent for 12 s; late"
    lookup_world.server.connected = False
    await lookup_world.polled()
    assert freshness.with_cause("late", [0]) == "late"
    lookup_world.server.connected = True


async def test_a_partition_beyond_the_number_of_partitions_is_503(
    lookup_world: LookupWorld,
) -> None:
    await lookup_world.put("known", partition=PARTITIONS)
    assert "not known to be fresh" in reason(await lookup_world.ask())


@pytest.mark.parametrize("number", [None, b"", b"0", b"-1"], ids=ascii)
async def test_without_the_number_of_partitions_every_token_is_503_and_none_401(
    lookup_world: LookupWorld, number: bytes | None
) -> None:
    await lookup_world.put("known")
    if number is None:
        await lookup_world.redis.delete(schema.PARTITIONS_KEY)
    else:
        await lookup_world.redis.set(schema.PARTITIONS_KEY, number)
    await lookup_world.polled()
    lookup_world.with_limits(miss_grace=SHORT_GRACE_S)
    async with owners(lookup_world):
        for token in ("known", "unknown"):
            reason(await soon(lookup_world.ask(token)))


@pytest.mark.parametrize("kind", ["another type", "no number"])
@pytest.mark.parametrize("token", ["known", "unknown"])
async def test_a_key_without_a_number_of_partitions_is_the_reason_of_every_503(
    lookup_world: LookupWorld, kind: str, token: str
) -> None:
    await lookup_world.put("known")
    await lookup_world.redis.delete(schema.PARTITIONS_KEY)
    if kind == "another type":
        await lookup_world.redis.rpush(schema.PARTITIONS_KEY, "2")
    else:
        await lookup_world.redis.set(schema.PARTITIONS_KEY, "abc")
    await lookup_world.polled()
    lookup_world.with_limits(miss_grace=SHORT_GRACE_S)
    async with owners(lookup_world):
        assert reason(await soon(lookup_world.ask(token))) == SENTENCE


async def test_the_log_names_a_key_without_a_number_of_partitions_once(
    lookup_world: LookupWorld,
) -> None:
    with capture_logs() as logged:
        await lookup_world.redis.set(schema.PARTITIONS_KEY, "abc")
        await lookup_world.polled(4)
        await lookup_world.redis.set(schema.PARTITIONS_KEY, PARTITIONS)
        await lookup_world.polled()
    assert [(line["event"], line.get("reason")) for line in logged] == [
        ("not ready, trying again", SENTENCE), ("ready again", None),
    ]  # fmt: skip


async def test_before_the_first_poll_every_token_is_503_and_none_401(
    lookup_world: LookupWorld,
) -> None:
    await lookup_world.put("known")
    lookup_world.freshness = Freshness(lookup_world.redis)
    lookup_world.with_limits(miss_grace=SHORT_GRACE_S)
    for token in ("known", "unknown"):
        reason(await soon(lookup_world.ask(token)))


DAMAGE = {
    "a stamp of letters": ("stamp", "soon"),
    "an epoch of letters": ("stamp_epoch", "soon"),
    "a stamp too long for a float": ("stamp", "9" * 400),
    "another type": (),
}


async def damage(lookup_world: LookupWorld, kind: str) -> None:
    key = schema.partition_key(0)
    if DAMAGE[kind]:
        field, value = DAMAGE[kind]
        await lookup_world.redis.hset(key, field, value)
    else:
        await lookup_world.redis.set(key, "x")


@pytest.mark.parametrize("kind", DAMAGE)
async def test_a_stamp_that_cannot_be_read_costs_its_own_partition_alone(
    lookup_world: LookupWorld, kind: str
) -> None:
    await lookup_world.put("known")
    await lookup_world.put("other", partition=1)
    await lookup_world.stamp()
    await damage(lookup_world, kind)
    await lookup_world.polled()
    said = reason(await lookup_world.ask())
    assert said == "partition 0 is not known to be fresh: its stamp cannot be read"
    assert lookup_world.freshness.reachable
    assert (await lookup_world.ask("other")).status == 200
    await lookup_world.redis.delete(schema.partition_key(0))
    await lookup_world.stamp(0)
    await lookup_world.polled()
    assert (await lookup_world.ask()).status == 200


@pytest.mark.parametrize("kind", DAMAGE)
async def test_a_stamp_that_cannot_be_read_proves_no_miss(
    lookup_world: LookupWorld, kind: str
) -> None:
    lookup_world.with_limits(miss_grace=SHORT_GRACE_S)
    await damage(lookup_world, kind)
    async with owners(lookup_world, 1, 2):
        assert "on their way" in reason(await soon(lookup_world.ask("unknown")))


@pytest.mark.parametrize("kind", DAMAGE)
async def test_a_stamp_that_cannot_be_read_is_logged_once_and_so_is_its_end(
    lookup_world: LookupWorld, kind: str
) -> None:
    with capture_logs() as logged:
        await damage(lookup_world, kind)
        await lookup_world.polled(4)
        await lookup_world.redis.delete(schema.partition_key(0))
        await lookup_world.polled(4)
    assert [(line["event"], line["partition"]) for line in logged] == [
        ("stamp unreadable", 0), ("stamp readable again", 0),
    ]  # fmt: skip


async def test_a_redis_of_which_every_stamp_is_damaged_is_reachable(
    lookup_world: LookupWorld,
) -> None:
    for partition in range(PARTITIONS):
        await lookup_world.redis.set(schema.partition_key(partition), "x")
    await lookup_world.polled()
    assert lookup_world.freshness.reachable
    assert lookup_world.freshness.ages() == [None] * PARTITIONS


# stamps and views in the order of their reads


class Slow:
    """Reads at once, and delivers the values once `hold` is over."""

    def __init__(self, world: LookupWorld) -> None:
        self._mget = Mget(world.redis)
        self.read = asyncio.Event()
        self.deliver = asyncio.Event()

    async def __call__(self, keys: Sequence[str]) -> Values:
        found = await self._mget(keys)
        self.read.set()
        await self.deliver.wait()
        return found


@pytest.mark.parametrize(("max_age", "status"), [(None, 200), (4, 503)])
async def test_a_view_is_measured_by_a_stamp_from_before_its_read(
    lookup_world: LookupWorld, max_age: int | None, status: int
) -> None:
    """Its answer travels while the owner revokes, stamps, and the stamp is polled."""
    await lookup_world.put("known")
    await lookup_world.stamp(age=5)
    await lookup_world.polled()
    slow = Slow(lookup_world)
    lookup_world.with_limits(reads=ReadBatcher(InTasks(slow)))
    answer = asyncio.create_task(lookup_world.ask(max_age=max_age))
    await slow.read.wait()
    await lookup_world.put("known", body=b"revoked")
    await lookup_world.stamp()
    await lookup_world.polled()
    slow.deliver.set()
    reply = await soon(answer)
    assert reply.status == status
    if status == 200:
        assert (reply.body, header(reply, b"age")) == (BODY, b"5")


async def test_a_view_that_appears_during_a_proof_is_measured_by_a_stamp_from_before_its_read(
    lookup_world: LookupWorld,
) -> None:
    slow = Slow(lookup_world)
    slow.deliver.set()
    lookup_world.with_limits(reads=ReadBatcher(InTasks(slow)))
    answer = asyncio.create_task(lookup_world.ask("late"))
    assert await still_waits(answer, lookup_world)
    slow.deliver.clear()
    slow.read.clear()
    await lookup_world.put("late")
    await lookup_world.stamp()
    await slow.read.wait()
    before = lookup_world.freshness.poll
    await lookup_world.redis.delete(*map(schema.partition_key, range(PARTITIONS)))
    await lookup_world.polled()
    assert lookup_world.freshness.poll.stamps != before.stamps
    slow.deliver.set()
    assert (await soon(answer)).status == 200


async def test_a_view_read_before_the_first_poll_is_503(lookup_world: LookupWorld) -> None:
    await lookup_world.put("known")
    lookup_world.freshness.poll, polled = NEVER, lookup_world.freshness.poll
    answer = asyncio.create_task(lookup_world.ask())
    await asyncio.sleep(0)
    lookup_world.freshness.poll = polled
    assert "not known to be fresh yet" in reason(await soon(answer))


async def test_a_view_from_a_server_met_after_the_poll_is_503_until_the_next_one(
    lookup_world: LookupWorld,
) -> None:
    """Redis came back from an old dump: its views are old, and so will its stamps be."""
    await lookup_world.put("known")
    lookup_world.servers.meet("")
    assert "not known to be fresh yet" in reason(await lookup_world.ask())
    await lookup_world.polled()
    assert (await lookup_world.ask()).status == 200


async def test_a_miss_on_a_server_met_during_the_last_read_needs_another_proof(
    lookup_world: LookupWorld,
) -> None:
    """It came back from an old dump, between the poll that proved the miss and the read."""
    reads = 0
    mget = Mget(lookup_world.redis)

    async def lost_at_the_last_read(keys: Sequence[str]) -> Values:
        nonlocal reads
        reads += 1
        if reads == 3:
            lookup_world.servers.meet("")
            await lookup_world.put("known")
            return Values([None], [""])
        return await mget(keys)

    lookup = lookup_world.with_limits(reads=ReadBatcher(InTasks(lost_at_the_last_read)))
    async with owners(lookup_world):
        reply = await soon(lookup.answer(LookupRequest(b"known", None)))
    assert (reads, reply.status) == (4, 200)


async def test_a_removed_projects_token_that_is_lost_at_the_last_read_needs_the_whole_proof(
    lookup_world: LookupWorld,
) -> None:
    await lookup_world.put("known", 401, PROVISIONAL)
    reads = 0
    mget = Mget(lookup_world.redis)

    async def lost_at_the_last_read(keys: Sequence[str]) -> Values:
        nonlocal reads
        reads += 1
        return Values([None], [""]) if reads > 2 else await mget(keys)

    lookup = lookup_world.with_limits(
        miss_grace=SHORT_GRACE_S, reads=ReadBatcher(InTasks(lost_at_the_last_read))
    )
    async with owners(lookup_world, 0):
        said = reason(await soon(lookup.answer(LookupRequest(b"known", None))))
    assert "on their way" in said


# Redis away


async def test_while_redis_is_away_every_lookup_is_503_until_it_is_back(
    lookup_world: LookupWorld,
) -> None:
    await lookup_world.put("known")
    lookup_world.server.connected = False
    for token in ("known", "unknown"):
        assert reason(await lookup_world.ask(token)) == "Redis is not reachable"
    lookup_world.server.connected = True
    await lookup_world.stamp()
    await lookup_world.polled()
    assert (await lookup_world.ask()).status == 200


async def test_an_outage_is_logged_once_and_so_is_its_end(lookup_world: LookupWorld) -> None:
    with capture_logs() as logged:
        lookup_world.server.connected = False
        await lookup_world.polled(4)
        lookup_world.server.connected = True
        await lookup_world.polled(4)
    assert [entry["log_level"] for entry in logged] == ["warning", "info"]
    assert {entry["place"] for entry in logged} == {"redis://test"}


class Scripted:
    """Answers one call after another as told."""

    def __init__(self, *answers: bytes | Exception | None) -> None:
        self._answers = iter(answers)

    async def __call__(self, _keys: Sequence[str]) -> Values:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return Values([answer], [""])


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
    lookup_world: LookupWorld, at: str, answer: bytes | Exception, says: str
) -> None:
    fetch = Scripted(answer) if at == "first" else Scripted(None, answer)
    lookup = lookup_world.with_limits(reads=ReadBatcher(InTasks(fetch)))
    async with owners(lookup_world):
        assert reason(await soon(lookup.answer(LookupRequest(b"known", None)))) == says


# misses


async def test_an_unknown_token_is_401_only_after_every_partition_was_stamped_later(
    lookup_world: LookupWorld,
) -> None:
    async with owners(lookup_world, 0, 1):
        answer = asyncio.create_task(lookup_world.ask("unknown"))
        assert await still_waits(answer, lookup_world)
        await lookup_world.stamp(2)
        assert await soon(answer) == UNAUTHORIZED


async def test_stamps_for_moments_before_the_request_prove_nothing(
    lookup_world: LookupWorld,
) -> None:
    """Written after its arrival, but about a time when its event could be on the way still."""
    before = await redis_batch.server_time(lookup_world.redis, schema.PARTITIONS_KEY)
    await asyncio.sleep(0.005)
    answer = asyncio.create_task(lookup_world.ask("unknown"))
    await lookup_world.polled()
    await lookup_world.stamp_at(before, *range(PARTITIONS))
    assert await still_waits(answer, lookup_world)
    await lookup_world.stamp()
    assert await soon(answer) == UNAUTHORIZED


async def test_the_second_proof_of_a_miss_does_not_wait_for_an_interval(
    lookup_world: LookupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs one more poll, which it asks for."""
    answer = asyncio.create_task(lookup_world.ask("unknown"))
    assert await still_waits(answer, lookup_world)
    await lookup_world.stamp()
    monkeypatch.setattr("api.freshness.POLL_INTERVAL_S", 3600.0)
    lookup_world.freshness.hurry()
    assert await soon(answer) == UNAUTHORIZED


async def test_a_miss_that_cannot_be_proven_in_time_is_503(lookup_world: LookupWorld) -> None:
    lookup_world.with_limits(miss_grace=SHORT_GRACE_S)
    async with owners(lookup_world, 0, 1):
        said = reason(await soon(lookup_world.ask("unknown")))
    assert said == "the token may be valid: events about it may be on their way"


@pytest.mark.parametrize("status", [200, 403, 503, 401])
async def test_a_token_that_appears_while_its_lookup_waits_is_answered(
    lookup_world: LookupWorld, status: int
) -> None:
    answer = asyncio.create_task(lookup_world.ask("late"))
    assert await still_waits(answer, lookup_world)
    await lookup_world.put("late", status)
    await lookup_world.stamp()
    assert (await soon(answer)).status == status


async def test_a_token_that_appears_from_before_the_claim_is_503(lookup_world: LookupWorld) -> None:
    answer = asyncio.create_task(lookup_world.ask("late"))
    assert await still_waits(answer, lookup_world)
    await lookup_world.put("late", epoch=EPOCH - 1)
    await lookup_world.stamp()
    assert "older than the claim" in reason(await soon(answer))


async def test_a_miss_in_a_redis_that_was_emptied_proves_nothing(lookup_world: LookupWorld) -> None:
    """The token is gone with everything else; that the stamps are too shows a moment later."""

    async def emptied(_keys: Sequence[str]) -> Values:
        if lookup_world.covers(arrival):
            await lookup_world.redis.flushall()
        return Values([None], [""])

    lookup = lookup_world.with_limits(miss_grace=SHORT_GRACE_S, reads=ReadBatcher(InTasks(emptied)))
    arrival = elapsed()
    answer = asyncio.create_task(lookup.answer(LookupRequest(b"known", None)))
    await lookup_world.polled()
    await lookup_world.stamp()
    assert "no partition has been fresh yet" in reason(await soon(answer))


async def test_a_miss_in_a_redis_that_was_emptied_and_healed_at_once_is_no_401(
    lookup_world: LookupWorld,
) -> None:
    """The stamps are back before anybody saw that they were gone, and so is the token."""

    emptied = False

    async def healed(keys: Sequence[str]) -> Values:
        nonlocal emptied
        if emptied or not lookup_world.covers(arrival):
            return await mget(keys)
        emptied = True
        await lookup_world.redis.flushall()
        missed = await mget(keys)
        await lookup_world.put("known")
        await lookup_world.redis.set(schema.PARTITIONS_KEY, PARTITIONS)
        await lookup_world.stamp()
        return missed

    mget = Mget(lookup_world.redis)
    lookup = lookup_world.with_limits(reads=ReadBatcher(InTasks(healed)))
    arrival = elapsed()
    answer = asyncio.create_task(lookup.answer(LookupRequest(b"known", None)))
    await lookup_world.polled()
    await lookup_world.stamp()
    assert await soon(answer) != UNAUTHORIZED


async def test_the_number_of_partitions_counts_that_was_read_after_the_request(
    lookup_world: LookupWorld,
) -> None:
    """A partition more may be where the token's event is."""
    lookup_world.with_limits(miss_grace=SHORT_GRACE_S)
    await lookup_world.redis.set(schema.PARTITIONS_KEY, PARTITIONS + 1)
    async with owners(lookup_world):
        reason(await soon(lookup_world.ask("unknown")))


async def test_more_unknown_tokens_than_may_wait_are_503_at_once(lookup_world: LookupWorld) -> None:
    lookup_world.with_limits(waiting=2)
    waiting = [asyncio.create_task(lookup_world.ask(f"unknown {i}")) for i in range(2)]
    assert await still_waits(waiting[0], lookup_world)
    assert (
        reason(await soon(lookup_world.ask("one more")))
        == "too many tokens are waiting for proof that they are not valid"
    )
    await lookup_world.put("known")
    assert (await lookup_world.ask()).status == 200
    await lookup_world.stamp()
    assert await soon(waiting[0]) == await soon(waiting[1]) == UNAUTHORIZED


@pytest.mark.parametrize("ends", ["proven", "unproven"])
async def test_a_lookup_that_waited_makes_room_for_the_next_however_it_ends(
    lookup_world: LookupWorld, ends: str
) -> None:
    lookup_world.with_limits(
        waiting=1, miss_grace=SHORT_GRACE_S if ends == "unproven" else LONG_GRACE_S
    )
    first = asyncio.create_task(lookup_world.ask("first"))
    assert await still_waits(first, lookup_world)
    if ends == "proven":
        await lookup_world.stamp()
    await asyncio.wait([first], timeout=PATIENCE_S)
    async with owners(lookup_world):
        assert await soon(lookup_world.ask("second")) == UNAUTHORIZED


# a 401 that may end: the project was removed, and its return may be on its way

PROVISIONAL = b'{"message":"401 Unauthorized"}'


async def test_a_removed_projects_token_is_401_once_its_own_partition_is_fresh(
    lookup_world: LookupWorld,
) -> None:
    await lookup_world.put("known", 401, PROVISIONAL, partition=1)
    await lookup_world.stamp(0, 2, age=60)
    answer = asyncio.create_task(lookup_world.ask())
    assert await still_waits(answer, lookup_world)
    async with owners(lookup_world, 1):
        assert await soon(answer) == UNAUTHORIZED


async def test_a_project_that_came_back_meanwhile_is_answered(lookup_world: LookupWorld) -> None:
    await lookup_world.put("known", 401, PROVISIONAL)
    answer = asyncio.create_task(lookup_world.ask())
    assert await still_waits(answer, lookup_world)
    await lookup_world.put("known", 200)
    async with owners(lookup_world, 0):
        assert (await soon(answer)).status == 200


async def test_a_removed_projects_token_in_an_emptied_redis_needs_the_whole_proof(
    lookup_world: LookupWorld,
) -> None:
    await lookup_world.put("known", 401, PROVISIONAL)
    answer = asyncio.create_task(lookup_world.ask())
    assert await still_waits(answer, lookup_world)
    await lookup_world.redis.delete(schema.TOKENS + hashlib.sha256(b"known").hexdigest())
    async with owners(lookup_world, 0):
        assert await still_waits(answer, lookup_world)
        async with owners(lookup_world, 1, 2):
            assert await soon(answer) == UNAUTHORIZED


async def test_a_removed_projects_token_is_503_where_nothing_can_be_proven(
    lookup_world: LookupWorld,
) -> None:
    await lookup_world.put("known", 401, PROVISIONAL)
    lookup_world.with_limits(miss_grace=SHORT_GRACE_S)
    assert "on their way" in reason(await lookup_world.ask())


async def test_a_finished_jobs_token_is_401_at_once(lookup_world: LookupWorld) -> None:
    """Finished is final."""
    await lookup_world.put("known", 401)
    assert await lookup_world.ask() == UNAUTHORIZED


async def test_a_removed_projects_token_is_read_again_behind_the_proof(
    lookup_world: LookupWorld,
) -> None:
    """A failover to a server without the last writes could have come between stamp and read."""
    await lookup_world.put("known", 401, PROVISIONAL)
    asked = asyncio.create_task(lookup_world.ask())
    assert await still_waits(asked, lookup_world)
    mget = Mget(lookup_world.redis)
    first = True

    async def stale_once(keys: Sequence[str]) -> Values:
        nonlocal first
        stored = await mget(keys)
        if first:
            first = False
            await lookup_world.put("known", 200)
        return stored

    reads: Any = lookup_world.lookup._reads
    reads._start = InTasks(stale_once)
    async with owners(lookup_world):
        assert (await soon(asked)).status == 200
