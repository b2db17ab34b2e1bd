"""Lookups by signed tokens on a fake Redis: which record answers, and what is proven first."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from api.read_batcher import MAX_BATCH, InTasks, ReadBatcher, SplitReads, Value, Values
from api.redis_mget import Mget
from api.replies import UNAUTHORIZED, Reply
from api.tokens.job_token_keys import KeyFiles
from api.tokens.signed_tokens import SignedTokens
from projector.elapsed import elapsed
from projector.store import schema
from projector.store.schema import Version, ViewRecord
from tests.builders import digest
from tests.job_tokens import ISSUER, JOB, claims_of, signing_key
from tests.unit.api.lookup_world import (
    BODY,
    EPOCH,
    LONG_GRACE_S,
    LookupWorld,
    owners,
    soon,
    still_waits,
)

KEY = signing_key(0)
PROVISIONAL = b'{"message":"401 Unauthorized"}'
JOB_KEY = f"allowed-agents:job:{JOB}"
SHORT_GRACE_S = 0.3
OTHER_DIGEST = digest("another token of the job")


class SignedWorld:
    """Lookups with one key configured, and a live token of job 9."""

    def __init__(self, world: LookupWorld, folder: Path) -> None:
        self.world = world
        (file := folder / "key.pem").write_bytes(KEY.pem)
        self.files, self.file = KeyFiles([file]), file
        self.token = self.signed_now()
        self.calls: list[list[str]] = []
        self._mget = Mget(world.redis)
        world.signed = SignedTokens(self.files, ISSUER, "", world.freshness.clock.expected)
        self.with_grace(LONG_GRACE_S)

    def with_grace(self, seconds: float) -> None:
        self.world.with_limits(miss_grace=seconds, reads=ReadBatcher(InTasks(self.fetch)))

    def signed_now(self, job: int = JOB, **claims: object) -> str:
        now_s = round((self.world.freshness.clock.expected(elapsed()) or 0) / 1000)
        return KEY.token(job, **claims_of(job, now_s) | claims)

    @property
    def key(self) -> str:
        return schema.TOKENS + hashlib.sha256(self.token.encode()).hexdigest()

    async def fetch(self, keys: Sequence[str]) -> Values:
        self.calls.append(list(keys))
        return await self._mget(keys)

    async def put(self, key: str, status: int = 200, body: bytes = BODY, *, partition: int = 0,
                  epoch: int = EPOCH) -> None:  # fmt: skip
        record = ViewRecord(status, partition, Version(epoch, 0x1F), body)
        await self.world.redis.set(key, record.encode())

    async def point(self, to: str = OTHER_DIGEST) -> str:
        """Let the job's key name a digest, and return the key of its record."""
        await self.world.redis.set(JOB_KEY, to)
        return schema.TOKENS + to

    async def ask(self, token: str = "", max_age: int | None = None) -> Reply:
        return await soon(self.world.ask(token or self.token, max_age))


@pytest.fixture
def signed(lookup_world: LookupWorld, tmp_path: Path) -> SignedWorld:
    return SignedWorld(lookup_world, tmp_path)


def reason(reply: Reply) -> str:
    assert reply.status == 503
    return str(json.loads(reply.body)["reason"])


# which record answers


@pytest.mark.parametrize("status", [200, 403, 503])
async def test_the_record_of_the_job_answers_in_one_round_trip(
    signed: SignedWorld, status: int
) -> None:
    await signed.put(JOB_KEY, status, partition=2)
    reply = await signed.ask()
    assert (reply.status, reply.body) == (status, BODY)
    assert dict(reply.headers)[b"view-version"] == f"2.{EPOCH}.31".encode()
    assert signed.calls == [[signed.key, JOB_KEY]]


async def test_a_finished_job_is_401_at_once_whatever_exp_is(signed: SignedWorld) -> None:
    await signed.put(JOB_KEY, 401, b"")
    assert await signed.ask() == UNAUTHORIZED
    assert len(signed.calls) == 1


