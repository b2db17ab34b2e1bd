"""Stamps of one owner that wait for sources, and the silence that it notes meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from projector.errors import WriteRefusedError
from projector.events.model import Topic
from projector.events.timestamps import to_rfc3339
from projector.store import schema
from projector.store.partition_store import PartitionStore
from projector.worker import freshness_probes, sources
from projector.worker.owner import Owner, cancel_until_done
from tests import builders
from tests.unit.worker.owned_partition import (
    COMPANY,
    PARTITION,
    PROBES_S,
    QUICK,
    Setup,
    differs,
    field_is,
    is_claimed_above,
    until,
)
from tests.unit.worker.source_log import LEADER, Log, heartbeat, named


@pytest.fixture(autouse=True)
def silent_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness_probes, "SILENT_AFTER_S", 0.05)


@pytest.fixture
async def log(setup: Setup) -> AsyncIterator[Log]:
    async with setup.waiting_for("gitlab") as log:
        yield log


@pytest.fixture
async def owner(setup: Setup, log: Log) -> AsyncIterator[Owner]:
    """Run an owner that has claimed the partition and probed since."""
    setup.kafka.add(*COMPANY)
    owner = setup.new_owner()
    running = asyncio.create_task(owner.run())
    await until(lambda: owner.is_serving and _has_mark(owner))
    yield owner
    assert not running.done()
    await cancel_until_done([running])


def _has_mark(owner: Owner) -> bool:
    probe = owner._probes.latest
    return probe is not None and probe.source is not None and probe.source.reading is not None


async def offsets_applied(setup: Setup) -> dict[str, list[int]]:
    return {topic: [len(records)] for topic, records in setup.kafka.records.items()}


async def beat(setup: Setup, log: Log, source: str = "gitlab") -> None:
    """Send the first two heartbeats of a run, about all that Kafka has."""
    offsets = await offsets_applied(setup)
    for after in (None, log.end):
        message = builders.heartbeat(source, after, offsets)
        log.add(builders.heartbeat_record(message, key=source.encode()))


async def silent(setup: Setup) -> bytes | None:
    """Return the field without the time of the note."""
    field = await setup.field("silent")
    return field.rpartition(b" ")[0] if field else None


async def is_silent_since(setup: Setup, vouched: bytes) -> bool:
    return await silent(setup) == b"gitlab " + vouched


async def stays(setup: Setup, stamp: bytes | None) -> None:
    await asyncio.sleep(PROBES_S)
    assert await setup.field("stamp") == stamp


@pytest.mark.usefixtures("owner")
async def test_a_partition_is_not_fresh_before_its_source_was_heard(setup: Setup, log: Log) -> None:
    await stays(setup, None)
    log.add(heartbeat(None))
    await stays(setup, None)
    await beat(setup, log)
    await until(lambda: setup.field("stamp"))


@pytest.mark.usefixtures("owner")
async def test_one_pair_of_heartbeats_vouches_up_to_the_probes_before_it(
    setup: Setup, log: Log
) -> None:
    await asyncio.sleep(PROBES_S)
    await beat(setup, log)
    await until(lambda: setup.field("stamp"))
    await asyncio.sleep(PROBES_S)
    await stays(setup, await setup.field("stamp"))


async def test_a_stamp_waits_for_what_the_heartbeat_vouches_for(
    setup: Setup, log: Log, owner: Owner
) -> None:
    """The events are in Kafka after the probe's ends, and not applied yet."""
    await asyncio.sleep(PROBES_S)
    later = {topic: [len(records) + 1] for topic, records in setup.kafka.records.items()}
    log.add(heartbeat(None), builders.heartbeat("gitlab", log.end, later))
    await stays(setup, None)
    events = setup.kafka.add(builders.user(1), builders.agent(6, 7), builders.started(9, 7))
    setup.deliver(owner, *events[:2])
    await stays(setup, None)
    setup.deliver(owner, events[2])
    await until(lambda: setup.field("stamp"))


