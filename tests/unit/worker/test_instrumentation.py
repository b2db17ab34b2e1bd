"""Latencies of live events end when Redis has their views; reports come without stamps too."""

import asyncio
import time
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis.exceptions import ResponseError

from projector.events.model import KafkaRecord, Topic
from projector.store import activity, schema
from projector.store.activity import PartitionActivity
from projector.worker.owner import cancel_until_done
from tests import builders
from tests.unit.worker.owned_partition import COMPANY, PARTITION, QUICK, Setup, until

AGO_S = 3


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def published(setup: Setup) -> PartitionActivity | None:
    raw: Any = await setup.redis.get(schema.activity_key(PARTITION))
    return activity.decode_activity(raw)


async def until_applied(setup: Setup, events: int) -> PartitionActivity:
    """Wait until so many events are in the activity, and return it."""

    async def enough() -> bool:
        published_activity = await published(setup)
        return published_activity is not None and applied(published_activity) == events

    await until(enough)
    published_activity = await published(setup)
    assert published_activity is not None
    return published_activity


def applied(published_activity: PartitionActivity) -> int:
    return sum(sum(minute.applied.values()) for minute in published_activity.minutes)


def revocations(published_activity: PartitionActivity) -> int:
    return sum(sum(minute.revocations) for minute in published_activity.minutes)


def ago(record: KafkaRecord) -> KafkaRecord:
    return record._replace(timestamp=int((time.time() - AGO_S) * 1000))


async def test_a_revocation_is_measured_from_its_record_to_its_views(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7), builders.started(10, 7))
    async with setup.owning() as owner:
        count = sample("projector_revocation_seconds_count")
        seconds = sample("projector_revocation_seconds_sum")
        events = sample("projector_event_to_view_seconds_count")
        batches = sample("projector_batch_events_sum")
        finished, group = setup.kafka.add(builders.removed("job", 9), builders.group(4))
        setup.deliver(owner, ago(finished), group)
        await until(lambda: len(setup.acked) == 2)
        assert sample("projector_revocation_seconds_count") == count + 1
        assert sample("projector_revocation_seconds_sum") - seconds >= AGO_S
        assert sample("projector_event_to_view_seconds_count") == events + 2
        assert sample("projector_batch_events_sum") == batches + 2
        published_activity = await until_applied(setup, events=8)
        assert (
            revocations(published_activity),
            published_activity.live_tokens,
            published_activity.owner,
        ) == (1, 1, "me")
        assert published_activity.minutes[-1].slowest >= AGO_S


@pytest.mark.parametrize(
    ("event", "revokes"),
    [
        (builders.user(1, "blocked"), True), (builders.user(1), False),
        (builders.removed("group", 3), True),
        (builders.member(1, "guest", group_id=3), False), (builders.removed("agent", 5), True),
    ],
)  # fmt: skip
async def test_revocations_are_what_takes_access_away(
    setup: Setup, event: dict[str, Any], revokes: bool
) -> None:
    async with setup.owning() as owner:
        setup.deliver(owner, *setup.kafka.add(event))
        assert revocations(await until_applied(setup, events=1)) == revokes


async def test_history_is_counted_and_its_latency_is_not(setup: Setup) -> None:
    """It would measure how long there was no worker."""
    setup.kafka.add(*COMPANY, builders.started(9, 7), builders.removed("job", 9))
    before = sample("projector_event_to_view_seconds_count")
    async with setup.owning():
        assert revocations(await until_applied(setup, events=6)) == 0
        assert sample("projector_event_to_view_seconds_count") == before


async def test_what_is_read_straight_from_kafka_is_measured_too(setup: Setup) -> None:
    """A stalled delivery makes a slow revocation: that it does not count would hide it."""
    async with setup.owning() as owner:
        before = sample("projector_revocation_seconds_count")
        records = setup.kafka.add(
            builders.started(9, 7), builders.removed("job", 9), builders.started(8, 7)
        )
        setup.deliver(owner, records[2])
        await until_applied(setup, events=3)
        assert sample("projector_revocation_seconds_count") == before + 1


async def test_latencies_end_with_the_acknowledgement_of_redis(setup: Setup) -> None:
    async with setup.owning() as owner:
        before = sample("projector_event_to_view_seconds_count")
        write, written = owner._store.commit, asyncio.Event()

        async def held(*args: Any) -> Any:
            await written.wait()
            return await write(*args)

        owner._store.commit = held  # type: ignore[assignment,method-assign]
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: len(owner._instruments._events) == 1)
        assert sample("projector_event_to_view_seconds_count") == before
        written.set()
        await until(lambda: setup.acked)
        assert sample("projector_event_to_view_seconds_count") == before + 1


async def test_a_refused_event_has_no_latency(setup: Setup) -> None:
    async with setup.owning() as owner:
        before = sample("projector_event_to_view_seconds_count")
        refused = sample("projector_events_total", topic="membership", outcome="refused")
        setup.deliver(owner, *setup.kafka.add(b"{"))
        await until(lambda: setup.kafka.letters)
        assert sample("projector_event_to_view_seconds_count") == before
        after = sample("projector_events_total", topic="membership", outcome="refused")
        assert after == refused + 1


async def test_views_are_counted_by_their_status(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        names = ("200", "401")
        before = [sample("projector_view_writes_total", status=name) for name in names]
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: setup.acked)
        setup.deliver(owner, *setup.kafka.add(builders.removed("job", 9)))
        await until(lambda: len(setup.acked) == 2)
        after = [sample("projector_view_writes_total", status=name) for name in names]
        assert after == [before[0] + 1, before[1] + 1]