async def test_every_token_of_a_job_gets_its_answer(signed: SignedWorld) -> None:
    await signed.put(JOB_KEY)
    tokens = {signed.signed_now(jti=str(number)) for number in range(3)}
    assert len(tokens) == 3
    assert [(await signed.ask(token)).status for token in tokens] == [200] * 3


async def test_after_a_first_answer_the_jobs_key_is_read_alone(signed: SignedWorld) -> None:
    await signed.put(JOB_KEY)
    for _ in range(3):
        assert (await signed.ask()).status == 200
    assert signed.calls == [[signed.key, JOB_KEY], [JOB_KEY], [JOB_KEY]]


@pytest.mark.parametrize("status", [200, 403, 503, 401])
async def test_the_record_of_the_tokens_own_digest_decides(
    signed: SignedWorld, status: int
) -> None:
    await signed.put(signed.key, status, b"" if status == 401 else b"{}")
    await signed.put(JOB_KEY, 200)
    assert (await signed.ask()).status == status


@pytest.mark.parametrize("status", [200, 403, 503])
async def test_a_digest_under_the_jobs_key_leads_to_its_record(
    signed: SignedWorld, status: int
) -> None:
    await signed.put(target := await signed.point(), status)
    assert (await signed.ask()).status == status
    assert signed.calls == [[signed.key, JOB_KEY], [target]]


async def test_a_job_that_gets_a_digest_is_found_by_both_ways(signed: SignedWorld) -> None:
    """Its view moves to the digest, and its own key names that."""
    await signed.put(JOB_KEY)
    assert (await signed.ask()).status == 200
    await signed.put(await signed.point(), 403)
    assert (await signed.ask()).status == 403
    own = schema.TOKENS + signed.key.rpartition(":")[2]
    await signed.put(own, 200)
    assert (await signed.ask()).status == 200


async def test_a_job_key_that_is_lost_later_is_an_unknown_token(signed: SignedWorld) -> None:
    await signed.put(JOB_KEY)
    assert (await signed.ask()).status == 200
    await signed.world.redis.delete(JOB_KEY)
    async with owners(signed.world):
        assert await signed.ask() == UNAUTHORIZED
    await signed.put(JOB_KEY)
    assert (await signed.ask()).status == 200


MALFORMED = [
    b"", b"x", b"{}", OTHER_DIGEST[:63].encode(), OTHER_DIGEST.encode() + b"0",
    OTHER_DIGEST.upper().encode(), b"200 0000", b"9",
]  # fmt: skip


@pytest.mark.parametrize("at", ["job", "token", "job, read alone", "pointer"])
@pytest.mark.parametrize("raw", MALFORMED, ids=ascii)
async def test_a_value_that_cannot_be_read_is_503(signed: SignedWorld, raw: bytes, at: str) -> None:
    if at == "job, read alone":
        await signed.put(JOB_KEY)
        await signed.ask()
    if at == "token":
        await signed.put(JOB_KEY)
    keys = {"token": signed.key, "pointer": schema.TOKENS + OTHER_DIGEST}
    if at == "pointer":
        await signed.point()
    await signed.world.redis.set(keys.get(at, JOB_KEY), raw)
    assert reason(await signed.ask()) == "the stored view cannot be read"


async def test_a_digest_behind_a_digest_is_no_record(signed: SignedWorld) -> None:
    await signed.world.redis.set(await signed.point(), signed.key.rpartition(":")[2])
    assert reason(await signed.ask()) == "the stored view cannot be read"


async def test_a_text_that_a_caller_could_present_never_leads_to_a_jobs_record(
    signed: SignedWorld,
) -> None:
    await signed.put(JOB_KEY)
    signed.with_grace(SHORT_GRACE_S)
    for text in (JOB_KEY, str(JOB), f"gid://gitlab/Ci::Build/{JOB}", f"job:{JOB}"):
        assert (await signed.ask(text)).status != 200


