"""A rebuilt partition takes the place of a wrong one: whole, served, and without a letter lost."""

import asyncio
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from projector.domain.fact_keys import WAITING_LETTER
from projector.errors import HistoryLostError
from projector.events.model import Topic
from projector.store import partition_state, schema
from projector.store.partition_store import PartitionStore
from projector.worker import freshness_probes
from projector.worker.dead_letter_outbox import LetterRef
from tests import builders
from tests.builders import digest
from tests.unit.operators.rebuild.rebuilding import (
    FACTS,
    IMPATIENT,
    changed,
    corrupt,
    owned,
    put_in_place,
    rebuilt,
    serve,
)
from tests.unit.worker.owned_partition import COMPANY, PARTITION, Setup, differs, until


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
    assert await serve(setup, facts) is False
    assert await setup.redis.hgetall(FACTS) == right
    state = await partition_state.read_partition_state(setup.redis, PARTITION)
    assert state is not None
    assert state.facts == len(right)
    assert (state.owner or "").startswith("rebuild-")
    assert state.stamp_epoch == state.version.epoch


async def test_wrong_views_are_written_anew_and_tokens_without_facts_end(setup: Setup) -> None:
    await owned(setup)
    key = schema.record_key(digest("token-9"))
    raw: Any = await setup.redis.get(key)
    await setup.redis.set(key, raw.replace(b'"id":5', b'"id":6'), keepttl=True)
    job: Any = await setup.redis.hget(FACTS, "3/job/9")
    ghost = msgspec.json.decode(job)
    ghost["data"]["digest"] = digest("ghost")
    await setup.redis.hset(FACTS, "3/job/10", msgspec.json.encode(ghost))
    await setup.redis.set(schema.record_key(digest("ghost")), raw)
    await setup.redis.hset(FACTS, "3/job/11", b'{"data":{"digest":"no digest"}}')
    assert not await put_in_place(setup)
    assert await setup.agents() == [5]
    ended: Any = await setup.redis.get(schema.record_key(digest("ghost")))
    assert schema.ViewRecord.decode(ended).status == 401
    assert await setup.redis.hlen(FACTS) == 5


async def test_a_checkpoint_with_a_name_that_is_no_text_is_replaced_as_a_whole(
    setup: Setup,
) -> None:
    await owned(setup)
    right = await setup.redis.hgetall(FACTS)
    await setup.redis.hset(FACTS, b"\xff", b"x")
    await put_in_place(setup)
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
    await put_in_place(setup)
    assert not forgotten
    setup.kafka.reads.clear()
    async with setup.owning("worker"):
        assert setup.kafka.reads == []
        assert await setup.agents() == [5]


async def test_it_serves_until_a_worker_claims(
    setup: Setup,
) -> None:
    await owned(setup)
    patience = IMPATIENT._replace(claimed_within_s=30.0)
    serving = asyncio.create_task(put_in_place(setup, patience))
    # Else the event would be read by the claim itself.
    await until(lambda: _is_stamped_by_rebuild(setup))
    setup.kafka.add(builders.event("member.removed", {"user_id": 1, "group_id": 3}))
    await until(lambda: _gets_none(setup))
    assert not serving.done()
    async with setup.owning("worker"):
        assert await serving is True


async def test_a_source_that_is_silent_does_not_hold_it_up(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness_probes, "SILENT_AFTER_S", 0.05)
    await owned(setup)
    stamp = await setup.field("stamp")
    await corrupt(setup)
    async with setup.waiting_for("gitlab"):
        assert await asyncio.wait_for(put_in_place(setup), 5) is False
    assert (await setup.field("silent") or b"").startswith(b"gitlab 0 ")
    assert await setup.field("stamp") == stamp


async def _is_stamped_by_rebuild(setup: Setup) -> bool:
    stamped = await setup.field("stamp_epoch") == await setup.field("epoch")
    return stamped and (await setup.field("owner") or b"").startswith(b"rebuild-")


async def _gets_none(setup: Setup) -> bool:
    return await setup.agents() == []


async def test_events_of_after_the_checkpoint_are_in_what_is_put_in_place(setup: Setup) -> None:
    await owned(setup)
    facts = await rebuilt(setup)
    setup.kafka.add(builders.event("member.removed", {"user_id": 1, "group_id": 3}))
    await serve(setup, facts)
    assert await setup.agents() == []


async def test_letters_that_were_sent_are_not_sent_again(setup: Setup) -> None:
    await owned(setup, b"{")
    assert len(setup.kafka.letters) == 1
    assert (await rebuilt(setup)).unreported == []
    await put_in_place(setup)
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
    await serve(setup, facts)
    assert len(setup.kafka.letters) == 1


async def test_letters_of_after_the_checkpoint_are_sent_once(setup: Setup) -> None:
    await owned(setup)
    facts = await rebuilt(setup)
    setup.kafka.add(b"{")
    await serve(setup, facts)
    await until(lambda: setup.kafka.letters)
    async with setup.owning("worker"):
        pass
    assert len(setup.kafka.letters) == 1


