"""A rebuilt partition takes the place of a wrong one: whole, served, and without a letter lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from projector.clients.redis_servers import RedisServers
from projector.domain import fact_keys
from projector.domain.fact_index import FactIndex
from projector.domain.projection import Policy, Projection
from projector.errors import HistoryLostError
from projector.events.model import Topic
from projector.operators import rebuild, verify
from projector.operators.rebuild import FactChange, Rebuilt, Successor
from projector.operators.verify import Verifier
from projector.store import partition_state, schema
from projector.store.partition_store import PartitionStore
from projector.worker import dead_letter_outbox, owner
from projector.worker.dead_letter_outbox import LetterRef
from tests import builders
from tests.builders import digest
from tests.unit.worker.test_owner import COMPANY, PARTITION, Setup, until

FACTS = schema.facts_key(PARTITION)
POLICY = Policy(1, 30, 10**9)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild, "POLL_S", 0.01)
    monkeypatch.setattr(rebuild, "CLAIMED_WITHIN_S", 0.05)
    monkeypatch.setattr(verify, "PAUSE_S", 0.0)


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    setup = Setup()
    yield setup
    await setup.redis.aclose()


async def rebuilt(setup: Setup) -> Rebuilt:
    kafka: Any = setup.kafka
    state = await partition_state.read_partition_state(setup.redis, PARTITION)
    ends, told = await rebuild.known(kafka, PARTITION, state)
    facts = Rebuilt(PARTITION, POLICY, kafka)
    await facts.begin(told)
    await facts.read(ends, lambda _: None)
    return facts


def successor(setup: Setup, facts: Rebuilt) -> Successor:
    kafka: Any = setup.kafka
    return Successor(
        facts, PartitionStore(setup.redis, RedisServers(), PARTITION, "cli"), setup.redis, kafka
    )


async def replace(setup: Setup) -> bool:
    return await rebuild.serve(successor(setup, await rebuilt(setup)), setup.redis)


async def owned(setup: Setup, *more: dict[str, Any] | bytes) -> None:
    """A worker has projected the company and stopped."""
    setup.kafka.add(*COMPANY, builders.started(9, 7), *more)
    async with setup.owning():
        await until(setup.agents)


async def corrupt(setup: Setup, old: bytes = b'"level":30', new: bytes = b'"level":50') -> None:
    field = "3/member/group:3/user:1/direct"
    raw: Any = await setup.redis.hget(FACTS, field)
    assert old in raw
    await setup.redis.hset(FACTS, field, raw.replace(old, new))


async def changed(setup: Setup, facts: Rebuilt) -> list[str]:
    look = await Verifier(setup.redis, 30).look(PARTITION)
    ours = facts.projection.facts
    return [c.key for c in rebuild.changed_facts(look.facts, ours, look.now, 10**9)]


async def test_what_is_rebuilt_is_what_the_owner_made(setup: Setup) -> None:
    await owned(setup, builders.removed("group", 99))
    assert await changed(setup, await rebuilt(setup)) == []


async def test_a_wrong_a_missing_and_an_extra_fact_are_found_and_replaced(setup: Setup) -> None:
    await owned(setup)
    right = await setup.redis.hgetall(FACTS)
    await corrupt(setup)
    await setup.redis.hdel(FACTS, "3/agent/5")
    await setup.redis.hset(FACTS, "3/agent/6", right[b"3/agent/5"])
    facts = await rebuilt(setup)
    assert await changed(setup, facts) == [
        "3/agent/5",
        "3/agent/6",
        "3/member/group:3/user:1/direct",
    ]
    assert await rebuild.serve(successor(setup, facts), setup.redis) is False
    assert await setup.redis.hgetall(FACTS) == right
    state = await partition_state.read_partition_state(setup.redis, PARTITION)
    assert state is not None
    assert (state.facts, state.owner) == (len(right), "cli")
    assert state.stamp_epoch == state.version.epoch


async def test_wrong_views_are_written_anew_and_tokens_without_facts_end(setup: Setup) -> None:
    await owned(setup)
    key = schema.token_record_key(digest("token-9"))
    raw: Any = await setup.redis.get(key)
    await setup.redis.set(key, raw.replace(b'"id":5', b'"id":6'), keepttl=True)
    job: Any = await setup.redis.hget(FACTS, "3/job/9")
    ghost = msgspec.json.decode(job)
    ghost["data"]["digest"] = digest("ghost")
    await setup.redis.hset(FACTS, "3/job/10", msgspec.json.encode(ghost))
    await setup.redis.set(schema.token_record_key(digest("ghost")), raw)
    await setup.redis.hset(FACTS, "3/job/11", b'{"data":{"digest":"no digest"}}')
    assert not await replace(setup)
    assert await setup.agents() == [5]
    ended: Any = await setup.redis.get(schema.token_record_key(digest("ghost")))
    assert schema.ViewRecord.decode(ended).status == 401
    assert await setup.redis.hlen(FACTS) == 5


async def test_a_checkpoint_with_a_name_that_is_no_text_is_replaced_as_a_whole(
    setup: Setup,
) -> None:
    await owned(setup)
    right = await setup.redis.hgetall(FACTS)
    await setup.redis.hset(FACTS, b"\xff", b"x")
    await replace(setup)
    assert await setup.redis.hgetall(FACTS) == right


async def test_the_checkpoint_is_never_without_its_facts(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that claims at any moment finds it whole, and need not read Kafka from the start."""
    await owned(setup)
    await corrupt(setup)
    forgotten = False

    async def forget(self: PartitionStore) -> None:
        nonlocal forgotten
        forgotten = True

    monkeypatch.setattr(PartitionStore, "forget_checkpoint", forget)
    await replace(setup)
    assert not forgotten
    setup.kafka.reads.clear()
    async with setup.owning("worker"):
        assert setup.kafka.reads == []
        assert await setup.agents() == [5]