async def test_without_keys_a_signed_token_is_looked_up_by_its_digest(
    signed: SignedWorld,
) -> None:
    await signed.put(JOB_KEY)
    await signed.put(signed.key, 403)
    signed.world.signed = None
    signed.with_grace(LONG_GRACE_S)
    assert (await signed.ask()).status == 403
    assert signed.calls == [[signed.key]]


@pytest.mark.parametrize("prefix", ["acme", "a.b", "v1.2.3."])
async def test_a_token_with_the_instances_prefix_is_answered_by_its_job(
    signed: SignedWorld, prefix: str
) -> None:
    await signed.put(JOB_KEY)
    clock = signed.world.freshness.clock.expected
    signed.world.signed = SignedTokens(signed.files, ISSUER, prefix, clock)
    signed.with_grace(SHORT_GRACE_S)
    assert (await signed.ask(prefix + signed.token)).status == 200


async def test_with_keys_any_other_token_is_looked_up_by_its_digest(
    signed: SignedWorld,
) -> None:
    for token in ("known", "a.b.c", "a.b.c.d.e", "glcbt-64_abcdefghijklmnopqrst"):
        await signed.world.put(token)
        assert (await signed.ask(token)).status == 200
    assert [len(call) for call in signed.calls] == [1, 1, 1, 1]


# freshness, by the rules for any record


async def test_the_bound_and_a_max_age_hold_for_the_jobs_record(signed: SignedWorld) -> None:
    await signed.put(JOB_KEY)
    await signed.world.stamp(0, age=5)
    await signed.world.polled()
    assert (await signed.ask()).status == 200
    assert "the bound is 4 s" in reason(await signed.ask(max_age=4))
    await signed.world.stamp(0, age=11)
    await signed.world.polled()
    assert "the bound is 10 s" in reason(await signed.ask())


@pytest.mark.parametrize("where", ["job", "pointer"])
async def test_a_record_from_before_the_claim_is_503(signed: SignedWorld, where: str) -> None:
    key = JOB_KEY if where == "job" else await signed.point()
    await signed.put(key, epoch=EPOCH - 1)
    assert "older than the claim" in reason(await signed.ask())


class Slowly:
    """Reads whose first or second call waits until it may go on."""

    def __init__(self, signed: SignedWorld, call: int) -> None:
        self._signed, self._call = signed, call
        self.arrived, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, keys: Sequence[str]) -> Values:
        found = await self._signed.fetch(keys)
        if len(self._signed.calls) == self._call:
            self.arrived.set()
            await self.go_on.wait()
        return found


@pytest.mark.parametrize(("where", "call"), [("job", 1), ("pointer", 1), ("pointer", 2)])
async def test_a_view_is_measured_by_the_poll_from_before_its_reads(
    signed: SignedWorld, where: str, call: int
) -> None:
    """A later poll may know of events that the view, or the pointer, does not have."""
    await signed.put(JOB_KEY if where == "job" else await signed.point())
    await signed.world.stamp(0, age=9.9)
    await signed.world.polled()
    slow = Slowly(signed, call)
    signed.world.with_limits(reads=ReadBatcher(InTasks(slow)))
    asked = asyncio.create_task(signed.ask())
    await slow.arrived.wait()
    await asyncio.sleep(0.15)
    await signed.world.stamp()
    await signed.world.polled()
    slow.go_on.set()
    assert "was last known fresh 10" in reason(await asked)


@pytest.mark.parametrize("met", ["a", "b", "c"])
async def test_a_server_that_was_met_after_the_poll_counts_for_pointer_and_record(
    signed: SignedWorld, met: str
) -> None:
    """In a cluster each key is on another server.

    A promoted one may hold an old digest, or lack the tombstone of the token's own.
    """
    target = await signed.point()
    await signed.put(target)
    signed.world.servers.cluster = True
    places = {signed.key: "a", JOB_KEY: "b", target: "c", "": ""}
    for place in ("", "a", "b", "c"):
        signed.world.servers._met[place] = -1e9
    each = split(signed, places)
    assert (await signed.ask()).status == 200
    signed.world.servers.meet(met)
    assert "not known to be fresh yet" in reason(await signed.ask())
    assert each == {"a", "b", "c"}


