"""The sweep sees everything once a round, never much at once, and nothing that is none of its."""

import asyncio
from itertools import chain
from typing import Any

import fakeredis
import pytest

from projector.domain.views import ViewId
from projector.store import schema
from projector.store.schema import Version, ViewRecord
from projector.worker import sweep
from projector.worker.sweep import OrphanScan, SweepSchedule
from tests import builders
from tests.builders import digest
from tests.unit.worker.owned_partition import (
    COMPANY,
    PARTITION,
    Setup,
    Writes,
    gets,
    has_ended,
    is_claimed_above,
    until,
)

A, B = ViewId("a"), ViewId("b")


def taken(rounds: SweepSchedule, ids: list[ViewId], ticks: int) -> list[list[ViewId]]:
    portions = []
    for _ in range(ticks):
        rounds.tick()
        portions.append(rounds.take(lambda: ids))
    return portions


def test_every_token_has_its_turn_once_a_round() -> None:
    tokens = [ViewId(str(n)) for n in range(10)]
    portions = taken(SweepSchedule(interval=1.0, tick=0.25), tokens, ticks=8)
    assert sorted(chain(*portions[:4])) == tokens
    assert sorted(chain(*portions[4:])) == tokens
    assert max(map(len, portions)) == 3


def test_few_tokens_are_not_compared_more_often_than_ticks_allow() -> None:
    rounds = SweepSchedule(interval=100.0, tick=0.25)
    assert rounds.take(lambda: [A]) == []
    rounds.tick()
    assert rounds.take(lambda: [A]) == [A]
    assert rounds.take(lambda: [A]) == []
    assert taken(rounds, [], ticks=2) == [[], []]


def test_few_tokens_are_read_together_and_no_later() -> None:
    """A read four times a second in each partition would be most of what an idle worker does."""
    tokens = [ViewId(str(n)) for n in range(20)]
    portions = taken(SweepSchedule(interval=10.0, tick=0.25), tokens, ticks=48)
    assert [len(portion) for portion in portions if portion] == [8, 8, 4, 8, 8, 4]
    assert sorted(chain(*portions[:24])) == sorted(chain(*portions[24:])) == sorted(tokens)


def test_a_portion_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "MAX_PER_TICK", 5)
    portions = taken(
        SweepSchedule(interval=0.25, tick=0.25), [ViewId(str(n)) for n in range(12)], 3
    )
    assert [len(portion) for portion in portions] == [5, 5, 2]


def test_a_suspect_is_taken_once_and_not_too_many_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep, "MAX_SUSPECTS", 2)
    rounds = SweepSchedule(1.0, 0.25)
    for suspect in (A, A, B, ViewId("c")):
        rounds.suspect(suspect)
    assert sorted(rounds.take_suspects()) == [A, B]
    assert rounds.take_suspects() == []


async def test_every_live_record_is_named_and_nothing_else() -> None:
    named: list[tuple[int, str]] = []
    async with fakeredis.FakeAsyncRedis() as redis:
        for number in range(1200):
            record = ViewRecord(200, number % 3, Version(7, 1), b"{}")
            await redis.set(schema.record_key(digest(str(number))), record.encode())
        await redis.set(
            schema.record_key(digest("ended")), ViewRecord(401, 1, Version(7, 1), b"").encode()
        )
        await redis.set(schema.record_key(digest("garbage")), b"x")
        await redis.set(schema.TOKENS.encode() + b"\xff", b"x")
        await redis.rpush(schema.record_key(digest("list")), "x")
        await redis.set(schema.job_key(8), "x")
        await redis.set(schema.job_key(9), digest("token-9"))
        await redis.set(schema.job_key(10), ViewRecord(200, 1, Version(7, 1), b"{}").encode())
        scan = OrphanScan(redis, 0.0, lambda *found: named.append(found))
        await scan._scan()
    assert set(named) == {(n % 3, digest(str(n))) for n in range(1200)} | {(1, "10")}


@pytest.mark.parametrize(
    ("status", "is_suspect"), [(200, True), (403, True), (503, True), (401, False)]
)
async def test_a_record_of_every_status_that_is_not_the_end_may_be_an_orphan(
    status: int, is_suspect: bool
) -> None:
    """Its 403 or 503 would never become the 401 of a token that no job has."""
    named: list[tuple[int, str]] = []
    async with fakeredis.FakeAsyncRedis() as redis:
        record = ViewRecord(status, 2, Version(7, 1), b"{}")
        await redis.set(schema.record_key(digest("a")), record.encode())
        await OrphanScan(redis, 0.0, lambda *found: named.append(found))._scan()
    assert named == ([(2, digest("a"))] if is_suspect else [])


