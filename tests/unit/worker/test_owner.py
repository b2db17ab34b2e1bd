"""The owner's loop: every event is applied once, written, acknowledged, stamped, swept."""

import asyncio
import contextlib
from collections.abc import Collection
from typing import Any
from unittest.mock import AsyncMock

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from projector.clients import retry
from projector.errors import WriteRefusedError
from projector.events.model import Topic
from projector.kafka.range_reader import Offsets
from projector.store import schema
from projector.store.partition_store import PartitionStore
from projector.worker import (
    delivery_queue,
    progress,
)
from projector.worker import owner as owner_module
from projector.worker.freshness_probes import FreshnessProbes
from projector.worker.known_logs import TopicLeaders
from tests import builders
from tests.unit.worker.owned_partition import (
    COMPANY,
    PARTITION,
    PROBES_S,
    QUICK,
    Kafka,
    Setup,
    Writes,
    differs,
    field_is,
    gets,
    until,
)


async def test_a_delivery_is_written_and_then_acknowledged(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        (record,) = setup.kafka.add(builders.started(9, 7))
        setup.deliver(owner, record)
        await until(lambda: setup.acked)
        assert await setup.agents() == [5]
        assert await setup.field(f"offset:{Topic.JOB_LIFECYCLE}") == b"1"


async def test_who_is_behind_gathers_larger_batches(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.timing = QUICK._replace(gather_behind_s=60)
    monkeypatch.setattr(progress, "BEHIND", 3)
    monkeypatch.setattr(delivery_queue, "BATCH_SIZE", len(COMPANY))
    async with setup.owning() as owner:
        before = owner.version.revision
        records = setup.kafka.add(*COMPANY)
        await until(owner._is_behind)
        setup.deliver(owner, records[0])
        await asyncio.sleep(0.05)
        setup.deliver(owner, *records[1:])
        await until(lambda: len(setup.acked) == len(COMPANY))
        assert owner.version.revision == before + 1


@pytest.mark.usefixtures("one_view_each")
async def test_events_that_arrive_during_a_long_write_do_not_wait_for_its_end(
    setup: Setup,
) -> None:
    setup.kafka.add(*COMPANY, *(builders.started(job, 7) for job in (9, 10, 11)))
    async with setup.owning() as owner:
        writes = Writes(setup, owner)
        finished = builders.removed("job", 9)

        def arrives(written: int) -> None:
            if written == 1:
                setup.deliver(owner, *setup.kafka.add(builders.removed("job", 20), finished))

        writes.before_write = arrives
        (change,) = setup.kafka.add(builders.configured(5, groups=[{"id": 3}]))
        setup.deliver(owner, change)
        await until(lambda: len(setup.acked) == 3)
        assert writes.order[-1] == "checkpoint"
        assert writes.acked_before == [0]
        assert writes.order[1] == [9]
        assert {job for jobs in writes.order[:-1] for job in jobs} == {9, 10, 11}
        assert setup.acked[0] == (Topic.AGENT_CONFIG, change.offset)
        assert await setup.has_applied(Topic.JOB_LIFECYCLE, 5)


@pytest.mark.usefixtures("one_view_each")
async def test_a_checkpoint_comes_however_much_arrives_during_a_long_write(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "MAX_BATCH", 3)
    setup.kafka.add(*COMPANY, *(builders.started(job, 7) for job in (9, 10, 11)))
    async with setup.owning() as owner:
        writes = Writes(setup, owner)
        jobs = iter(range(100, 110))

        def arrives(_: int) -> None:
            if (job := next(jobs, None)) is not None:
                setup.deliver(owner, *setup.kafka.add(builders.started(job, 7)))

        writes.before_write = arrives
        setup.deliver(owner, *setup.kafka.add(builders.configured(5, groups=[{"id": 3}])))
        await until(lambda: "checkpoint" in writes.order)
        assert writes.order.index("checkpoint") == 5


async def test_an_owner_that_is_overtaken_ends(setup: Setup) -> None:
    first = setup.new_owner("first")
    running = asyncio.create_task(first.run())
    await until(lambda: setup.field("stamp_epoch"))
    async with setup.owning("second"):
        await asyncio.wait_for(running, 5)
        assert await setup.field("owner") == b"second"


async def test_a_stamp_waits_for_every_event_that_kafka_had(
    setup: Setup,
) -> None:
    """The API proves a token unknown by stamps: one before its event would be a false 401."""
    async with setup.owning() as owner:
        records = setup.kafka.add(*COMPANY)
        await asyncio.sleep(PROBES_S)
        before = await setup.field("stamp")
        await asyncio.sleep(PROBES_S)
        assert await setup.field("stamp") == before
        setup.deliver(owner, *records)
        await until(lambda: differs(setup, before))


async def test_no_stamp_while_kafka_does_not_answer(setup: Setup) -> None:
    async with setup.owning():
        setup.kafka.down = True
        await asyncio.sleep(PROBES_S)
        before = await setup.field("stamp")
        await asyncio.sleep(PROBES_S)
        assert await setup.field("stamp") == before
        setup.kafka.down = False
        await until(lambda: differs(setup, before))


async def test_time_alone_changes_a_view_before_the_next_stamp(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the test moves the clock."""
    clock = [builders.NOW]

    async def now(_store: PartitionStore) -> int:
        return clock[0]

    monkeypatch.setattr(PartitionStore, "now", now)
    until_then = builders.member(2, project_id=7, expires_at="2027-01-15T08:00:10Z")
    setup.kafka.add(*COMPANY, until_then, builders.started(9, 7, 2))
    async with setup.owning() as owner:
        assert await setup.agents() == [5]
        clock[0] = builders.NOW + 9_999
        await until(lambda: field_is(setup, "stamp", b"%d" % clock[0]))
        assert await setup.agents() == [5]
        clock[0] = builders.NOW + 10_000
        await until(lambda: field_is(setup, "stamp", b"%d" % clock[0]))
        assert await setup.agents() == []
        # Facts that only events of before may need are forgotten from then on.
        assert owner._applier.applied_until == clock[0]


class LosingKafka(Kafka):
    """Loses the first cancellation that meets a question about the ends."""

    def __init__(self) -> None:
        super().__init__()
        self.loses = False
        self.asked = asyncio.Event()

    async def ends(self, partition: int, leaders: TopicLeaders | None = None) -> Offsets:
        if self.loses and not self.asked.is_set():
            self.asked.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return await super().ends(partition, leaders)


async def test_a_cancellation_that_a_library_loses_keeps_no_owner_from_ending(
    setup: Setup,
) -> None:
    setup.kafka = kafka = LosingKafka()
    async with setup.owning():
        kafka.loses = True
        await kafka.asked.wait()


async def test_tasks_end_though_who_cancels_them_is_cancelled_as_well() -> None:
    async def lose_one_cancellation() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    losing = asyncio.create_task(lose_one_cancellation())
    await asyncio.sleep(0)
    ending = asyncio.create_task(owner_module.cancel_until_done([losing]))
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.wait({ending}, timeout=5)
    assert ending.cancelled()
    assert losing.done()


async def test_the_outage_of_its_stamps_ends_with_an_owner_that_is_cancelled_twice(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the process would report an outage that no call is in any more."""
    ending = asyncio.Event()

    async def cancelled_again(tasks: Collection[asyncio.Task[Any]]) -> None:
        ending.set()
        await cancel_until_done(tasks)
        raise asyncio.CancelledError

    cancel_until_done = owner_module.cancel_until_done
    monkeypatch.setattr(owner_module, "cancel_until_done", cancelled_again)
    owner = setup.new_owner()
    running = asyncio.create_task(owner.run())
    await until(lambda: setup.field("stamp_epoch"))
    monkeypatch.setattr(owner._store, "stamp", AsyncMock(side_effect=RedisConnectionError("down")))
    await until(lambda: retry._outages)
    running.cancel()
    await asyncio.wait({running}, timeout=5)
    assert running.done()
    assert ending.is_set()
    assert not retry._outages


async def test_an_error_ends_the_owner_even_if_a_cancellation_is_lost(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker must end, so that no partition stops silently."""
    setup.kafka = kafka = LosingKafka()
    owner = setup.new_owner()
    running = asyncio.create_task(owner.run())
    await until(lambda: setup.field("stamp_epoch"))
    kafka.loses = True
    await kafka.asked.wait()
    monkeypatch.setattr(owner, "_step", lambda: 1 / 0)
    owner._wake.set()
    await asyncio.wait({running}, timeout=10)
    assert running.done()
    assert isinstance(running.exception(), ExceptionGroup)


async def test_an_owner_that_stops_during_an_alarm_ends_at_once(setup: Setup) -> None:
    setup.timing = QUICK._replace(history_pause_s=3600.0)
    setup.kafka.begins = setup.kafka.begins | {Topic.MEMBERSHIP: 2}
    owner = setup.new_owner()
    running = asyncio.create_task(owner.run())
    await until(lambda: owner.loss)
    owner.stop()
    await asyncio.wait_for(running, 5)


async def test_heals_that_follow_each_other_leave_a_pause(setup: Setup) -> None:
    """Or one partition's heals would take all of Redis' time."""
    setup.timing = QUICK._replace(heal_pause_s=3600.0)
    async with setup.owning() as owner:
        await setup.redis.flushall()
        await asyncio.sleep(PROBES_S)
        assert not await setup.redis.exists(schema.partition_key(PARTITION))
        owner.stop()


async def test_a_refused_batch_is_acknowledged(setup: Setup) -> None:
    """The next claim reads it from Kafka; without its ack Faust's commits would not go on."""
    async with setup.owning() as owner:
        refused = owner._store.write_views

        async def refuse(*args: Any) -> Any:
            owner._store.write_views = refused  # type: ignore[method-assign]
            raise WriteRefusedError("a newer claim")

        owner._store.write_views = refuse  # type: ignore[method-assign,assignment]
        setup.deliver(owner, *setup.kafka.add(*COMPANY, builders.started(9, 7)))
        await until(lambda: gets(setup, "token-9", [5]))
        assert len(setup.acked) == len(COMPANY) + 1


async def test_what_an_owner_leaves_in_its_queue_is_acknowledged(setup: Setup) -> None:
    async with setup.owning() as owner:
        owner.stop()
        setup.deliver(owner, *setup.kafka.add(*COMPANY, *(builders.started(9, 7),) * 600))
    await until(lambda: len(setup.acked) == len(COMPANY) + 600)


async def test_an_owner_in_alarm_leaves_the_partition_to_a_newer_claim(setup: Setup) -> None:
    setup.timing = QUICK._replace(history_pause_s=0.5)
    setup.kafka.begins = setup.kafka.begins | {Topic.MEMBERSHIP: 2}
    owner = setup.new_owner()
    task = asyncio.create_task(owner.run())
    await until(lambda: owner.loss)
    await PartitionStore(setup.redis, setup.server, PARTITION, "other").claim(1)
    await asyncio.wait_for(task, 5)
    assert await setup.field("owner") == b"other"


async def test_a_stamp_has_the_time_of_the_probe_that_is_reached(setup: Setup) -> None:
    """A later probe has seen an event in Kafka that is not applied yet."""
    owner = setup.new_owner()
    await owner._recovery.claim()
    await owner._probes._ask(owner._next_offsets())
    setup.kafka.add(*COMPANY)
    await asyncio.sleep(0.005)
    await owner._probes._ask(owner._next_offsets())
    reached, waiting = owner._probes._waiting
    assert reached.t0 < waiting.t0
    await owner._applier.advance(waiting.t0)
    await owner._stamp()
    assert await setup.field("stamp") == b"%d" % reached.t0
    assert owner._applier.applied_until == reached.t0


async def test_an_owner_whose_probes_are_cancelled_by_a_library_ends_with_an_error(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task group goes on without a cancelled child: the partition would stay stale, silently."""

    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(FreshnessProbes, "run", cancelled)
    owning = asyncio.create_task(setup.new_owner().run())
    await asyncio.wait({owning}, timeout=5)
    with pytest.raises(ExceptionGroup) as raised:
        owning.result()
    (error,) = raised.value.exceptions
    assert "a library cancelled this task" in str(error)


async def test_an_owner_that_is_stopped_before_it_begins_ends_at_once(setup: Setup) -> None:
    """Revoked in the same turn of the loop; work that never begins would be a warning."""
    owner = setup.new_owner()
    owner.stop()
    await owner.run()
    assert await setup.field("epoch") is None