def split(signed: SignedWorld, places: dict[str, str]) -> set[str]:
    """Let each key be read from its own server; the servers that were asked."""
    asked: set[str] = set()

    async def fetch(keys: Sequence[str]) -> Values:
        found = await signed.fetch(keys)
        asked.update(places[key] for key in keys)
        return Values(found.values, [places[key] for key in keys])

    signed.world.with_limits(reads=SplitReads(InTasks(fetch), places.__getitem__))
    return asked


# proofs


async def test_a_valid_token_without_a_record_is_401_once_it_is_proven(
    signed: SignedWorld,
) -> None:
    async with owners(signed.world, 0, 1):
        answer = asyncio.create_task(signed.ask())
        assert await still_waits(answer, signed.world)
        await signed.world.stamp(2)
        assert await soon(answer) == UNAUTHORIZED
    assert all(call == [signed.key, JOB_KEY] for call in signed.calls)


async def test_without_the_proof_in_time_it_is_503(signed: SignedWorld) -> None:
    signed.with_grace(SHORT_GRACE_S)
    async with owners(signed.world, 0, 1):
        assert "on their way" in reason(await signed.ask())


@pytest.mark.parametrize("where", ["job", "token", "pointer"])
async def test_a_record_that_comes_while_a_lookup_waits_answers_it(
    signed: SignedWorld, where: str
) -> None:
    answer = asyncio.create_task(signed.ask())
    assert await still_waits(answer, signed.world)
    keys = {"job": JOB_KEY, "token": signed.key}
    await signed.put(keys[where] if where in keys else await signed.point())
    await signed.world.stamp()
    assert (await soon(answer)).status == 200


@pytest.mark.parametrize("where", ["job", "token", "pointer"])
async def test_a_removed_projects_job_needs_the_proof_of_its_own_partition(
    signed: SignedWorld, where: str
) -> None:
    keys = {"job": JOB_KEY, "token": signed.key}
    key = keys[where] if where in keys else await signed.point()
    await signed.put(key, 401, PROVISIONAL, partition=1)
    await signed.world.stamp(0, 2, age=60)
    answer = asyncio.create_task(signed.ask())
    assert await still_waits(answer, signed.world)
    async with owners(signed.world, 1):
        assert await soon(answer) == UNAUTHORIZED


async def test_a_pointer_without_a_record_is_proven_like_an_unknown_token(
    signed: SignedWorld,
) -> None:
    await signed.point()
    async with owners(signed.world, 0, 1):
        answer = asyncio.create_task(signed.ask())
        assert await still_waits(answer, signed.world)
        await signed.world.stamp(2)
        assert await soon(answer) == UNAUTHORIZED


async def test_a_pointer_to_the_tokens_own_digest_without_a_record_is_proven(
    signed: SignedWorld,
) -> None:
    await signed.point(signed.key.rpartition(":")[2])
    answer = asyncio.create_task(signed.ask())
    assert await still_waits(answer, signed.world)
    await signed.put(signed.key)
    async with owners(signed.world):
        assert (await soon(answer)).status == 200


async def test_a_401_behind_a_pointer_is_proven_by_its_own_partition(signed: SignedWorld) -> None:
    await signed.put(await signed.point(), 401, b"", partition=1)
    await signed.world.stamp(0, 2, age=60)
    answer = asyncio.create_task(signed.ask())
    assert await still_waits(answer, signed.world)
    async with owners(signed.world, 1):
        assert await soon(answer) == UNAUTHORIZED