async def test_it_serves_until_a_worker_claims(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "CLAIMED_WITHIN_S", 30.0)
    await owned(setup)
    serving = asyncio.create_task(replace(setup))
    # Else the event would be read by the claim itself.
    await until(lambda: _is_stamped_by(setup, b"cli"))
    setup.kafka.add(builders.event("member.removed", {"user_id": 1, "group_id": 3}))
    await until(lambda: _gets_none(setup))
    assert not serving.done()
    async with setup.owning("worker"):
        assert await serving is True


async def _is_stamped_by(setup: Setup, name: bytes) -> bool:
    stamped = await setup.field("stamp_epoch") == await setup.field("epoch")
    return stamped and await setup.field("owner") == name


async def _gets_none(setup: Setup) -> bool:
    return await setup.agents() == []


async def test_events_of_after_the_checkpoint_are_in_what_is_put_in_place(setup: Setup) -> None:
    await owned(setup)
    facts = await rebuilt(setup)
    setup.kafka.add(builders.event("member.removed", {"user_id": 1, "group_id": 3}))
    await rebuild.serve(successor(setup, facts), setup.redis)
    assert await setup.agents() == []


# dead letters


async def test_letters_that_were_sent_are_not_sent_again(setup: Setup) -> None:
    await owned(setup, b"{")
    assert len(setup.kafka.letters) == 1
    assert (await rebuilt(setup)).untold == []
    await replace(setup)
    assert len(setup.kafka.letters) == 1


