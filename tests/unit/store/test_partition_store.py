"""The fencing of every write: an overtaken owner changes nothing, a repeated call harms nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import fakeredis
import pytest

from projector import metrics
from projector.clients import redis_batch
from projector.clients.redis_servers import RedisServers
from projector.domain.fact_keys import Key
from projector.domain.views import View, ViewId, tombstone
from projector.errors import IncompleteCheckpointError, WriteRefusedError
from projector.events.log_identity import LogIdentity, RecordMark
from projector.events.model import Topic
from projector.store import fact_scan, partition_state, schema, view_diff
from projector.store import partition_store as store_module
from projector.store.checkpoint_writes import Step
from projector.store.partition_store import Checkpoint, PartitionStore
from projector.store.schema import Version, ViewRecord
from tests.builders import digest

FAR = 4_000_000_000_000
HASH = schema.partition_key(3)
FACTS = schema.facts_key(3)
OFFSETS = dict.fromkeys(Topic, 7)


@pytest.fixture
async def redis() -> AsyncIterator[fakeredis.FakeAsyncRedis]:
    async with fakeredis.FakeAsyncRedis() as client:
        yield client


def view(token: str = "a", status: int = 200, body: bytes = b"{}", expires_at: int = FAR) -> View:
    return View(digest(token), 9, status, body, expires_at)


async def stored(redis: fakeredis.FakeAsyncRedis, token: str = "a") -> ViewRecord | None:
    raw: Any = await redis.get(schema.record_key(digest(token)))
    return ViewRecord.decode(raw) if raw else None


async def claimed(redis: fakeredis.FakeAsyncRedis, owner: str = "me") -> PartitionStore:
    store = PartitionStore(redis, RedisServers(), 3, owner)
    await store.claim(4)
    return store


async def loaded(store: PartitionStore, held: Checkpoint) -> dict[Key, bytes]:
    fields: dict[Key, bytes] = {}
    async for part in store.load():
        fields |= {Key(field.decode()): raw for field, raw in part.items()}
    store.refuse_incomplete(held, len(fields))
    return fields


async def test_a_view_is_stored_as_the_record_of_the_contract(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    store = await claimed(redis)
    await store.write_views([view(body=b'{"a":1}')])
    raw = await redis.get(schema.record_key(digest("a")))
    epoch = store.version.epoch
    assert raw == f'200 0003 {epoch:012x} 000000000001 {{"a":1}}'.encode()
    assert await redis.pexpiretime(schema.record_key(digest("a"))) == FAR
    assert await redis.get(schema.job_key(9)) == digest("a").encode()
    assert await redis.pexpiretime(schema.job_key(9)) == FAR


async def test_an_epoch_never_falls_not_even_after_flushall(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    first = (await claimed(redis)).version.epoch
    second = (await claimed(redis)).version.epoch
    await redis.hset(HASH, "epoch", second + 10_000_000)
    third = (await claimed(redis)).version.epoch
    assert first < second < third == second + 10_000_001
    await redis.flushall()
    # The clock alone keeps it rising now: once it has passed the claims of this one millisecond.
    while await redis_batch.server_time(redis, HASH) <= second:
        pass
    assert (await claimed(redis)).version.epoch > second


async def test_a_newer_claims_view_is_not_overwritten(redis: fakeredis.FakeAsyncRedis) -> None:
    old, new = await claimed(redis, "old"), await claimed(redis, "new")
    await new.write_views([view(body=b"new")])
    with pytest.raises(WriteRefusedError):
        await old.write_views([view("b"), view(body=b"old")])
    assert (record := await stored(redis)) is not None
    assert record.body == b"new"


async def test_a_refusal_of_any_call_refuses_them_all(redis: fakeredis.FakeAsyncRedis) -> None:
    many = [view(str(n)) for n in range(450)]
    for newer in (0, 120, 449):
        await redis.flushall()
        old, new = await claimed(redis, "old"), await claimed(redis, "new")
        await new.write_views([many[newer]])
        with pytest.raises(WriteRefusedError):
            await old.write_views(many)
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_attempt_that_is_late_overwrites_no_later_view(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    """A server that was frozen still runs calls that their client gave up and sent again."""
    store = await claimed(redis)
    await store.write_views([view(body=b"earlier")])
    earlier = Version(store.version.epoch, store._written)
    await store.write_views([view(body=b"later")])
    with pytest.raises(WriteRefusedError):
        await store._views.write([view(body=b"earlier")], earlier, None)
    assert (record := await stored(redis)) is not None
    assert record.body == b"later"


async def test_a_checkpoint_makes_all_views_valid_that_were_written(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    store = await claimed(redis)
    for token in "abc":
        await store.write_views([view(token)])
        assert store.is_ahead
    await store.checkpoint(OFFSETS, {}, 0)
    assert not store.is_ahead
    assert (record := await stored(redis, "c")) is not None
    assert record.version == store.version
    await store.stamp(1)


async def test_views_are_computed_while_redis_works_on_others(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "VIEWS_PER_CALL", 1)
    store = await claimed(redis)
    call, both = store._views._write_views, asyncio.Barrier(2)

    async def held(**arguments: Any) -> Any:
        async with asyncio.timeout(5):
            await both.wait()
        return await call(**arguments)

    monkeypatch.setattr(store._views, "_write_views", held)
    assert await store.write_views(view(str(n)) for n in range(8)) == {200: 8}
    assert len(await redis.keys(schema.TOKENS + "*")) == 8


async def test_a_repeated_view_write_is_no_refusal(redis: fakeredis.FakeAsyncRedis) -> None:
    store = await claimed(redis)
    await store.write_views([view()])
    await store.write_views([view()])


async def test_many_views_are_all_written(redis: fakeredis.FakeAsyncRedis) -> None:
    store = await claimed(redis)
    await store.write_views([view(str(n)) for n in range(250)])
    assert len(await redis.keys("allowed-agents:token:*")) == 250


async def test_a_view_that_has_expired_takes_the_older_record_away(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    store = await claimed(redis)
    await store.write_views([view()])
    for past in (1000, 0, -62135596800000):
        await store.write_views([view()])
        await store.write_views([view(expires_at=past)])
        assert await stored(redis) is None


async def test_a_checkpoint_keeps_facts_offsets_and_their_number(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    store = await claimed(redis)
    await store.checkpoint(OFFSETS, {Key("3/group/3"): b"a", Key("3/group/4"): b"b"}, 2)
    await store.checkpoint({Topic.MEMBERSHIP: 9}, {Key("3/group/4"): None, Key("3/job/1"): b"c"}, 2)
    held = await PartitionStore(redis, RedisServers(), 3, "next").claim(4)
    assert held.offsets == OFFSETS | {Topic.MEMBERSHIP: 9}
    assert (held.revision, held.facts) == (2, 2)
    assert await loaded(store, held) == {"3/group/3": b"a", "3/job/1": b"c"}


async def test_thousands_of_facts_go_in_steps_with_the_offsets_last(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    store = await claimed(redis)
    facts: dict[Key, bytes | None] = {Key(f"3/group/{n}"): b"x" for n in range(2500)}
    await store.checkpoint(OFFSETS, facts, 2500)
    assert store.version.revision == 3
    held = await PartitionStore(redis, RedisServers(), 3, "next").claim(4)
    assert (held.facts, held.offsets) == (2500, OFFSETS)


async def test_a_repeated_checkpoint_is_the_success_that_it_was(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    """redis-py repeats a script whose answer was lost."""
    store = await claimed(redis)
    await store.checkpoint(OFFSETS, {Key("3/group/3"): b"a"}, 1)
    store._revision -= 1
    await store.checkpoint(OFFSETS, {Key("3/group/3"): b"a"}, 1)
    assert await redis.hget(HASH, "revision") == b"1"


async def test_an_overtaken_owner_writes_neither_checkpoint_nor_stamp(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    old, new = await claimed(redis, "old"), await claimed(redis, "new")
    with pytest.raises(WriteRefusedError):
        await old.checkpoint(OFFSETS, {Key("3/group/3"): b"a"}, 1)
    with pytest.raises(WriteRefusedError):
        await old.stamp(1)
    assert not await redis.exists(FACTS)
    assert not await redis.hexists(HASH, "stamp")
    assert await old.is_claimed_by_another()
    assert not await new.is_claimed_by_another()


@pytest.mark.parametrize("lost", ["flush", "revision"])
async def test_a_redis_that_went_back_refuses_until_claimed_anew(
    redis: fakeredis.FakeAsyncRedis, lost: str
) -> None:
    store = await claimed(redis)
    await store.checkpoint(OFFSETS, {}, 0)
    await store.checkpoint(OFFSETS, {}, 0)
    if lost == "flush":
        await redis.flushall()
    else:
        await redis.hset(HASH, "revision", 1)
    with pytest.raises(WriteRefusedError):
        await store.checkpoint(OFFSETS, {}, 0)
    with pytest.raises(WriteRefusedError):
        await store.stamp(1)
    assert not await store.is_claimed_by_another()


async def test_a_stamp_says_moment_and_epoch(redis: fakeredis.FakeAsyncRedis) -> None:
    store = await claimed(redis)
    await store.stamp(12345)
    assert await redis.hmget(HASH, ["stamp", "stamp_epoch"]) == [
        b"12345",
        str(store.version.epoch).encode(),
    ]


async def test_a_checkpoint_with_missing_facts_is_noticed(redis: fakeredis.FakeAsyncRedis) -> None:
    store = await claimed(redis)
    await store.checkpoint(OFFSETS, {Key("3/group/3"): b"a", Key("3/group/4"): b"b"}, 2)
    await redis.hdel(FACTS, "3/group/3")
    held = await PartitionStore(redis, RedisServers(), 3, "next").claim(4)
    with pytest.raises(IncompleteCheckpointError, match="has 1 facts where 2 were written"):
        await loaded(store, held)


async def filled(redis: fakeredis.FakeAsyncRedis, number: int) -> PartitionStore:
    store = await claimed(redis)
    await store.checkpoint(OFFSETS, {Key(f"3/group/{n}"): b"x" for n in range(number)}, number)
    return store


async def test_redis_looks_for_the_next_facts_while_some_are_being_used(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fact_scan, "FIELDS_PER_READ", 1000)
    store, hscan = await filled(redis, 2500), redis.hscan
    asked: list[int] = []

    async def send(cursor: int) -> None:
        asked.append(cursor)

    async def noted(name: str, cursor: int, count: int) -> Any:
        await asyncio.create_task(send(cursor))  # as redis-py does
        return await hscan(name, cursor, count=count)

    monkeypatch.setattr(redis, "hscan", noted)
    async with aclosing(store.load()) as parts:
        assert len(await anext(parts)) < 2500
        assert len(asked) == 2
        await anext(parts)
    assert len(asked) == 3


@pytest.mark.parametrize("fails", [False, True])
async def test_whoever_stops_loading_leaves_nothing_running(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(fact_scan, "FIELDS_PER_READ", 1000)
    store, hscan = await filled(redis, 2500), redis.hscan

    async def once(name: str, cursor: int, count: int) -> Any:
        if cursor and fails:
            raise ConnectionError("gone")
        return await (asyncio.sleep(60) if cursor else hscan(name, cursor, count=count))

    monkeypatch.setattr(redis, "hscan", once)
    async with aclosing(store.load()) as parts:
        await anext(parts)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_large_facts_go_in_steps_that_take_no_seconds(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projector.store.portions.BYTES_PER_CALL", 100)
    store = await claimed(redis)
    await store.checkpoint(OFFSETS, {Key(f"3/group/{n}"): b"x" * 60 for n in range(3)}, 3)
    assert store.version.revision == 3


async def test_a_checkpoint_names_the_logs_of_its_offsets_until_it_is_forgotten(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    logs = {Topic.MEMBERSHIP: LogIdentity("an-id", RecordMark(6, 90, "00ff"))}
    store = await claimed(redis)
    await store.checkpoint(OFFSETS, {}, 0, logs)
    assert await redis.hget(HASH, "log:membership") == b"an-id 6 90 00ff"
    successor = await claimed(redis, "next")
    state = await partition_state.read_partition_state(redis, 3)
    assert state is not None
    assert state.logs == logs
    await successor.forget_checkpoint()
    assert not await redis.hexists(HASH, "log:membership")


async def test_a_checkpoint_cut_short_between_its_steps_is_not_used(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its facts are ahead of its offsets: events applied again would meet their own effects."""
    store = await claimed(redis)
    await store.checkpoint(OFFSETS, {Key("3/group/0"): b"x"}, 1)
    step = store._checkpoint_step

    async def killed(part: Step) -> None:
        if not part.places:
            await step(part)

    monkeypatch.setattr(store, "_checkpoint_step", killed)
    await store.checkpoint(OFFSETS, {Key(f"3/group/{n}"): b"y" for n in range(1500)}, 1500)
    successor = PartitionStore(redis, RedisServers(), 3, "next")
    held = await successor.claim(4)
    with pytest.raises(IncompleteCheckpointError):
        await loaded(successor, held)
    await successor.forget_checkpoint()
    assert (await successor.claim(4))[1:] == ({}, 0, {})
    assert not await redis.exists(FACTS)
    with pytest.raises(WriteRefusedError):
        await store.forget_checkpoint()


