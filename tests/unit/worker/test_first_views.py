"""A job's first view is complete: it has all that the other topics held when its job started."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from projector.events.model import KafkaRecord, Topic
from projector.kafka.range_reader import Offsets, ReadProgress
from projector.store import schema
from projector.store.partition_state import SERVED_JOBS
from projector.worker import first_views
from projector.worker.first_views import FirstViews
from projector.worker.known_logs import TopicLeaders
from tests import builders
from tests.builders import digest
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
    has_ended,
    until,
)


async def has_record(setup: Setup, token: str = "token-9") -> bool:
    return bool(await setup.redis.exists(schema.record_key(digest(token))))


async def test_a_first_view_waits_for_what_the_other_topics_held(setup: Setup) -> None:
    """Meanwhile no stamp proves its token unknown, and all other events take effect."""
    setup.kafka.add(*COMPANY, builders.started(10, 7))
    async with setup.owning() as owner:
        late = setup.kafka.add(builders.agent(6, 7))
        (started,) = setup.kafka.add(builders.started(9, 7))
        setup.deliver(owner, started)
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 2))
        await asyncio.sleep(PROBES_S)
        before = await setup.field("stamp")
        setup.deliver(owner, *setup.kafka.add(builders.removed("job", 10)))
        await until(lambda: has_ended(setup, "token-10"))
        await asyncio.sleep(PROBES_S)
        assert not await has_record(setup)
        assert await setup.field("stamp") == before
        setup.deliver(owner, *late)
        await until(lambda: gets(setup, "token-9", [5, 6]))
        await until(lambda: differs(setup, before))


async def test_no_stamp_passes_a_view_that_waits_for_more_than_the_probe_saw(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent came after the probe and before the question: the token must not look unknown."""
    ends = setup.kafka.ends

    async def later(_: FirstViews) -> Offsets:
        return await ends(PARTITION) | {Topic.AGENT_CONFIG: 2}

    monkeypatch.setattr(FirstViews, "_ends", later)
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 1))
        await asyncio.sleep(PROBES_S)
        before = await setup.field("stamp")
        await asyncio.sleep(PROBES_S)
        assert not await has_record(setup)
        assert await setup.field("stamp") == before
        setup.deliver(owner, *setup.kafka.add(builders.agent(6, 7)))
        await until(lambda: gets(setup, "token-9", [5, 6]))
        await until(lambda: differs(setup, before))


async def test_events_from_after_the_start_hold_no_view_back(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        (late,) = setup.kafka.add(builders.agent(6, 7))
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 1))
        setup.kafka.add(builders.agent(8, 7))
        setup.deliver(owner, late)
        await until(lambda: gets(setup, "token-9", [5, 6]))


async def test_a_complete_view_is_written_before_its_event_is_acknowledged(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        writes = Writes(setup, owner)
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: setup.acked)
        assert writes.order == [[9], "checkpoint"]


async def test_a_change_does_not_write_a_view_that_is_held_back(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        late = setup.kafka.add(builders.agent(6, 7), builders.agent(8, 7))
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 1))
        setup.deliver(owner, late[0])
        await until(lambda: setup.has_applied(Topic.AGENT_CONFIG, 2))
        assert not await has_record(setup)
        setup.deliver(owner, late[1])
        await until(lambda: gets(setup, "token-9", [5, 6, 8]))


async def test_a_job_that_ends_while_its_view_is_held_back_ends_at_once(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        setup.kafka.add(builders.agent(6, 7))
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 1))
        setup.deliver(owner, *setup.kafka.add(builders.removed("job", 9)))
        await until(lambda: has_record(setup))
        assert await has_ended(setup, "token-9")


async def test_a_second_token_of_a_job_waits_as_well(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning() as owner:
        late = setup.kafka.add(builders.agent(6, 7))
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7, token="second")))
        await until(lambda: has_ended(setup, "token-9"))
        assert not await has_record(setup, "second")
        setup.deliver(owner, *late)
        await until(lambda: gets(setup, "second", [5, 6]))


async def test_the_first_view_of_a_job_without_a_digest_waits_as_well(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        late = setup.kafka.add(builders.agent(6, 7))
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7, token=None)))
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 1))
        await asyncio.sleep(PROBES_S)
        assert await setup.record_of(9) is None
        setup.deliver(owner, *late)
        await until(lambda: has_agents(setup, 9, [5, 6]))


async def test_a_job_that_has_an_answer_keeps_it_when_it_gets_a_digest(setup: Setup) -> None:
    """Held back, its view would miss a revocation that the next stamp vouches for."""
    setup.kafka.add(*COMPANY, builders.started(9, 7, token=None))
    async with setup.owning() as owner:
        setup.kafka.add(builders.agent(6, 7))
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: gets(setup, "token-9", [5]))
        assert await setup.redis.get(schema.job_key(9)) == digest("token-9").encode()


async def test_a_job_whose_first_view_waits_gets_no_shorter_one_with_a_digest(
    setup: Setup,
) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        late = setup.kafka.add(builders.agent(6, 7))
        for message in (builders.started(9, 7, token=None), builders.started(9, 7)):
            setup.deliver(owner, *setup.kafka.add(message))
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 2))
        await asyncio.sleep(PROBES_S)
        assert not await has_record(setup)
        setup.deliver(owner, *late)
        await until(lambda: gets(setup, "token-9", [5, 6]))
        assert await setup.record_of(9) is None


async def has_agents(setup: Setup, job: int, agents: list[int]) -> bool:
    return await setup.agents_of(job) == agents


async def test_what_faust_never_brings_is_read_for_a_first_view(setup: Setup) -> None:
    setup.timing = QUICK._replace(stall_s=0.05)
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        setup.kafka.add(builders.agent(6, 7))
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: gets(setup, "token-9", [5, 6]))