async def test_the_gauges_of_a_partition_are_there_while_it_is_owned(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    owned = sample("projector_owned_partitions")
    names = ("projector_staleness_seconds", "projector_facts", "projector_live_tokens")
    async with setup.owning():
        await until(lambda: sample("projector_owned_partitions") == owned + 1)
        values = [REGISTRY.get_sample_value(name, {"partition": "0"}) for name in names]
        assert values[1:] == [5.0, 1.0]
        assert values[0] is not None
        assert 0 <= values[0] < 60
    assert sample("projector_owned_partitions") == owned
    assert all(REGISTRY.get_sample_value(name, {"partition": "0"}) is None for name in names)


async def test_the_staleness_grows_while_kafka_does_not_answer(setup: Setup) -> None:
    async with setup.owning():
        setup.kafka.down = True
        before = sample("projector_staleness_seconds", partition="0")
        await until(
            lambda: sample("projector_staleness_seconds", partition="0") > before + 0.2,
        )


async def test_an_activity_that_cannot_be_written_costs_nothing(setup: Setup) -> None:
    tries = []

    async def refuse(_activity: bytes) -> None:
        tries.append(1)
        raise ResponseError("NOPERM")

    async with setup.owning() as owner:
        owner._store.publish = refuse  # type: ignore[assignment,method-assign]
        setup.deliver(owner, *setup.kafka.add(*COMPANY))
        await until(lambda: len(tries) > 2)
        stamp = await setup.field("stamp")

        async def stamped_again() -> bool:
            return await setup.field("stamp") != stamp

        await until(stamped_again)


async def test_activity_expires(setup: Setup) -> None:
    async with setup.owning():
        await until(lambda: published(setup))
        ttl: Any = await setup.redis.ttl(schema.activity_key(PARTITION))
        assert 0 < ttl <= 300


class Spans:
    """Notes what happens to spans, in place of OpenTelemetry."""

    def __init__(self) -> None:
        self.order: list[tuple[int, bool] | str] = []

    def applied(self, record: KafkaRecord, *, refused: bool) -> None:
        self.order.append((record.offset, refused))

    def written(self) -> None:
        self.order.append("written")


async def test_spans_of_a_batch_end_with_its_views(setup: Setup) -> None:
    async with setup.owning() as owner:
        spans: Any = Spans()
        owner._instruments._spans = spans
        setup.deliver(owner, *setup.kafka.add(builders.group(3), b"{"))
        await until(lambda: len(setup.acked) == 2)
        batch = [step for step in spans.order if step != "written"]
        assert batch == [(0, False), (1, True)]
        assert "written" in spans.order[spans.order.index((1, True)) :]


async def test_the_views_that_a_claim_rewrites_are_counted(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    before = sample("projector_view_writes_total", status="200")
    async with setup.owning():
        assert sample("projector_view_writes_total", status="200") == before + 1


async def test_the_next_owner_continues_the_minutes_of_the_former(setup: Setup) -> None:
    """The revocations of the last minutes fell when their worker died."""
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning() as owner:
        setup.deliver(owner, *setup.kafka.add(builders.removed("job", 9)))
        before = await until_applied(setup, events=6)
    setup.kafka.add(builders.started(10, 7))
    async with setup.owning():
        after = await until_applied(setup, events=7)
    assert after.epoch > before.epoch
    assert revocations(after) == revocations(before) == 1


async def test_an_owner_without_kafka_reports_what_it_waits_for(setup: Setup) -> None:
    """Without reports `projector status` took it for a dead one."""
    async with setup.owning():
        await until(lambda: published(setup))
        setup.kafka.down = True
        await until_reported(
            setup, unstamped=True, outage="Kafka: KafkaConnectionError: the broker is down"
        )
        setup.kafka.down = False
        await until_reported(setup, unstamped=False, outage=None)


async def until_reported(setup: Setup, *, unstamped: bool, outage: str | None) -> None:
    async def reported() -> bool:
        found = await published(setup)
        return found is not None and (found.unstamped, found.outage) == (unstamped, outage)

    await until(reported)


async def test_an_owner_that_was_replaced_reports_no_more(setup: Setup) -> None:
    """Without Kafka it does not notice, and overwrote its successor's report each second."""
    async with setup.owning():
        setup.kafka.down = True
        await until_reported(
            setup, unstamped=True, outage="Kafka: KafkaConnectionError: the broker is down"
        )
        await setup.redis.hset(
            schema.partition_key(PARTITION),
            mapping={"epoch": int(time.time() * 1000) + 1000, "owner": "successor"},
        )
        await asyncio.sleep(QUICK.unstamped_s)
        await setup.redis.delete(schema.activity_key(PARTITION))
        await asyncio.sleep(4 * QUICK.unstamped_s)
        assert await published(setup) is None


async def test_an_owner_reports_while_its_claim_reads_kafka(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    # A claim waits for the end of an open transaction.
    setup.kafka.opens = {Topic.MEMBERSHIP: 1}
    owner = setup.new_owner()
    running = asyncio.create_task(owner.run())
    try:
        await until_reported(setup, unstamped=True, outage=None)
        assert not owner.is_serving
    finally:
        await cancel_until_done([running])