async def test_a_walk_outlasts_an_outage() -> None:
    server = fakeredis.FakeServer()
    async with fakeredis.FakeAsyncRedis(server=server) as redis:
        await redis.set(
            schema.record_key(digest("a")), ViewRecord(200, 1, Version(7, 1), b"{}").encode()
        )
        named = asyncio.Event()
        server.connected = False
        walking = asyncio.create_task(OrphanScan(redis, 0.0, lambda *_: named.set()).run())
        await asyncio.sleep(0.1)
        assert not named.is_set()
        server.connected = True
        await asyncio.wait_for(named.wait(), 5)
        walking.cancel()


@pytest.mark.parametrize("drift", ["gone", "other", "endless"])
async def test_a_view_that_drifted_is_repaired(setup: Setup, drift: str) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        key = schema.record_key(digest("token-9"))
        before = await setup.redis.pexpiretime(key)
        match drift:
            case "gone":
                await setup.redis.delete(key)
            case "other":
                raw: Any = await setup.redis.get(key)
                await setup.redis.set(key, raw.replace(b'"id":5', b'"id":6'), keepttl=True)
            case "endless":
                await setup.redis.persist(key)
        await until(lambda: gets(setup, "token-9", [5]))
        await until(lambda: _expires(setup, key, before))


async def _expires(setup: Setup, key: str, moment: int) -> bool:
    return bool(await setup.redis.pexpiretime(key) == moment)