async def test_a_letter_that_waits_in_the_checkpoint_is_not_lost(setup: Setup) -> None:
    setup.kafka.takes_letters = False
    await owned(setup, b"{")
    field = f"*/{WAITING_LETTER}/membership:3"
    assert await setup.redis.hexists(FACTS, field)
    await put_in_place(setup)
    assert await setup.redis.hexists(FACTS, field)
    setup.kafka.takes_letters = True
    async with setup.owning("worker"):
        await until(lambda: setup.kafka.letters)
    (letter,) = setup.kafka.letters
    assert (letter.record.offset, letter.record.value) == (3, b"{")


async def test_letters_of_a_partition_without_checkpoint_are_all_sent(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, b"{")
    facts = await rebuilt(setup)
    assert [reference.offset for reference in facts.unreported] == [3]
    await serve(setup, facts)
    await until(lambda: setup.kafka.letters)


async def test_a_letter_about_a_topic_that_was_recreated_is_not_sent_for_another_record(
    setup: Setup,
) -> None:
    setup.kafka.takes_letters = False
    await owned(setup, b"{")
    setup.kafka.takes_letters = True
    setup.kafka.records[Topic.MEMBERSHIP] = []
    await put_in_place(setup)
    assert setup.kafka.letters == []
    assert not await setup.redis.hexists(FACTS, LetterRef(Topic.MEMBERSHIP, 3, "").key)


async def test_a_recreated_topic_is_rebuilt_from_what_it_has(setup: Setup) -> None:
    await owned(setup)
    setup.kafka.records[Topic.AGENT_CONFIG] = []
    setup.kafka.add(builders.agent(6, 7), builders.agent(8, 7))
    await put_in_place(setup)
    assert await setup.agents() == [6, 8]
    async with setup.owning("worker"):
        assert await setup.agents() == [6, 8]


async def test_a_topic_that_is_recreated_while_it_is_rebuilt_ends_the_command(
    setup: Setup,
) -> None:
    await owned(setup)
    facts = await rebuilt(setup)
    setup.kafka.records[Topic.AGENT_CONFIG] = []
    with pytest.raises(HistoryLostError, match="agent-config was recreated"):
        await asyncio.wait_for(serve(setup, facts), 5)


async def test_a_worker_goes_on_in_a_log_that_a_rebuild_has_accepted(setup: Setup) -> None:
    await owned(setup)
    setup.kafka.records[Topic.MEMBERSHIP].clear()
    setup.kafka.add(*COMPANY[:3], *(builders.group(number) for number in range(4, 9)))
    setup.kafka.topic_ids[Topic.MEMBERSHIP] = uuid4()
    await put_in_place(setup)
    async with setup.owning("worker") as owner:
        before = await setup.field("stamp")
        await until(lambda: differs(setup, before))
        assert owner.loss is None
        assert await setup.agents() == [5]


async def test_a_log_replaced_while_it_is_rebuilt_is_an_alarm(setup: Setup) -> None:
    await owned(setup)
    facts = await rebuilt(setup)
    setup.kafka.records[Topic.MEMBERSHIP].clear()
    setup.kafka.add(*(builders.group(number) for number in range(4, 12)))
    with pytest.raises(HistoryLostError, match="membership is another log"):
        await serve(setup, facts)


async def test_only_the_fields_that_differ_are_written(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await owned(setup)
    await corrupt(setup)
    facts, written = await rebuilt(setup), list[list[str]]()
    checkpoint = PartitionStore.checkpoint

    async def noted(self: PartitionStore, offsets: Any, fields: Any, *more: Any) -> None:
        written.append(list(fields))
        await checkpoint(self, offsets, fields, *more)

    monkeypatch.setattr(PartitionStore, "checkpoint", noted)
    await serve(setup, facts)
    assert written == [["3/member/group:3/user:1/direct"]]


# jobs without a digest


async def test_a_record_under_the_id_of_a_job_that_no_event_names_ends(setup: Setup) -> None:
    await owned(setup, builders.started(10, 7, token=None))
    ghost: Any = await setup.redis.hget(FACTS, "3/job/10")
    await setup.redis.hset(FACTS, "3/job/12", ghost)
    record: Any = await setup.redis.get(schema.job_key(10))
    await setup.redis.set(schema.job_key(12), record)
    await put_in_place(setup)
    assert not await setup.redis.exists(schema.job_key(12))
    assert await setup.agents_of(10) == [5]


async def test_the_key_of_a_job_that_has_a_digest_is_no_tombstone_after_a_rebuild(
    setup: Setup,
) -> None:
    """The checkpoint has lost the digest of job 9, so its record may be under the job's id."""
    await owned(setup)
    job: Any = await setup.redis.hget(FACTS, "3/job/9")
    without = msgspec.json.decode(job)
    without["data"]["digest"] = None
    await setup.redis.hset(FACTS, "3/job/9", msgspec.json.encode(without))
    await put_in_place(setup)
    assert await setup.redis.get(schema.job_key(9)) == digest("token-9").encode()
    assert await setup.agents() == [5]