async def test_a_digest_that_was_replaced_between_the_reads_ends_no_job(
    signed: SignedWorld,
) -> None:
    """The job's key was read, then another digest replaced the one that it named."""
    former = await signed.point()
    await signed.put(former)

    async def replaced(keys: Sequence[str]) -> Values:
        if keys == [former]:
            await signed.put(former, 401, b"")
        return await signed.fetch(keys)

    signed.world.with_limits(reads=ReadBatcher(InTasks(replaced)))
    answer = asyncio.create_task(signed.ask())
    assert await still_waits(answer, signed.world)
    # Its first view was held back until now.
    await signed.put(await signed.point(digest("the new token")))
    async with owners(signed.world):
        assert (await soon(answer)).status == 200


async def test_a_digest_that_is_replaced_during_the_proof_begins_the_proof_anew(
    signed: SignedWorld,
) -> None:
    """A stamp from before the 401 was there proves nothing about what replaced it."""
    former = await signed.point()
    await signed.put(former, 401, PROVISIONAL)
    answer = asyncio.create_task(signed.ask())
    assert await still_waits(answer, signed.world)
    times = 0

    async def replaced(keys: Sequence[str]) -> Values:
        nonlocal times
        if keys == [former]:
            times += 1
            await signed.put(former, 401, b"")
        return await signed.fetch(keys)

    reads = signed.world.lookup._reads
    assert isinstance(reads, ReadBatcher)
    reads._start = InTasks(replaced)
    await signed.world.stamp()
    await signed.world.polled(4)
    assert await still_waits(answer, signed.world)
    assert times >= 1
    async with owners(signed.world):
        assert await soon(answer) == UNAUTHORIZED


@pytest.mark.parametrize(
    ("pointed", "met"), [(False, "a"), (False, "b"), (True, "a"), (True, "b"), (True, "c")]
)
async def test_a_miss_counts_only_with_every_server_that_lacks_the_record(
    signed: SignedWorld, pointed: bool, met: str
) -> None:
    """In a cluster the keys of token, job and digest are on different servers."""
    signed.world.servers.cluster = True
    places = {signed.key: "a", JOB_KEY: "b", schema.TOKENS + OTHER_DIGEST: "c"}
    if pointed:
        await signed.point()
    for place in ("", "a", "b", "c"):
        signed.world.servers._met[place] = -1e9
    split(signed, places)
    answer = asyncio.create_task(signed.ask())
    await signed.world.polled(3)
    signed.world.servers._met[met] = elapsed() + 3600
    async with owners(signed.world):
        assert await still_waits(answer, signed.world)
        signed.world.servers._met[met] = -1e9
        assert await soon(answer) == UNAUTHORIZED


async def test_signed_tokens_that_wait_count_among_those_that_wait(signed: SignedWorld) -> None:
    signed.world.with_limits(waiting=1)
    first = asyncio.create_task(signed.ask())
    assert await still_waits(first, signed.world)
    assert "too many tokens" in reason(await signed.ask(signed.signed_now(JOB + 1)))
    async with owners(signed.world):
        assert await soon(first) == UNAUTHORIZED


# errors of reads

BROKEN: list[tuple[Exception, str]] = [
    (OSError("gone"), "Redis is not reachable"),
    (RuntimeError("broken"), "internal error"),
]


@pytest.mark.parametrize(("error", "says"), BROKEN, ids=repr)
@pytest.mark.parametrize("which", ["token", "job", "pointer", "job, read alone"])
async def test_whatever_is_wrong_with_one_read_is_503(
    signed: SignedWorld, which: str, error: Exception, says: str
) -> None:
    target = schema.TOKENS + OTHER_DIGEST
    if which == "job, read alone":
        await signed.put(JOB_KEY)
        await signed.ask()
    elif which != "job":
        await signed.put(await signed.point())
    broken = {"token": signed.key, "pointer": target}.get(which, JOB_KEY)

    async def fetch(keys: Sequence[str]) -> Values:
        found = await signed.fetch(keys)
        values: list[Value | Exception] = [
            error if key == broken else value for key, value in zip(keys, found.values, strict=True)
        ]
        return Values(values, found.servers)

    signed.world.with_limits(reads=ReadBatcher(InTasks(fetch)))
    assert reason(await signed.ask()) == says


