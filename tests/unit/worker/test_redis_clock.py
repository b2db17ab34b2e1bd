"""Jumps of Redis' clock: not believed at first, and judged again in the end."""

import asyncio

import pytest

from projector import metrics
from projector.clients.redis_servers import RedisServers
from projector.clients.trusted_clock import ClockError
from projector.domain import fact_keys
from projector.events.timestamps import to_rfc3339
from projector.store import schema
from tests import builders
from tests.unit.worker.owned_partition import (
    COMPANY,
    PROBES_S,
    Setup,
    gets,
    is_stamped_above,
    until,
)
from tests.unit.worker.redis_clock import HOLD_S, RedisClock

DAY_S = 24 * 3600


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> RedisClock:
    return RedisClock(monkeypatch)


async def redis_now(setup: Setup) -> int:
    seconds, micro = await setup.redis.time()
    return int(seconds) * 1000 + int(micro) // 1000


async def in_seconds(setup: Setup, seconds: float) -> str:
    """Return the moment so many seconds after Redis' present time."""
    return to_rfc3339(await redis_now(setup) + round(seconds * 1000))


async def add_job(setup: Setup, lives_s: float, job: int = 9) -> None:
    setup.kafka.add(*COMPANY, builders.started(job, 7, expires_at=await in_seconds(setup, lives_s)))


def jumps() -> float:
    return float(metrics.CLOCK_JUMPS._value.get())


async def test_no_stamp_while_the_clock_is_not_believed(setup: Setup, clock: RedisClock) -> None:
    before = jumps()
    async with setup.owning():
        clock.ahead = 3600.0
        await asyncio.sleep(PROBES_S)
        stamp = await setup.field("stamp")
        await asyncio.sleep(PROBES_S / 2)
        assert await setup.field("stamp") == stamp
        assert jumps() == before + 1


async def test_tokens_that_redis_expired_by_a_wrong_clock_are_written_before_the_next_stamp(
    setup: Setup, clock: RedisClock
) -> None:
    await add_job(setup, 600)
    async with setup.owning() as owner:
        assert await setup.agents() == [5]
        epoch = owner.version.epoch
        clock.ahead = 3600.0
        await asyncio.sleep(PROBES_S)
        assert await setup.agents() is None
        clock.ahead = 0.0
        await until(lambda: is_stamped_above(setup, epoch))
        assert await setup.agents() == [5]


async def test_a_job_that_starts_after_a_short_jump_is_answered(
    setup: Setup, clock: RedisClock
) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        clock.ahead = 3600.0
        await asyncio.sleep(PROBES_S)
        clock.ahead = 0.0
        await asyncio.sleep(PROBES_S)
        started = builders.started(9, 7, expires_at=await in_seconds(setup, 600))
        setup.deliver(owner, *setup.kafka.add(started))
        await until(lambda: gets(setup, "token-9", [5]))


@pytest.mark.parametrize("days", [100, -100])
async def test_a_jump_that_stays_is_believed_and_taken_back(
    setup: Setup, clock: RedisClock, days: int
) -> None:
    """No job is forgotten by either clock; a membership that ended by a wrong one returns."""
    ends = await in_seconds(setup, 600)
    await add_job(setup, 600)
    setup.kafka.add(
        builders.member(2, project_id=7, expires_at=ends),
        builders.started(10, 7, 2, expires_at=await in_seconds(setup, 200 * DAY_S)),
    )
    async with setup.owning() as owner:
        assert await setup.agents("token-10") == [5]
        for ahead in (days * DAY_S, 0.0):
            epoch = owner.version.epoch
            clock.ahead = ahead
            await asyncio.sleep(HOLD_S / 2)
            assert owner.version.epoch == epoch
            await until(lambda epoch=epoch: is_stamped_above(setup, epoch))  # type: ignore[misc]
            ended = ahead > 0
            assert (await setup.agents() is None) == ended
            assert await setup.agents("token-10") == ([] if ended else [5])
        # The job is live again: a change of what it may use reaches it.
        setup.deliver(owner, *setup.kafka.add(builders.configured(5, groups=[{"id": 3}])))
        await until(lambda: owner._applier.projection.facts.live_tokens == 2)
        setup.deliver(owner, *setup.kafka.add(builders.removed("agent", 5)))
        await until(lambda: gets(setup, "token-9", []))


async def test_facts_are_not_forgotten_by_the_word_of_one_clock(
    setup: Setup, clock: RedisClock
) -> None:
    """Kafka's records are not older than the retention, so a late event may still come."""
    await add_job(setup, 600)
    setup.kafka.add(builders.removed("job", 9))
    async with setup.owning() as owner:
        epoch = owner.version.epoch
        clock.ahead = 100.0 * DAY_S
        await until(lambda: is_stamped_above(setup, epoch))
    async with setup.owning("next") as owner:
        await asyncio.sleep(PROBES_S)
        assert owner._applier.projection.facts.get(fact_keys.job_key("3", 9)) is not None


async def test_an_owner_that_begins_during_a_jump_waits(setup: Setup, clock: RedisClock) -> None:
    await add_job(setup, 600)
    async with setup.owning("first"):
        assert await setup.agents() == [5]
    setup.server = RedisServers()
    epoch = int(await setup.field("epoch") or 0)
    clock.ahead = 3600.0
    owner = setup.new_owner("second")
    task = asyncio.create_task(owner.run())
    await asyncio.sleep(PROBES_S)
    assert int(await setup.field("epoch") or 0) == epoch
    clock.ahead = 0.0
    await until(lambda: is_stamped_above(setup, epoch))
    assert await setup.agents() == [5]
    owner.stop()
    await asyncio.wait_for(task, 5)


async def test_a_stamp_from_before_a_step_of_the_clock_is_refused(
    setup: Setup, clock: RedisClock
) -> None:
    """The worker slept since its probe, so by the new clock the stamp seems younger than it is."""
    owner = setup.new_owner()
    await owner._recovery.claim()
    await owner._probes._ask(owner._next_offsets())
    probe = owner._probes.latest
    assert probe
    clock.ahead = -8.0
    with pytest.raises(ClockError):
        await owner._store.stamp(probe.t0)
    assert await setup.field("stamp") is None


async def test_a_claim_after_one_from_the_future_is_higher(setup: Setup) -> None:
    future = await redis_now(setup) + 100 * DAY_S * 1000
    await setup.redis.hset(schema.partition_key(0), mapping={"epoch": future, "owner": "other"})
    async with setup.owning() as owner:
        assert owner.version.epoch == future + 1