async def test_a_first_view_that_is_held_back_is_not_applied_for_a_heartbeat_either(
    setup: Setup, owner: Owner, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token would be taken for unknown, and get 401."""
    await beat(setup, log)
    await until(lambda: setup.field("stamp"))
    applier = owner._applier
    served = applier.served_offsets | {Topic.JOB_LIFECYCLE: 0}
    monkeypatch.setattr(type(applier), "served_offsets", property(lambda _: served))
    (event,) = setup.kafka.add(builders.started(9, 7))
    setup.deliver(owner, event)
    await until(lambda: setup.acked)
    stamp = await setup.field("stamp")
    await beat(setup, log)
    await stays(setup, stamp)


@pytest.mark.usefixtures("owner")
async def test_silence_is_noted_with_the_time_that_the_source_vouched_for(
    setup: Setup, log: Log
) -> None:
    await until(lambda: is_silent_since(setup, b"0"))
    await beat(setup, log)
    await until(lambda: setup.field("stamp"))
    await until(lambda: setup.field("silent"))
    stamp = await setup.field("stamp")
    assert await silent(setup) == b"gitlab %s" % (stamp or b"")
    await beat(setup, log)
    await until(lambda: differs(setup, stamp))


async def test_a_heartbeat_leads_to_a_stamp_without_another_probe(setup: Setup) -> None:
    setup.timing = QUICK._replace(probe_interval_s=2.0)
    async with setup.waiting_for("gitlab") as log:
        await until(lambda: setup.sources and setup.sources.mark(LEADER, 0).reading)
        owner = setup.new_owner()
        running = asyncio.create_task(owner.run())
        await until(lambda: owner.is_serving and owner._probes.latest)
        probe = owner._probes.latest
        await asyncio.sleep(PROBES_S)
        await beat(setup, log)
        await until(lambda: setup.field("stamp"))
        assert owner._probes.latest is probe
        await cancel_until_done([running])


@pytest.mark.usefixtures("owner")
async def test_a_stamp_removes_the_silence(
    setup: Setup, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until(lambda: setup.field("silent"))
    monkeypatch.setattr(freshness_probes, "SILENT_AFTER_S", 3600)
    await asyncio.sleep(PROBES_S)
    await beat(setup, log)
    await until(lambda: setup.field("stamp"))
    assert await setup.field("silent") is None


async def test_of_two_sources_the_one_that_is_silent_is_named(setup: Setup) -> None:
    async with setup.waiting_for("gitlab", "hr") as log:
        owner = setup.new_owner()
        running = asyncio.create_task(owner.run())
        await until(lambda: owner.is_serving)
        for number in range(50):
            log.add(named("gitlab", None if number == 0 else log.end - 1))
            await asyncio.sleep(0.01)
            if owner.waits_for:
                break
        assert owner.waits_for == "hr"
        assert await silent(setup) == b"hr 0"
        assert await setup.field("stamp") is None
        await cancel_until_done([running])


async def test_a_stamp_ends_the_wait_for_a_source(setup: Setup, log: Log, owner: Owner) -> None:
    await until(lambda: owner.waits_for == "gitlab")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(freshness_probes, "SILENT_AFTER_S", 3600)
    await asyncio.sleep(PROBES_S)
    await beat(setup, log)
    await until(lambda: setup.field("stamp"))
    await until(lambda: owner.waits_for is None)
    monkeypatch.undo()


async def test_a_claim_ends_the_wait_for_a_source(
    setup: Setup, log: Log, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it nothing was noted yet, and the source may be back."""
    assert log.end == 0
    await until(lambda: owner.waits_for == "gitlab")
    monkeypatch.setattr(freshness_probes, "SILENT_AFTER_S", 3600)
    epoch = int(await setup.field("epoch") or 0)
    setup.server.changes += 1
    setup.deliver(owner, *setup.kafka.add(builders.user(1)))
    await until(lambda: is_claimed_above(setup, epoch))
    await until(lambda: owner.waits_for is None)


async def test_only_the_last_of_the_awaited_heartbeats_wakes_the_owner(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.timing = QUICK._replace(probe_interval_s=2.0)
    async with setup.waiting_for("gitlab", "hr") as log:
        await until(lambda: setup.sources and setup.sources.mark(LEADER, 0).reading)
        owner = setup.new_owner()
        running = asyncio.create_task(owner.run())
        await until(lambda: owner.is_serving and owner._probes.latest)
        probe = owner._probes.latest
        await asyncio.sleep(PROBES_S)
        steps = 0
        step = owner._step

        async def counted() -> None:
            nonlocal steps
            steps += 1
            await step()

        monkeypatch.setattr(owner, "_step", counted)
        for _ in range(20):
            await beat(setup, log)
        await asyncio.sleep(PROBES_S)
        before = steps
        await beat(setup, log, "hr")
        await until(lambda: setup.field("stamp"))
        assert owner._probes.latest is probe
        await cancel_until_done([running])
    assert (before, steps) == (0, 1)


async def test_an_owner_that_is_behind_accuses_no_source(
    setup: Setup, log: Log, owner: Owner
) -> None:
    await beat(setup, log)
    await until(lambda: setup.field("stamp"))
    setup.kafka.add(builders.user(1))
    for _ in range(20):
        await beat(setup, log)
        await asyncio.sleep(0.01)
    assert owner.waits_for is None
    assert await setup.field("silent") is None


async def test_a_zombie_cannot_note_silence(setup: Setup) -> None:
    old = PartitionStore(setup.redis, setup.server, PARTITION, "old")
    new = PartitionStore(setup.redis, setup.server, PARTITION, "new")
    await old.claim(1)
    await old.note_silence("gitlab", 7)
    assert await silent(setup) == b"gitlab 7"
    noted = int((await setup.field("silent") or b"").rpartition(b" ")[2])
    assert abs(noted - await new.now()) < 2000
    await new.claim(1)
    # The source may be back since.
    assert await setup.field("silent") is None
    with pytest.raises(WriteRefusedError, match="no longer has this owner's claim"):
        await old.note_silence("gitlab", 8)
    assert await setup.field("silent") is None


async def test_silence_notices_another_server(setup: Setup) -> None:
    store = PartitionStore(setup.redis, setup.server, PARTITION, "me")
    await store.claim(1)
    setup.server.changes += 1
    with pytest.raises(WriteRefusedError, match="failed over"):
        await store.note_silence("gitlab", 7)


async def test_silence_notices_a_redis_that_was_emptied(
    setup: Setup, log: Log, owner: Owner
) -> None:
    """Not the next stamp, which may come in hours: the answers would be missing until then."""
    assert owner.is_serving
    assert log.end == 0
    await until(lambda: setup.field("silent"))
    epoch = int(await setup.field("epoch") or 0)
    await setup.redis.flushall()
    await until(lambda: is_claimed_above(setup, epoch))
    await until(lambda: setup.field("silent"))


async def test_after_minutes_of_silence_the_first_heartbeats_make_the_partition_fresh(
    setup: Setup, log: Log, owner: Owner
) -> None:
    """The oldest probes alone would let it be fresh as of minutes ago."""
    await until(lambda: len(owner._probes._waiting) == freshness_probes.MAX_PROBES)
    await asyncio.sleep(PROBES_S)
    newest = owner._probes.latest
    assert newest is not None
    await beat(setup, log)
    await until(lambda: setup.field("stamp"))
    assert int(await setup.field("stamp") or 0) >= newest.t0


async def test_operators_see_when_a_source_was_heard_while_it_is_silent(
    setup: Setup, log: Log, owner: Owner
) -> None:
    async def activity() -> Any:
        return await setup.redis.get(schema.activity_key(PARTITION))

    async def published(text: bytes) -> bool:
        return text in (await activity() or b"")

    assert owner.is_serving
    await until(lambda: published(b'"sources":{"gitlab":null}'))
    await beat(setup, log)
    await until(lambda: published(b'"sources":{"gitlab":1'))


async def test_the_log_has_each_silence_and_its_end_once(
    setup: Setup, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "COUNTED_LATELY_S", 0.05)
    monkeypatch.setattr(sources, "SILENCE_AGAIN_S", 0.0)
    with capture_logs() as logged:
        running = [asyncio.create_task(setup.new_owner().run())]
        await until(lambda: _named(logged, "source silent"))
        await asyncio.sleep(PROBES_S)
        await beat(setup, log)
        await until(lambda: _named(logged, "source vouches again"))
        await until(lambda: len(_named(logged, "source silent")) == 2)
        await asyncio.sleep(PROBES_S)
        await cancel_until_done(running)
    first, second = _named(logged, "source silent")
    assert (first["log_level"], first["source"], first["since"]) == ("warning", "gitlab", None)
    assert second["since"] == to_rfc3339(int(await setup.field("stamp") or 0))
    (end,) = _named(logged, "source vouches again")
    assert (end["log_level"], end["source"]) == ("info", "gitlab")
    assert end["seconds"] >= 0


def _named(logged: Sequence[Any], event: str) -> list[Any]:
    return [line for line in logged if line["event"] == event]


async def test_a_claim_has_the_sources_that_its_stamps_wait_for(setup: Setup) -> None:
    async with setup.owning():
        assert await setup.field("sources") == b""
    with capture_logs() as logs:
        async with setup.waiting_for("gitlab", "hr") as log:
            owner = setup.new_owner("other")
            running = asyncio.create_task(owner.run())
            await until(lambda: field_is(setup, "sources", b"gitlab,hr"))
            assert log.end == 0
            await until(lambda: owner.is_serving)
            await cancel_until_done([running])
    (warning,) = [entry for entry in logs if "other sources" in entry["event"]]
    assert (warning["former"], warning["now"]) == ("none", "gitlab,hr")


async def test_a_claim_after_one_with_the_same_sources_or_of_an_older_worker_logs_nothing(
    setup: Setup,
) -> None:
    store = PartitionStore(setup.redis, setup.server, PARTITION, "me")
    with capture_logs() as logs:
        await store.claim(1, sources=("gitlab", "hr"))
        await store.claim(1, sources=("hr", "gitlab"))
    assert not [entry for entry in logs if "other sources" in entry["event"]]