async def test_the_sweep_writes_no_view_that_is_held_back(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        owner._sweep._schedule._ticks = 1.0
        setup.kafka.add(builders.agent(6, 7))
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 1))
        await asyncio.sleep(PROBES_S)
        assert not await has_record(setup)


class AwayKafka(Kafka):
    """Refuses questions about ends on demand, as without a leader."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    async def ends(self, partition: int, leaders: TopicLeaders | None = None) -> Offsets:
        if self.away:
            raise KafkaConnectionError("no leader")
        return await super().ends(partition, leaders)


async def test_other_views_do_not_wait_for_an_answer_of_kafka(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_views, "ANSWER_S", 3600.0)
    setup.kafka = kafka = AwayKafka()
    kafka.add(*COMPANY, builders.started(10, 7))
    async with setup.owning() as owner:
        kafka.away = True
        setup.deliver(owner, *kafka.add(builders.started(9, 7), builders.removed("job", 10)))
        await until(lambda: has_ended(setup, "token-10"))
        assert not await has_record(setup)
        kafka.away = False
        await until(lambda: gets(setup, "token-9", [5]))


async def test_events_do_not_wait_long_for_an_answer_of_kafka(setup: Setup) -> None:
    setup.kafka = kafka = AwayKafka()
    kafka.add(*COMPANY, builders.started(10, 7))
    async with setup.owning() as owner:
        kafka.away = True
        setup.deliver(owner, *kafka.add(builders.started(9, 7)))
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 2))
        setup.deliver(owner, *kafka.add(builders.removed("job", 10)))
        await until(lambda: has_ended(setup, "token-10"))
        kafka.away = False
        await until(lambda: gets(setup, "token-9", [5]))


@pytest.mark.usefixtures("one_view_each")
async def test_jobs_that_start_during_a_long_write_wait_as_well(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(10, 7), builders.started(11, 7))
    async with setup.owning() as owner:
        writes = Writes(setup, owner)
        (change,) = setup.kafka.add(builders.configured(5, groups=[{"id": 3}]))
        late: list[KafkaRecord] = []

        def arrives(written: int) -> None:
            if written == 1:
                late.extend(setup.kafka.add(builders.agent(6, 7)))
                setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))

        writes.before_write = arrives
        setup.deliver(owner, change)
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 3))
        await asyncio.sleep(PROBES_S)
        assert not await has_record(setup)
        setup.deliver(owner, *late)
        await until(lambda: gets(setup, "token-9", [5, 6]))


async def test_a_heal_writes_complete_views_only(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        setup.kafka.add(builders.agent(6, 7))
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 1))
        await setup.redis.flushall()
        setup.deliver(owner, *setup.kafka.add(builders.removed("job", 10)))
        await until(lambda: has_record(setup))
        assert await setup.agents() == [5, 6]
        await until(lambda: setup.field("stamp"))


@pytest.mark.parametrize("claims", [True, False], ids=["claim", "gap"])
async def test_a_read_that_returns_more_than_was_asked_for_starts_no_job_too_early(
    setup: Setup, claims: bool
) -> None:
    """Faust brings the rest; a job of it might be newer than what is read of other topics."""
    read = setup.kafka.read

    async def more(partition: int, starts: Offsets, ends: Offsets) -> AsyncIterator[ReadProgress]:
        all_of_it = {topic: len(setup.kafka.records[topic]) for topic in ends}
        async for progress in read(partition, starts, all_of_it):
            yield progress

    setup.kafka.add(*COMPANY, builders.started(9, 7), builders.started(10, 7))
    owner = setup.new_owner()
    applier: Any = owner._applier
    setup.kafka.read = more  # type: ignore[method-assign,assignment]
    applier.progress.next = dict.fromkeys(Topic, 0)
    ends = {topic: len(records) for topic, records in setup.kafka.records.items()}
    ends = (ends if claims else {}) | {Topic.JOB_LIFECYCLE: 1}
    await applier.catch_up(ends)
    assert applier.progress.next[Topic.JOB_LIFECYCLE] == 1
    assert applier.projection.facts.live_tokens == 1


class MovingKafka(Kafka):
    """Gets an agent, and then a job, between the answers of two brokers to one question."""

    async def ends(self, partition: int, leaders: TopicLeaders | None = None) -> Offsets:
        ends = await super().ends(partition, leaders)
        if not self.records[Topic.JOB_LIFECYCLE]:
            self.add(builders.agent(6, 7), builders.started(9, 7))
            ends = ends | {Topic.JOB_LIFECYCLE: 1}
        return ends


async def test_a_claim_writes_complete_views_though_ends_are_of_different_moments(
    setup: Setup,
) -> None:
    setup.kafka = MovingKafka()
    setup.kafka.add(*COMPANY)
    await setup.new_owner()._recovery.claim()
    assert await setup.agents() == [5, 6]


async def test_the_checkpoint_has_the_offset_of_the_first_view_that_is_held_back(
    setup: Setup,
) -> None:
    """Behind it the offset rises, although no event of the topic follows."""
    setup.kafka.add(*COMPANY, builders.started(10, 7))
    async with setup.owning() as owner:
        epoch = await setup.field("epoch") or b""
        assert await setup.field(SERVED_JOBS) == epoch + b" 1"
        late = setup.kafka.add(builders.agent(6, 7))
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 2))
        assert await setup.field(SERVED_JOBS) == epoch + b" 1"
        setup.deliver(owner, *late)
        await until(lambda: has_record(setup))
        await until(lambda: field_is(setup, SERVED_JOBS, epoch + b" 2"))