async def test_a_record_that_no_fact_justifies_becomes_a_tombstone(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning() as owner:
        record = schema.ViewRecord(200, PARTITION, Version(owner.version.epoch, 1), b"{}")
        await setup.redis.set(schema.record_key(digest("orphan")), record.encode())
        owner.check_orphan(digest("orphan"))
        owner.check_orphan(digest("token-9"))
        await until(lambda: has_ended(setup, "orphan"))
        assert not await has_ended(setup, "token-9")


async def test_an_orphan_of_a_higher_epoch_is_ended_too(setup: Setup) -> None:
    """It would be taken for newer than every stamp: the claim must rise above it."""
    async with setup.owning() as owner:
        epoch = owner.version.epoch + 1000
        record = schema.ViewRecord(200, PARTITION, Version(epoch, 1), b"{}")
        await setup.redis.set(schema.record_key(digest("orphan")), record.encode())
        owner.check_orphan(digest("orphan"))
        await until(lambda: is_claimed_above(setup, epoch))
        owner.check_orphan(digest("orphan"))
        await until(lambda: has_ended(setup, "orphan"))


async def test_before_its_first_claim_an_owner_suspects_no_record(setup: Setup) -> None:
    owner = setup.new_owner()
    owner.check_orphan(digest("token-9"))
    assert owner._sweep._schedule.take_suspects() == []


async def test_an_owner_suspects_no_token_of_its_own_jobs(setup: Setup) -> None:
    """The scan passes every live record: these would leave no room for orphans."""
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    owner = setup.new_owner()
    await owner._recovery.claim()
    for token in ("token-9", "orphan"):
        owner.check_orphan(digest(token))
    assert owner._sweep._schedule.take_suspects() == [digest("orphan")]


async def test_a_suspect_whose_job_has_started_meanwhile_is_left_alone(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    owner = setup.new_owner()
    await owner._recovery.claim()
    owner.check_orphan(digest("token-9"))
    for record in setup.kafka.add(builders.started(9, 7)):
        await owner._applier.take(record)
    await owner._writer.write_all()
    await owner._sweep.run_portion()
    assert await setup.agents() == [5]


async def test_a_record_that_has_expired_is_not_missed(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    owner = setup.new_owner()
    await owner._recovery.claim()
    writes = Writes(setup, owner)
    (view,) = owner._applier.projection.all_views(owner._applier.now)
    await setup.redis.delete(schema.record_key(view.id))
    await owner._applier.advance(view.expires_at)
    owner._sweep.tick()
    await owner._sweep.run_portion()
    assert writes.order == []


async def test_a_token_that_is_forgotten_before_its_turn_is_passed_over(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "FEW", 1)
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    owner = setup.new_owner()
    await owner._recovery.claim()
    owner._sweep.tick()
    schedule = owner._sweep._schedule
    assert schedule.take(lambda: [ViewId("8"), digest("token-9")]) == [digest("token-9")]
    owner._sweep.tick()
    await owner._sweep.run_portion()
    assert schedule._round == []


# jobs without a digest, and pointers


async def test_a_job_s_own_record_that_drifted_is_repaired(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7, token=None))
    async with setup.owning():
        await setup.redis.delete(schema.job_key(9))
        await until(lambda: has_agents(setup, 9, [5]))


async def test_a_job_s_record_that_no_fact_justifies_is_deleted(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7, token=None))
    async with setup.owning() as owner:
        record = schema.ViewRecord(200, PARTITION, Version(owner.version.epoch, 1), b"{}")
        await setup.redis.set(schema.job_key(8), record.encode())
        owner.check_orphan(ViewId("8"))
        owner.check_orphan(ViewId("9"))
        await until(lambda: is_gone(setup, 8))
        assert await setup.agents_of(9) == [5]


async def test_a_late_pointer_of_a_former_owner_does_not_last(setup: Setup) -> None:
    """Signed tokens of the job would get the tombstone of its former digest."""
    first, second = builders.started(9, 7, token="first"), builders.started(9, 7)
    setup.kafka.add(*COMPANY, first, second)
    async with setup.owning():
        await setup.redis.set(schema.job_key(9), digest("first"), keepttl=True)
        await until(lambda: is_named(setup, 9, "token-9"))


@pytest.mark.parametrize("has_digest", [True, False])
async def test_a_record_from_before_a_job_s_digest_is_no_orphan_but_a_lost_pointer(
    setup: Setup, has_digest: bool
) -> None:
    """A tombstone there would refuse the signed tokens of a live job."""
    setup.kafka.add(*COMPANY, builders.started(9, 7), builders.started(8, 7, root="4"))
    owner = setup.new_owner()
    await owner._recovery.claim()
    job = 9 if has_digest else 10
    record = schema.ViewRecord(200, PARTITION, Version(owner.version.epoch, 1), b"{}")
    await setup.redis.set(schema.job_key(job), record.encode())
    owner.check_orphan(ViewId(str(job)))
    owner.check_orphan(digest("orphan"))
    await owner._sweep.run_portion()
    assert await is_named(setup, 9, "token-9")
    assert await is_gone(setup, 10)
    assert await has_ended(setup, "orphan")


async def test_a_pointer_that_has_replaced_a_suspect_since_the_scan_stays(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    owner = setup.new_owner()
    await owner._recovery.claim()
    owner.check_orphan(ViewId("9"))
    await owner._sweep.run_portion()
    assert await is_named(setup, 9, "token-9")


async def test_a_record_from_before_the_digest_of_an_expired_job_ends(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7, expires_at="2026-01-01"))
    owner = setup.new_owner()
    await owner._recovery.claim()
    record = schema.ViewRecord(200, PARTITION, Version(owner.version.epoch, 1), b"{}")
    await setup.redis.set(schema.job_key(9), record.encode())
    owner.check_orphan(ViewId("9"))
    await owner._sweep.run_portion()
    assert await is_gone(setup, 9)


async def test_no_record_of_a_job_outlasts_its_move_to_a_digest_of_another_partition(
    setup: Setup,
) -> None:
    """A faulty producer sends one digest twice. Signed tokens would keep the former list."""
    setup.kafka.add(*COMPANY, builders.started(9, 7, token=None))
    foreign = ViewRecord(200, PARTITION + 5, Version(7, 3), b'{"job":{"id":77}}').encode()
    await setup.redis.set(schema.record_key(digest("token-9")), foreign)
    async with setup.owning() as owner:
        before: Any = await setup.redis.get(schema.job_key(9))
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: is_tombstone(setup, 9))
        version = ViewRecord.decode(before).version._replace(revision=9)
        late = ViewRecord.decode(before)._replace(version=version).encode()
        await setup.redis.set(schema.job_key(9), late)
        owner.check_orphan(ViewId("9"))
        await until(lambda: is_tombstone(setup, 9))
        assert await setup.redis.get(schema.record_key(digest("token-9"))) == foreign


async def has_agents(setup: Setup, job: int, agents: list[int]) -> bool:
    return await setup.agents_of(job) == agents


async def is_gone(setup: Setup, job: int) -> bool:
    return not await setup.redis.exists(schema.job_key(job))


async def is_tombstone(setup: Setup, job: int) -> bool:
    record = await setup.record_of(job)
    return record is not None and (record.status, record.body) == (401, b"")


async def is_named(setup: Setup, job: int, token: str) -> bool:
    return bool(await setup.redis.get(schema.job_key(job)) == digest(token).encode())
