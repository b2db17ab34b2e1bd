"""Facts rebuilt from the topics are those of the owner, and losses are found."""

from typing import Any
from uuid import uuid4

import msgspec
import pytest

from projector.domain import fact_keys
from projector.domain.index.fact_index import FactIndex
from projector.domain.projection import Policy, Projection
from projector.events.model import KafkaRecord, Topic
from projector.kafka.record_parser import Marker
from projector.operators.rebuild import rebuilt_facts
from projector.operators.rebuild.rebuilt_facts import FactChange, Rebuilt
from projector.store import partition_state
from tests import builders
from tests.builders import digest
from tests.unit.operators.rebuild.rebuilding import FACTS, POLICY, changed, owned, rebuilt
from tests.unit.worker.owned_partition import PARTITION, Setup, until


async def test_what_is_rebuilt_is_what_the_owner_made(setup: Setup) -> None:
    await owned(setup, builders.removed("group", 99))
    assert await changed(setup, await rebuilt(setup)) == []


async def losses(setup: Setup) -> list[str]:
    kafka: Any = setup.kafka
    state = await partition_state.read_partition_state(setup.redis, PARTITION)
    return await rebuilt_facts.find_losses(kafka, PARTITION, state)


async def test_nothing_is_lost_where_topics_begin_at_their_beginning(setup: Setup) -> None:
    await owned(setup)
    assert await losses(setup) == []
    setup.kafka.hides = 1
    assert await losses(setup) == []
    setup.kafka.begins = {**setup.kafka.begins, Topic.JOB_LIFECYCLE: 1}
    assert await losses(setup) == []


async def test_a_topic_that_was_cut_or_recreated_is_a_loss(setup: Setup) -> None:
    await owned(setup)
    setup.kafka.begins = {Topic.MEMBERSHIP: 1, Topic.AGENT_CONFIG: 0, Topic.JOB_LIFECYCLE: 9}
    assert await losses(setup) == [
        "membership begins at offset 1: what was only before it is gone",
        "job-lifecycle begins at offset 9: events from 1 on are gone",
    ]
    setup.kafka.begins = dict.fromkeys(Topic, 0)
    setup.kafka.records[Topic.AGENT_CONFIG] = []
    assert await losses(setup) == [
        "agent-config was recreated: it ends before offset 1, which was applied"
    ]


def refill(setup: Setup) -> None:
    """Fill membership anew, beyond what was applied."""
    setup.kafka.records[Topic.MEMBERSHIP].clear()
    setup.kafka.add(*(builders.group(number) for number in range(4, 12)))


async def test_a_topic_filled_anew_is_a_loss_and_is_read_to_its_end(setup: Setup) -> None:
    await owned(setup)
    refill(setup)
    (found,) = await losses(setup)
    assert found.startswith("membership is another log: its record at offset 2 is not the one")
    assert (await rebuilt(setup)).next[Topic.MEMBERSHIP] == 8
    setup.kafka.topic_ids[Topic.MEMBERSHIP] = uuid4()
    (found,) = await losses(setup)
    assert found.startswith("membership was recreated: its id is")


async def test_the_end_of_a_transaction_is_no_event_of_a_rebuild(setup: Setup) -> None:
    await owned(setup)
    marker = KafkaRecord(Topic.MEMBERSHIP, PARTITION, 3, builders.NOW, b"", b"", (), Marker("end"))
    setup.kafka.records[Topic.MEMBERSHIP].append(marker)
    async with setup.owning("next"):
        await until(lambda: setup.has_applied(Topic.MEMBERSHIP, 4))
    facts = await rebuilt(setup)
    assert facts.next[Topic.MEMBERSHIP] == 4
    facts.reported = {}
    assert (await changed(setup, facts), facts.unreported) == ([], [])


def facts_of(*messages: dict[str, Any]) -> FactIndex:
    kafka: Any = None
    facts = Rebuilt(PARTITION, POLICY, kafka)
    feed = builders.Feed()
    for message in messages:
        facts.projection.apply(feed(message))
    return facts.projection.facts


@pytest.mark.parametrize(
    ("message", "now", "changes"),
    [
        (builders.group(4), builders.NOW, 1),
        (builders.removed("group", 4), builders.NOW, 1),
        (builders.removed("group", 4), builders.NOW + 10**9 + 1, 0),
        (builders.started(9, 7), builders.NOW, 1),
        (builders.started(9, 7), builders.NOW + 10**12, 0),
    ],
)
def test_what_time_alone_takes_away_is_no_change(
    message: dict[str, Any], now: int, changes: int
) -> None:
    for ours, theirs in [(facts_of(message), facts_of()), (facts_of(), facts_of(message))]:
        assert len([*rebuilt_facts.changed_facts(ours, theirs, now, 10**9)]) == changes


def test_a_running_job_whose_start_kafka_lost_is_a_loss() -> None:
    """To go on without it would end its token."""
    feed, projection = builders.Feed(), Projection(PARTITION, Policy(1, 30, 10**9))
    for message in (builders.started(8, 7), builders.removed("job", 8), builders.started(9, 7)):
        assert projection.apply(feed(message)) is None
    beginnings = {Topic.JOB_LIFECYCLE: 3}
    lost = {
        key
        for key, fact in projection.facts.items()
        if rebuilt_facts.is_lost_job(FactChange(key, fact, None), beginnings)
    }
    assert lost == {fact_keys.job_key("3", 9)}
    for key, fact in projection.facts.items():
        assert not rebuilt_facts.is_lost_job(FactChange(key, fact, None), {Topic.JOB_LIFECYCLE: 2})
        assert not rebuilt_facts.is_lost_job(FactChange(key, fact, fact), beginnings)


async def test_jobs_without_a_digest_are_rebuilt_as_their_owner_made_them(setup: Setup) -> None:
    """Also one that got its digest later, and one whose later start lacks the digest."""
    starts = [
        builders.started(job, 7, token=token)
        for job, token in ((10, None), (11, None), (11, "eleven"), (12, "twelve"), (12, None))
    ]
    await owned(setup, *starts, builders.removed("job", 10))
    stored: Any = await setup.redis.hmget(FACTS, ["3/job/10", "3/job/11", "3/job/12"])
    digests = [msgspec.json.decode(raw)["data"]["digest"] for raw in stored]
    assert digests == [None, digest("eleven"), digest("twelve")]
    facts = await rebuilt(setup)
    assert await changed(setup, facts) == []
    await setup.redis.hset(FACTS, "3/job/12", stored[0])
    assert await changed(setup, facts) == ["3/job/12"]