async def test_letters_that_the_owner_sent_while_it_was_read_are_not_sent_again(
    setup: Setup,
) -> None:
    await owned(setup)
    facts = await rebuilt(setup)
    setup.kafka.add(b"{")
    await setup.redis.hdel(schema.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("worker"):
        await until(lambda: setup.kafka.letters)
    await rebuild.serve(successor(setup, facts), setup.redis)
    assert len(setup.kafka.letters) == 1


async def test_letters_of_after_the_checkpoint_are_sent_once(setup: Setup) -> None:
    await owned(setup)
    facts = await rebuilt(setup)
    setup.kafka.add(b"{")
    await rebuild.serve(successor(setup, facts), setup.redis)
    await until(lambda: setup.kafka.letters)
    async with setup.owning("worker"):
        pass
    assert len(setup.kafka.letters) == 1


async def test_a_letter_that_waits_in_the_checkpoint_is_not_lost(setup: Setup) -> None:
    setup.kafka.takes_letters = False
    await owned(setup, b"{")
    field = f"*/{dead_letter_outbox.KIND}/membership:3"
    assert await setup.redis.hexists(FACTS, field)
    await replace(setup)
    assert await setup.redis.hexists(FACTS, field)
    setup.kafka.takes_letters = True
    async with setup.owning("worker"):
        await until(lambda: setup.kafka.letters)
    (letter,) = setup.kafka.letters
    assert (letter.record.offset, letter.record.value) == (3, b"{")


async def test_letters_of_a_partition_without_checkpoint_are_all_sent(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, b"{")
    facts = await rebuilt(setup)
    assert [reference.offset for reference in facts.untold] == [3]
    await rebuild.serve(successor(setup, facts), setup.redis)
    await until(lambda: setup.kafka.letters)


async def test_a_letter_about_a_topic_that_was_recreated_is_not_sent_for_another_record(
    setup: Setup,
) -> None:
    setup.kafka.takes_letters = False
    await owned(setup, b"{")
    setup.kafka.takes_letters = True
    setup.kafka.records[Topic.MEMBERSHIP] = []
    await replace(setup)
    assert setup.kafka.letters == []
    assert not await setup.redis.hexists(FACTS, LetterRef(Topic.MEMBERSHIP, 3, "").key)


# lost history


async def losses(setup: Setup) -> list[str]:
    kafka: Any = setup.kafka
    state = await partition_state.read_partition_state(setup.redis, PARTITION)
    return await rebuild.losses(kafka, PARTITION, state)


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


async def test_a_recreated_topic_is_rebuilt_from_what_it_has(setup: Setup) -> None:
    await owned(setup)
    setup.kafka.records[Topic.AGENT_CONFIG] = []
    setup.kafka.add(builders.agent(6, 7), builders.agent(8, 7))
    await replace(setup)
    assert await setup.agents() == [6, 8]
    async with setup.owning("worker"):
        assert await setup.agents() == [6, 8]


async def test_a_topic_that_is_recreated_while_it_is_rebuilt_ends_the_command(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "HISTORY_PAUSE_S", 0.0)
    await owned(setup)
    facts = await rebuilt(setup)
    setup.kafka.records[Topic.AGENT_CONFIG] = []
    with pytest.raises(HistoryLostError, match="agent-config was recreated"):
        await rebuild.serve(successor(setup, facts), setup.redis)


# what counts as a change


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
        assert len([*rebuild.changed_facts(ours, theirs, now, 10**9)]) == changes


def test_a_running_job_whose_start_kafka_lost_is_a_loss() -> None:
    """To go on without it would end its token."""
    feed, projection = builders.Feed(), Projection(PARTITION, Policy(1, 30, 10**9))
    for message in (builders.started(8, 7), builders.removed("job", 8), builders.started(9, 7)):
        assert projection.apply(feed(message)) is None
    beginnings = {Topic.JOB_LIFECYCLE: 3}
    lost = {
        key
        for key, fact in projection.facts.items()
        if rebuild.is_lost_job(FactChange(key, fact, None), beginnings)
    }
    assert lost == {fact_keys.job_key("3", 9)}
    for key, fact in projection.facts.items():
        assert not rebuild.is_lost_job(FactChange(key, fact, None), {Topic.JOB_LIFECYCLE: 2})
        assert not rebuild.is_lost_job(FactChange(key, fact, fact), beginnings)