async def test_the_jobs_key_names_its_current_token(redis: fakeredis.FakeAsyncRedis) -> None:
    store = await claimed(redis)
    ended = view("ended", 401)._replace(is_current=False)
    for order in ([ended, view("current")], [view("current"), ended]):
        await store.write_views(order)
        assert await redis.get(schema.job_key(9)) == digest("current").encode()


async def test_only_tokens_that_their_jobs_do_not_name_yet_cost_a_jobs_key(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    store = await claimed(redis)
    await store.write_views([view()], pointers={digest("b")})
    assert not await redis.exists(schema.job_key(9))
    await store.write_views([view(), view("ended", 401)], pointers={digest("a")})
    assert await redis.get(schema.job_key(9)) == digest("a").encode()


def of_job(status: int = 200, body: bytes = b"{}") -> View:
    """Return the view of job 9, which has no digest."""
    return View(ViewId("9"), 9, status, body, FAR)


async def record_of_job(redis: fakeredis.FakeAsyncRedis, job: int = 9) -> ViewRecord:
    raw: Any = await redis.get(schema.job_key(job))
    return ViewRecord.decode(raw)


async def test_the_view_of_a_job_without_a_digest_is_under_the_job(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    store = await claimed(redis)
    for pointers in (None, set[ViewId]()):
        await store.write_views([of_job(body=b'{"a":1}')], pointers)
        version = Version(store.version.epoch, store._written)
        assert await record_of_job(redis) == ViewRecord(200, 3, version, b'{"a":1}')
        assert await redis.pexpiretime(schema.job_key(9)) == FAR
    assert not await redis.keys(schema.TOKENS + "*")


async def test_a_pointer_replaces_the_record_that_the_job_had_once_it_names_another(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At no moment the job has neither."""
    store, calls, run = await claimed(redis), list[Any](), redis_batch.run_script
    await store.write_views([of_job()])

    async def noted(*args: Any) -> Any:
        calls.append(args[2])
        return await run(*args)

    monkeypatch.setattr(redis_batch, "run_script", noted)
    await store.write_views([view()], {digest("a")})
    assert calls == [[schema.record_key(digest("a"))], [schema.job_key(9)]]
    assert await redis.get(schema.job_key(9)) == digest("a").encode()


async def test_no_job_s_key_names_a_token_of_another_partition(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    """The signed tokens of one job would get the answer of another."""
    await (await claimed(redis)).write_views([view()])
    other = PartitionStore(redis, RedisServers(), 4, "other")
    await other.claim(4)
    for _ in range(2):
        await other.write_views([view()._replace(job=90), view("b")._replace(job=91)])
        assert not await redis.exists(schema.job_key(90))
        assert await redis.exists(schema.job_key(91))
        assert await other.drifted([view()._replace(job=90)]) == []


async def test_a_former_owner_whose_record_is_refused_writes_no_pointer(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    former = await claimed(redis)
    await (await claimed(redis, "next")).write_views([view()], set())
    with pytest.raises(WriteRefusedError):
        await former.write_views([view()])
    assert not await redis.exists(schema.job_key(9))


@pytest.mark.parametrize("late", [view(), of_job()], ids=["pointer", "record"])
async def test_a_late_write_of_a_former_owner_does_not_replace_a_job_s_newer_record(
    redis: fakeredis.FakeAsyncRedis, late: View
) -> None:
    former = await claimed(redis)
    await (await claimed(redis, "next")).write_views([of_job(body=b"new")])
    with pytest.raises(WriteRefusedError):
        await former.write_views([late])
    assert (await record_of_job(redis)).body == b"new"


@pytest.mark.parametrize("second", [view("b"), of_job(body=b"second")], ids=["pointer", "record"])
async def test_a_job_s_record_of_another_partition_is_left_alone(
    redis: fakeredis.FakeAsyncRedis, second: View
) -> None:
    await (await claimed(redis)).write_views([of_job(body=b"first")])
    other = PartitionStore(redis, RedisServers(), 4, "other")
    await other.claim(4)
    before = metrics.FOREIGN_TOKENS._value.get()
    await other.write_views([view("c")._replace(job=10), second])
    assert metrics.FOREIGN_TOKENS._value.get() == before + 1
    assert (await record_of_job(redis)).body == b"first"
    assert await redis.get(schema.job_key(10)) == digest("c").encode()
    assert await other.drifted([second]) == []


async def test_a_record_that_comes_late_does_not_replace_the_pointer_after_it(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    """A pointer has no version. The record would grant for long what the job has lost since."""
    store = await claimed(redis)
    await store.write_views([of_job()])
    late = Version(store.version.epoch, store._written)
    await store.write_views([view()])
    record = ViewRecord(200, 3, late, b"{}").encode()
    _, _, behind = await store._views._write_views(
        keys=[schema.job_key(9)], args=["0003", str(late), record, FAR]
    )
    assert behind == [1]
    assert await redis.get(schema.job_key(9)) == digest("a").encode()


async def test_a_job_without_a_digest_takes_the_place_of_a_pointer(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild may have lost the start with the digest."""
    store = await claimed(redis)
    await store.write_views([view(), view("b")._replace(job=10), view("c")._replace(job=11)])
    others = [of_job()._replace(id=ViewId(str(job)), job=job) for job in (10, 11, 12)]
    read = view_diff.read_values

    async def replaced_meanwhile(redis: Any, keys: list[str]) -> Any:
        found = await read(redis, keys)
        if schema.job_key(11) in keys:
            await redis.set(schema.job_key(11), digest("d"))
        return found

    monkeypatch.setattr(view_diff, "read_values", replaced_meanwhile)
    await store.write_views([of_job(), *others])
    assert (await record_of_job(redis)).body == b"{}"
    assert (await record_of_job(redis, 10)).status == 200
    assert await redis.pexpiretime(schema.job_key(10)) == FAR
    assert await redis.get(schema.job_key(11)) == digest("d").encode()


async def test_the_tombstone_of_an_orphan_replaces_no_pointer(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    store = await claimed(redis)
    await store.write_views([view()])
    await store.write_views([tombstone(ViewId("9"), 0)])
    assert await redis.get(schema.job_key(9)) == digest("a").encode()


@pytest.mark.parametrize("late", [of_job(), view("b")], ids=["record", "pointer"])
async def test_a_former_owner_replaces_no_pointer_of_a_newer_owner(
    redis: fakeredis.FakeAsyncRedis, late: View
) -> None:
    """The job's signed tokens would get 503, or the proven 401 of its former digest."""
    former = await claimed(redis)
    await (await claimed(redis, "next")).write_views([view()])
    with pytest.raises(WriteRefusedError, match="are newer"):
        await former.write_views([late])
    assert await redis.get(schema.job_key(9)) == digest("a").encode()


async def test_a_pointer_that_a_former_owner_writes_late_replaces_no_newer_one(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was paused between the record and its pointer."""
    former, successor = await claimed(redis), await claimed(redis, "next")
    run = redis_batch.run_script

    async def paused(*args: Any) -> Any:
        if args[2] == [schema.job_key(9)] and not await redis.exists(schema.job_key(9)):
            monkeypatch.setattr(redis_batch, "run_script", run)
            ended = view("b", 401)._replace(is_current=False)
            await successor.write_views([ended, view()])
        return await run(*args)

    monkeypatch.setattr(redis_batch, "run_script", paused)
    with pytest.raises(WriteRefusedError, match="are newer"):
        await former.write_views([view("b")])
    assert await redis.get(schema.job_key(9)) == digest("a").encode()


async def test_an_owner_replaces_its_own_pointer(redis: fakeredis.FakeAsyncRedis) -> None:
    store = await claimed(redis)
    await store.write_views([view()])
    ended = view(status=401)._replace(is_current=False)
    await store.write_views([ended, view("b", expires_at=FAR - 1)], {digest("b")})
    assert await redis.get(schema.job_key(9)) == digest("b").encode()
    assert await redis.pexpiretime(schema.job_key(9)) == FAR - 1


@pytest.mark.parametrize("pointers", [None, {digest("a")}])
async def test_a_job_whose_digest_is_another_partition_s_keeps_no_record_from_before(
    redis: fakeredis.FakeAsyncRedis, pointers: set[ViewId] | None
) -> None:
    """No pointer replaces that record, and no revocation reaches it."""
    other = PartitionStore(redis, RedisServers(), 4, "other")
    await other.claim(4)
    await other.write_views([view()._replace(job=77)])
    store = await claimed(redis)
    await store.write_views([of_job()])
    assert await store.drifted([view()]) == [view()]
    await store.write_views([view(), view("c")._replace(job=10)], pointers)
    record = await record_of_job(redis)
    assert (record.status, record.partition, record.body) == (401, 3, b"")
    assert await redis.pexpiretime(schema.job_key(9)) == FAR
    assert (theirs := await stored(redis)) is not None
    assert theirs.partition == 4
    assert await store.drifted([view()]) == []


async def test_a_foreign_digest_changes_no_job_s_key_without_an_own_record(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    """A tombstone there would block the job in the partition whose digest it is."""
    other = PartitionStore(redis, RedisServers(), 4, "other")
    await other.claim(4)
    theirs = view(body=b'{"allowed_agents":[],"job":{"id":9}}')
    await other.write_views([theirs, of_job()._replace(id=ViewId("10"), job=10)])
    store = await claimed(redis)
    for job in (9, 10, 11):
        before = await redis.get(schema.job_key(job))
        await store.write_views([view()._replace(job=job)])
        assert await redis.get(schema.job_key(job)) == before


@pytest.mark.parametrize(("job", "is_kept"), [(77, False), (9, True)])
async def test_a_pointer_that_leads_to_another_job_s_answer_is_deleted(
    redis: fakeredis.FakeAsyncRedis, job: int, is_kept: bool
) -> None:
    """Redis lost the record of a digest that a faulty producer has sent twice."""
    store = await claimed(redis)
    await store.write_views([view()])
    await redis.delete(schema.record_key(digest("a")))
    other = PartitionStore(redis, RedisServers(), 4, "other")
    await other.claim(4)
    theirs = view(body=b'{"allowed_agents":[],"job":{"id":%d}}' % job)._replace(job=job)
    await other.write_views([theirs], set())
    assert await store.drifted([view()]) == ([] if is_kept else [view()])
    await store.write_views([view()])
    assert await redis.exists(schema.job_key(9)) == is_kept
    assert await store.drifted([view()]) == []


async def test_an_orphan_under_a_job_id_blocks_no_other_partition(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    store = await claimed(redis)
    await store.write_views([of_job()])
    await store.delete_orphans([ViewId("9"), ViewId("10")])
    other = PartitionStore(redis, RedisServers(), 4, "other")
    await other.claim(4)
    await other.write_views([of_job(body=b"other")])
    await store.delete_orphans([ViewId("9")])
    assert (await record_of_job(redis)).body == b"other"


@pytest.mark.parametrize("there", [view(), of_job(401)], ids=["pointer", "tombstone"])
async def test_a_value_that_is_no_live_record_is_no_orphan(
    redis: fakeredis.FakeAsyncRedis, there: View
) -> None:
    store = await claimed(redis)
    await store.write_views([there])
    before = await redis.get(schema.job_key(9))
    await store.delete_orphans([ViewId("9")])
    assert await redis.get(schema.job_key(9)) == before


async def test_a_former_owner_deletes_no_record_of_a_newer_owner(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    """It has not applied the start of that job. Its tokens would get 401 until the sweep."""
    former = await claimed(redis)
    await (await claimed(redis, "next")).write_views([of_job()])
    with pytest.raises(WriteRefusedError, match="are newer"):
        await former.delete_orphans([ViewId("9")])
    assert (await record_of_job(redis)).status == 200


async def test_a_record_that_has_replaced_an_orphan_since_it_was_read_stays(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, successor = await claimed(redis), await claimed(redis, "next")
    await store.write_views([of_job()])
    read = view_diff.read_values

    async def replaced_meanwhile(redis: Any, keys: list[str]) -> Any:
        found = await read(redis, keys)
        monkeypatch.setattr(view_diff, "read_values", read)
        await successor.write_views([of_job(body=b"new")])
        return found

    monkeypatch.setattr(view_diff, "read_values", replaced_meanwhile)
    await store.delete_orphans([ViewId("9")])
    assert (await record_of_job(redis)).body == b"new"


async def test_scripts_survive_their_loss(redis: fakeredis.FakeAsyncRedis) -> None:
    store = await claimed(redis)
    await store.write_views([view()])
    await redis.script_flush()
    await store.write_views([view()])
    await store.checkpoint(OFFSETS, {}, 0)
    await store.stamp(1)


async def test_a_repeated_script_writes_its_views_as_the_first_time(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    """redis-py sends it again if the answer was lost: the same version is no newer one."""
    store = await claimed(redis)
    await store.write_views([view()])
    version = Version(store.version.epoch, store._written)
    await redis.delete(schema.record_key(digest("b")))
    await store._views.write([view(), view("b")], version, None)
    await store._views.write([view(), view("b")], version, None)
    assert (record := await stored(redis, "b")) is not None
    assert record.version == version


async def test_the_first_views_of_a_claim_are_ahead_of_the_checkpoint_before_it(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    former = await claimed(redis)
    for _ in range(3):
        await former.checkpoint(OFFSETS, {}, 0)
    store = await claimed(redis, "next")
    assert not store.is_ahead
    await store.write_views([view()])
    assert store.is_ahead
    assert (record := await stored(redis)) is not None
    assert record.version == Version(store.version.epoch, 4)


async def test_an_owner_with_an_older_claim_of_its_own_name_is_overtaken(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    """One worker may own a partition twice; a call of the first time may come late."""
    old, new = await claimed(redis), await claimed(redis)
    with pytest.raises(WriteRefusedError, match="claim"):
        await old.stamp(1)
    await new.stamp(2)
    assert await redis.hget(HASH, "stamp") == b"2"


async def test_of_two_claims_with_one_epoch_the_owner_in_redis_has_the_partition(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    """Redis was emptied and its clock went back: an epoch may come twice."""
    store = await claimed(redis)
    await redis.hset(HASH, "owner", "other")
    with pytest.raises(WriteRefusedError, match="claim"):
        await store.stamp(1)
    assert await store.is_claimed_by_another()


async def test_a_claim_drops_a_checkpoint_that_cannot_be_read(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    """Its revision would else refuse every checkpoint of the new owner."""
    store = await claimed(redis)
    for _ in range(3):
        await store.checkpoint(OFFSETS, {}, 0)
    await redis.hset(HASH, "offset:membership", "x")
    successor = PartitionStore(redis, RedisServers(), 3, "next")
    assert await successor.claim(4) == Checkpoint(0, {}, 0)
    await successor.checkpoint(OFFSETS, {}, 0)
    assert await redis.hget(HASH, "revision") == b"1"


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
async def test_a_claim_rises_above_the_newest_of_several_views_that_refused_it(
    redis: fakeredis.FakeAsyncRedis, order: tuple[int, int]
) -> None:
    store = await claimed(redis)
    for token, ahead in zip("ab", order, strict=True):
        version = Version(store.version.epoch + 10_000_000 * ahead, 1)
        record = ViewRecord(200, 3, version, b"{}")
        await redis.set(schema.record_key(digest(token)), record.encode())
    newest = store.version.epoch + 20_000_000
    with pytest.raises(WriteRefusedError):
        await store.write_views([view("a"), view("b")])
    await store.claim(4)
    assert store.version.epoch == newest + 1


@pytest.mark.parametrize("refused", [0, 1])
async def test_one_refusal_among_the_servers_of_a_cluster_is_enough(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    store = await claimed(redis)
    newest = str(Version(store.version.epoch + 1, 1)).encode()

    async def run_script(*_: object) -> list[tuple[int, Any]]:
        return [(at, (newest if at == refused else b"", [], [])) for at in range(2)]

    monkeypatch.setattr("projector.clients.redis_batch.run_script", run_script)
    with pytest.raises(WriteRefusedError, match="are newer"):
        await store.write_views([view("a"), view("b")])


# other values of a token's key than this owner's last view


@pytest.mark.parametrize("partition", [2, 4])
async def test_a_token_of_another_partition_is_left_alone_and_disturbs_nobody(
    redis: fakeredis.FakeAsyncRedis, partition: int
) -> None:
    """A digest sent under two root namespaces must not let one refuse the other's writes."""
    first = await claimed(redis)
    await first.write_views([view(body=b"first")])
    other = PartitionStore(redis, RedisServers(), partition, "other")
    await other.claim(4)
    b, c = view("b")._replace(job=10), view("c")._replace(job=11)
    await other.write_views([b, view(body=b"second"), c])
    for token, owner in (("a", 3), ("b", partition), ("c", partition)):
        record = await stored(redis, token)
        assert record is not None
        assert record.partition == owner
    assert await other.drifted([view(body=b"second")]) == []
    await first.write_views([view(body=b"", status=401)])
    record = await stored(redis)
    assert record is not None
    assert record.status == 401


@pytest.mark.parametrize(
    "garbage",
    [
        b"", b"{}", b"200 0003 ffffffffffff ffffffffffff {}",
        b"200 0003 ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~",
    ],
)  # fmt: skip
async def test_what_is_no_record_is_overwritten(
    redis: fakeredis.FakeAsyncRedis, garbage: bytes
) -> None:
    """Were it taken for a newer one, it would refuse its partition's writes for ever."""
    await redis.set(schema.record_key(digest("a")), garbage)
    store = await claimed(redis)
    await store.write_views([view()])
    assert (await stored(redis)) is not None


async def test_a_key_of_another_type_is_overwritten(redis: fakeredis.FakeAsyncRedis) -> None:
    await redis.rpush(schema.record_key(digest("a")), "x")
    store = await claimed(redis)
    await store.write_views([view()])
    assert (await stored(redis)) is not None


async def test_a_claim_rises_above_the_views_that_refused_it(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    """The partition's hash may be gone and the views not; a clock may have been ahead."""
    ahead = await claimed(redis)
    ahead._epoch += 10_000_000
    await ahead.write_views([view(body=b"ahead")])
    await redis.delete(HASH)
    store = await claimed(redis)
    with pytest.raises(WriteRefusedError):
        await store.write_views([view(body=b"mine")])
    await store.claim(4)
    assert store.version.epoch == ahead.version.epoch + 1
    await store.write_views([view(body=b"mine")])


# drift


async def test_a_key_of_another_type_is_drift_and_no_outage(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    store = await claimed(redis)
    await redis.rpush(schema.record_key(digest("a")), "x")
    assert await store.drifted([view()]) == [view()]


async def test_a_claim_keeps_the_settings_that_the_views_depend_on(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    store = PartitionStore(redis, RedisServers(), 3, "me")
    await store.claim(4, {"minimum_level": 30, "tombstone_retention": 7})
    state = await partition_state.read_partition_state(redis, 3)
    assert state is not None
    assert state.rules == {"minimum_level": 30, "tombstone_retention": 7}
    await store.claim(4, {"minimum_level": 40, "tombstone_retention": 7})
    state = await partition_state.read_partition_state(redis, 3)
    assert state is not None
    assert state.rules["minimum_level"] == 40


async def test_a_record_that_differs_is_drift(redis: fakeredis.FakeAsyncRedis) -> None:
    store = await claimed(redis)
    names = ("same", "body", "status", "gone", "garbage", "endless", "longer")
    expected = [view(name)._replace(job=number) for number, name in enumerate(names, 1)]
    await store.write_views(expected)
    await store.write_views([expected[1]._replace(body=b"x"), expected[2]._replace(status=401)])
    await redis.delete(schema.record_key(digest("gone")))
    await redis.set(schema.record_key(digest("garbage")), b"x", pxat=FAR)
    await redis.persist(schema.record_key(digest("endless")))
    await redis.pexpireat(schema.record_key(digest("longer")), FAR + 60_000)
    assert await store.drifted(expected) == expected[1:]
    await store.write_views(expected)
    assert await store.drifted(expected) == []
    assert await store.drifted([]) == []


@pytest.mark.parametrize(
    "drift",
    [None, digest("old"), b"x", b"200 0003 000000000001 000000000001 {}", "endless", "list"],
)
async def test_a_job_s_key_that_does_not_name_its_current_view_is_drift(
    redis: fakeredis.FakeAsyncRedis, drift: Any
) -> None:
    """A pointer that a former owner writes late is not fenced by the pointer that is there."""
    store = await claimed(redis)
    ended = view("old", 401)._replace(is_current=False)
    await store.write_views([ended, view(), of_job()._replace(id=ViewId("10"), job=10)])
    match drift:
        case None | "list":
            await redis.delete(schema.job_key(9))
            await redis.rpush(*(schema.job_key(9), "x") if drift else ("other", "x"))
        case "endless":
            await redis.persist(schema.job_key(9))
        case _:
            await redis.set(schema.job_key(9), drift, pxat=FAR)
    assert await store.drifted([ended, view()]) == [view()]
    await store.write_views([view()])
    assert await store.drifted([ended, view()]) == []


async def test_a_job_s_key_that_names_another_partition_s_token_is_left_alone(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    """A job of two partitions must not have its key rewritten by each in turn."""
    store = await claimed(redis)
    await store.write_views([view()])
    other = PartitionStore(redis, RedisServers(), 4, "other")
    await other.claim(4)
    await other.write_views([view("b")])
    assert await redis.get(schema.job_key(9)) == digest("b").encode()
    assert await store.drifted([view()]) == []


async def test_a_job_s_own_record_that_differs_is_drift(redis: fakeredis.FakeAsyncRedis) -> None:
    store = await claimed(redis)
    await store.write_views([of_job()])
    assert await store.drifted([of_job()]) == []
    await store.write_views([view()])
    assert await store.drifted([of_job()]) == [of_job()]


async def test_large_views_are_compared_a_few_at_a_time(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 of a megabyte would else be in memory at once."""
    monkeypatch.setattr("projector.store.portions.BYTES_PER_CALL", 100)
    store, made, read = await claimed(redis), 0, view_diff.read_values
    ahead: list[int] = []

    async def noted(redis: Any, keys: list[str]) -> Any:
        if not keys or keys[0].startswith(schema.JOBS):
            return await read(redis, keys)
        ahead.append(made - len(keys) * len(ahead))
        return await read(redis, keys)

    def views() -> Iterator[View]:
        nonlocal made
        for number in range(20):
            made += 1
            yield view(str(number), body=b"x" * 50)

    monkeypatch.setattr(view_diff, "read_values", noted)
    assert len(await store.drifted(views())) == 20
    assert len(ahead) == 10
    assert max(ahead) <= 3


# another server


async def test_a_checkpoint_behind_a_failover_is_refused(redis: fakeredis.FakeAsyncRedis) -> None:
    """Its views may have gone to the server that is no more; nothing may be stamped upon it."""
    server = RedisServers()
    store = PartitionStore(redis, server, 3, "me")
    await store.claim(4)
    await store.write_views([view()])
    server.changes += 1
    with pytest.raises(WriteRefusedError, match="failed over"):
        await store.checkpoint(OFFSETS, {}, 0)
    held = await store.claim(4)
    await store.checkpoint(OFFSETS, {}, 0)
    server.changes += 1
    with pytest.raises(WriteRefusedError, match="failed over"):
        await loaded(store, held)


async def test_facts_with_large_names_go_in_steps_too(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projector.store.portions.BYTES_PER_CALL", 100)
    store = await claimed(redis)
    await store.checkpoint(OFFSETS, {Key(f"3/group/{n}" + "x" * 60): None for n in range(3)}, 0)
    assert store.version.revision == 3


async def test_nothing_is_stamped_after_a_server_has_changed(
    redis: fakeredis.FakeAsyncRedis,
) -> None:
    """In a cluster it need not be the one that holds the stamp."""
    server = RedisServers()
    store = PartitionStore(redis, server, 3, "me")
    await store.claim(4)
    await store.checkpoint(OFFSETS, {}, 0)
    await store.stamp(1)
    server.changes += 1
    with pytest.raises(WriteRefusedError, match="failed over"):
        await store.stamp(2)
    assert await redis.hget(HASH, "stamp") == b"1"
    await store.claim(4)
    await store.stamp(3)


async def test_a_failover_during_a_claim_is_noticed(
    redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new server may lack the claim and the facts that were read."""
    server = RedisServers()
    store = PartitionStore(redis, server, 3, "me")
    read = store._claims.read_state

    async def failed_over() -> Any:
        server.changes += 1
        return await read()

    monkeypatch.setattr(store._claims, "read_state", failed_over)
    await store.claim(4)
    with pytest.raises(WriteRefusedError, match="failed over"):
        await store.checkpoint(OFFSETS, {}, 0)


async def test_a_comparison_behind_a_failover_is_refused(redis: fakeredis.FakeAsyncRedis) -> None:
    """All that the other server lacks would count as drift."""
    server = RedisServers()
    store = PartitionStore(redis, server, 3, "me")
    await store.claim(4)
    server.changes += 1
    with pytest.raises(WriteRefusedError, match="failed over"):
        await store.drifted([view()])