async def test_the_record_of_the_digest_answers_although_the_jobs_server_is_away(
    signed: SignedWorld,
) -> None:
    await signed.put(signed.key)

    async def fetch(keys: Sequence[str]) -> Values:
        found = await signed.fetch(keys)
        return Values([found.values[0], OSError("away")], found.servers)

    signed.world.with_limits(reads=ReadBatcher(InTasks(fetch)))
    assert (await signed.ask()).status == 200


async def test_two_keys_in_different_batches_give_the_same_answers(signed: SignedWorld) -> None:
    await signed.put(JOB_KEY)
    for number in range(MAX_BATCH - 1):
        await signed.world.put(f"known {number}")
    # Verified already, it reads both keys without a turn of the loop between.
    assert signed.world.signed is not None
    signed.world.signed.verify(signed.token.encode(), signed.key, elapsed())
    asked = [signed.ask(f"known {number}") for number in range(MAX_BATCH - 1)]
    replies = await asyncio.gather(*asked, signed.ask())
    assert {reply.status for reply in replies} == {200}
    assert [signed.key in call for call in signed.calls[:2]] == [True, False]
    assert JOB_KEY in signed.calls[1]


# the table of failures


def forged(signed: SignedWorld) -> str:
    return signing_key(1).token(kid=KEY.kid)


CERTAIN: dict[str, Callable[[SignedWorld], str]] = {
    "bad signature": forged,
    "wrong aud": lambda signed: signed.signed_now(aud="x"),
    "wrong iss": lambda signed: signed.signed_now(iss="x"),
    "expired": lambda signed: signed.signed_now(exp=1),
    "not yet valid": lambda signed: signed.signed_now(nbf=2**40),
    "malformed": lambda _: "glcbt-a.b.c",
    "sub": lambda signed: signed.signed_now(sub="gid://gitlab/Ci::Build/0"),
}


@pytest.mark.parametrize("token", CERTAIN.values(), ids=CERTAIN.keys())
async def test_what_is_certainly_not_valid_is_401_at_once_without_redis(
    signed: SignedWorld, token: Callable[[SignedWorld], str]
) -> None:
    await signed.put(JOB_KEY)
    text = token(signed)
    signed.world.server.connected = False
    assert await signed.ask(text) == UNAUTHORIZED
    assert signed.calls == []


async def test_an_unknown_key_is_503_with_the_reason(signed: SignedWorld) -> None:
    await signed.put(JOB_KEY)
    said = reason(await signed.ask(signing_key(1).token()))
    assert said == "the job token is signed with a key that is not configured here"
    assert signed.calls == []


async def test_an_unreadable_key_file_is_503_for_known_tokens_too(signed: SignedWorld) -> None:
    await signed.put(JOB_KEY)
    assert (await signed.ask()).status == 200
    signed.file.unlink()
    await signed.files.refresh()
    for token in (signed.token, forged(signed)):
        assert reason(await signed.ask(token)) == "the keys of signed job tokens cannot be read"
    signed.file.write_bytes(KEY.pem)
    await signed.files.refresh()
    assert (await signed.ask()).status == 200


async def test_a_key_that_is_rotated_away_ends_its_tokens_at_once(signed: SignedWorld) -> None:
    await signed.put(JOB_KEY)
    assert (await signed.ask()).status == 200
    signed.file.write_bytes(signing_key(1).pem)
    await signed.files.refresh()
    assert "not configured" in reason(await signed.ask())


async def test_before_redis_has_told_its_time_a_valid_token_is_503(
    lookup_world: LookupWorld, tmp_path: Path
) -> None:
    signed = SignedWorld(lookup_world, tmp_path)
    lookup_world.signed = SignedTokens(signed.files, ISSUER, "", lambda _: None)
    signed.with_grace(LONG_GRACE_S)
    await signed.put(JOB_KEY)
    assert reason(await signed.ask()) == "the time of Redis is not known yet"
