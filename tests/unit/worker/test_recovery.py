"""A claim leaves Redis as the facts are, or leaves the partition stale."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from projector.domain.fact_keys import Key
from projector.errors import WriteRefusedError
from projector.events.model import Topic
from projector.kafka.range_reader import Offsets
from projector.store import schema
from projector.store.partition_store import PartitionStore
from tests import builders
from tests.builders import digest
from tests.unit.worker.owned_partition import (
    COMPANY,
    PARTITION,
    PROBES_S,
    QUICK,
    Setup,
    Writes,
    differs,
    gets,
    has_ended,
    is_claimed_above,
    is_stamped_above,
    running,
    until,
)


async def test_a_new_owner_catches_up_from_kafka_before_it_stamps(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        assert await setup.agents() == [5]


async def test_whoever_cannot_reach_kafka_takes_no_partition_from_whoever_can(
    setup: Setup,
) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning("well"):
        cut_off = Setup()
        cut_off.redis, cut_off.kafka.down = setup.redis, True
        claiming = asyncio.create_task(cut_off.new_owner("cut off").run())
        await asyncio.sleep(PROBES_S)
        assert await setup.field("owner") == b"well"
        claiming.cancel()


FACTS = schema.facts_key(PARTITION)


@pytest.mark.parametrize(
    ("topic", "says"),
    [(Topic.MEMBERSHIP, "begins at offset 2"), (Topic.AGENT_CONFIG, "begins at offset 2")],
)
async def test_a_topic_without_its_first_facts_keeps_the_partition_stale(
    setup: Setup, topic: Topic, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    setup.kafka.begins = setup.kafka.begins | {topic: 2}
    async with running(setup.new_owner()):
        assert await setup.field("stamp") is None
    assert says in capsys.readouterr().out


async def test_job_lifecycle_may_begin_anywhere_for_a_new_owner(setup: Setup) -> None:
    """Its retention is as long as a token can live."""
    setup.kafka.begins = setup.kafka.begins | {Topic.JOB_LIFECYCLE: 2}
    setup.kafka.add(*(builders.started(n, 7) for n in (9, 10, 11)))
    async with setup.owning():
        assert await setup.agents("token-11") == []


async def test_a_checkpoint_older_than_what_kafka_has_keeps_the_partition_stale(
    setup: Setup,
) -> None:
    """What was cut may have been a revocation."""
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        pass
    await setup.redis.hdel(schema.partition_key(PARTITION), "stamp")
    setup.kafka.begins = setup.kafka.begins | {Topic.JOB_LIFECYCLE: 2}
    async with running(setup.new_owner()):
        assert await setup.field("stamp") is None


@pytest.mark.parametrize("when", ["while owned", "between owners"])
async def test_a_recreated_topic_keeps_the_partition_stale(setup: Setup, when: str) -> None:
    """Its events have the offsets of those applied before: they would all be skipped."""
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning() as owner:
        if when == "while owned":
            setup.kafka.records[Topic.MEMBERSHIP].clear()
            await until(lambda: owner.loss)
            before = await setup.field("stamp")
            await asyncio.sleep(PROBES_S)
            assert await setup.field("stamp") == before
    if when == "between owners":
        setup.kafka.records[Topic.MEMBERSHIP].clear()
        await setup.redis.hdel(schema.partition_key(PARTITION), "stamp")
        async with running(setup.new_owner()):
            assert await setup.field("stamp") is None


async def test_a_broker_that_says_too_little_is_no_recreated_topic(setup: Setup) -> None:
    """The embedded one names the last batch's first record as the end."""
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning() as owner:
        setup.kafka.hides = 1
        before = await setup.field("stamp")
        setup.deliver(owner, *setup.kafka.add(builders.started(10, 7)))
        await until(lambda: gets(setup, "token-10", [5]))
        await until(lambda: differs(setup, before))


async def test_a_flushed_redis_is_filled_again(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        await setup.redis.flushall()
        await until(setup.agents)
        await until(lambda: setup.field("stamp"))
        assert await setup.redis.get(schema.PARTITIONS_KEY) == b"1"


def damage_flush(setup: Setup) -> Any:
    return setup.redis.flushall()


async def damage_hash(setup: Setup) -> None:
    await setup.redis.delete(schema.partition_key(PARTITION), schema.facts_key(PARTITION))


async def damage_revision(setup: Setup) -> None:
    """As a failover to a replica that lacks the last writes."""
    await setup.redis.hincrby(schema.partition_key(PARTITION), "revision", -1)
    await setup.redis.delete(schema.record_key(digest("token-9")))
    await setup.redis.hset(schema.facts_key(PARTITION), "3/group/99", b"{}")
    await setup.redis.hdel(schema.facts_key(PARTITION), "3/group/3")


@pytest.mark.parametrize("damage", [damage_flush, damage_hash, damage_revision])
async def test_redis_is_healed_from_memory_without_kafka(
    setup: Setup, damage: Callable[[Setup], Any]
) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        before = await setup.redis.hgetall(schema.facts_key(PARTITION))
        setup.kafka.reads.clear()
        epoch = int(await setup.field("epoch") or 0)
        await damage(setup)
        await until(lambda: is_claimed_above(setup, epoch))
        await until(setup.agents)
        await until(lambda: _says(setup, schema.facts_key(PARTITION), before))
        await until(lambda: is_stamped_above(setup, epoch))
        assert setup.kafka.reads == []
    setup.kafka.reads.clear()
    await setup.redis.hdel(schema.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("next"):
        assert await setup.agents() == [5]
        assert setup.kafka.reads == []


async def _says(setup: Setup, key: str, fields: Any) -> bool:
    return bool(await setup.redis.hgetall(key) == fields)


async def test_a_healed_redis_has_its_views_before_its_first_stamp(setup: Setup) -> None:
    """A stamp proves unknown tokens: one too early is a false 401 for each missing view."""
    setup.kafka.add(*COMPANY, *(builders.started(n, 7) for n in range(9, 30)))
    async with setup.owning() as owner:
        stamp = owner._store.stamp
        missing: list[int] = []

        async def watched(moment: int) -> None:
            keys = [schema.record_key(digest(f"token-{n}")) for n in range(9, 30)]
            missing.append(len(keys) - await setup.redis.exists(*keys))
            await stamp(moment)

        owner._store.stamp = watched  # type: ignore[method-assign]
        await setup.redis.flushall()
        await until(lambda: setup.field("stamp"))
        assert missing[-1] == 0


async def test_another_server_is_written_anew_though_it_says_the_same(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning() as owner:
        epoch = int(await setup.field("epoch") or 0)
        await setup.redis.delete(schema.record_key(digest("token-9")))
        setup.server.changes += 1
        setup.deliver(owner, *setup.kafka.add(builders.started(10, 7)))
        await until(lambda: is_claimed_above(setup, epoch))
        await until(setup.agents)
        await until(lambda: gets(setup, "token-10", [5]))


async def test_a_low_end_offset_is_checked_by_one_fetch(setup: Setup) -> None:
    """Each fetch needs a consumer of its own: one at every probe would cost more than all else."""
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    fetches: list[Topic] = []
    has_reached = setup.kafka.has_reached

    async def counted(partition: int, topic: Topic, offset: int) -> bool:
        fetches.append(topic)
        return await has_reached(partition, topic, offset)

    setup.kafka.has_reached = counted  # type: ignore[method-assign]
    async with setup.owning():
        setup.kafka.hides = 1
        for _ in range(3):
            before = await setup.field("stamp")
            await until(lambda before=before: differs(setup, before))  # type: ignore[misc]
    assert sorted(fetches) == sorted(Topic)


async def test_a_claim_asks_redis_time_before_the_end_offsets(setup: Setup) -> None:
    """What is forgotten depends on it: an event after the answer may still need the fact."""
    owner = setup.new_owner()
    asked: list[str] = []
    now, ends = owner._store.now, setup.kafka.ends

    async def asked_now() -> int:
        asked.append("T0")
        return await now()

    async def asked_ends(partition: int, leaders: Any = None) -> Offsets:
        asked.append("ends")
        return await ends(partition, leaders)

    owner._store.now = asked_now  # type: ignore[method-assign]
    setup.kafka.ends = asked_ends  # type: ignore[method-assign]
    await owner._recovery.claim()
    # The claim reads the time too, before it.
    assert asked[:3] == ["T0", "T0", "ends"]
    assert owner._applier.applied_until > 0


async def test_a_claim_before_an_open_transaction_forgets_nothing(setup: Setup) -> None:
    """An event within or behind the transaction may still need what is due to be forgotten."""
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    setup.kafka.opens = {Topic.JOB_LIFECYCLE: 0}
    owner = setup.new_owner()
    await owner._recovery.claim()
    assert owner._applier.applied_until == 0
    assert await setup.field(f"offset:{Topic.MEMBERSHIP}") == b"3"
    assert await setup.field(f"offset:{Topic.JOB_LIFECYCLE}") == b"0"


async def test_a_claim_beside_an_open_transaction_writes_no_short_first_view(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    """An agent behind the transaction was acknowledged before the job started."""
    setup.timing = QUICK._replace(open_pause_s=0.01)
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    setup.kafka.opens = {Topic.AGENT_CONFIG: 0}
    owner = setup.new_owner()
    claiming = asyncio.create_task(owner._recovery.claim())
    await until(lambda: "an open transaction holds up" in capsys.readouterr().out)
    await asyncio.sleep(PROBES_S)
    assert await setup.agents() is None
    setup.kafka.opens = {}
    await claiming
    assert await setup.agents() == [5]


async def test_an_interrupted_first_claim_begins_with_the_checkpoint_again(setup: Setup) -> None:
    """Until the first claim is through, facts in memory may lack events."""
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        pass
    owner = setup.new_owner("next")
    write_views = owner._store.write_views

    async def refuse(*_: Any) -> Any:
        raise WriteRefusedError("a newer claim")

    owner._store.write_views = refuse  # type: ignore[method-assign,assignment]
    with pytest.raises(WriteRefusedError):
        await owner._recovery.claim()
    assert not owner.is_serving
    owner._store.write_views = write_views  # type: ignore[method-assign]
    await owner._recovery.claim()
    assert owner.is_serving
    assert await setup.agents() == [5]


async def test_every_claim_writes_its_views_before_its_checkpoint(setup: Setup) -> None:
    """A crash in between must leave the checkpoint behind the views, and never before them."""
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    owner = setup.new_owner()
    writes = Writes(setup, owner)
    await owner._recovery.claim()
    assert writes.order == [[9], "checkpoint"]
    assert not owner._applier.projection.facts.dirty
    await setup.redis.flushall()
    await owner._recovery.claim()
    assert writes.order == [[9], "checkpoint"] * 2


async def test_a_heal_that_lacks_events_keeps_the_partition_stale(setup: Setup) -> None:
    """Facts in memory are right only if Kafka still has every event after them."""
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning() as owner:
        setup.kafka.begins = setup.kafka.begins | {Topic.JOB_LIFECYCLE: 5}
        await setup.redis.flushall()
        await until(lambda: owner.loss)
        assert "job-lifecycle begins at offset 5" in str(owner.loss)
        assert await setup.field("stamp") is None


@pytest.mark.parametrize("source", ["checkpoint", "memory"])
async def test_a_claim_writes_its_views_for_the_time_of_the_claim(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """The former owner's stamp still counts: a membership that has expired must not."""
    clock = [builders.NOW]

    async def now(_store: PartitionStore) -> int:
        return clock[0]

    monkeypatch.setattr(PartitionStore, "now", now)
    until_then = builders.member(2, project_id=7, expires_at="2027-01-15T08:00:10Z")
    setup.kafka.add(*COMPANY, until_then, builders.started(9, 7, 2))
    owner = setup.new_owner()
    await owner._recovery.claim()
    assert await setup.agents() == [5]
    clock[0] = builders.NOW + 10_000
    await (owner if source == "memory" else setup.new_owner("next"))._recovery.claim()
    assert await setup.agents() == []


async def test_a_claim_ends_the_tokens_that_its_initial_facts_name_as_unknown(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = setup.new_owner()
    record = schema.ViewRecord(200, PARTITION, schema.Version(1, 1), b"{}")
    await setup.redis.set(schema.record_key(digest("unknown")), record.encode())
    facts = owner._recovery._initial_facts
    monkeypatch.setattr(facts, "unknown_views", lambda _: [digest("unknown")])
    await owner._recovery.claim()
    assert await has_ended(setup, "unknown")


@pytest.mark.parametrize("key", [schema.partition_key(PARTITION), schema.facts_key(PARTITION)])
@pytest.mark.parametrize("kind", ["string", "list"])
async def test_a_key_of_another_type_is_written_anew(setup: Setup, key: str, kind: str) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning() as owner:
        epoch = owner.version.epoch
        await setup.redis.delete(key)
        await (setup.redis.set(key, "x") if kind == "string" else setup.redis.rpush(key, "x"))
        for each in (schema.partition_key(PARTITION), schema.facts_key(PARTITION)):
            await until(lambda each=each: is_hash(setup, each))  # type: ignore[misc]
        await until(lambda: is_stamped_above(setup, epoch))
        setup.deliver(owner, *setup.kafka.add(builders.removed("job", 9)))
        await until(lambda: has_ended(setup, "token-9"))


@pytest.mark.parametrize("key", [schema.partition_key(PARTITION), schema.facts_key(PARTITION)])
async def test_a_new_owner_reads_everything_where_a_key_is_of_another_type(
    setup: Setup, key: str
) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning("first"):
        pass
    await setup.redis.delete(key, schema.record_key(builders.digest("token-9")))
    await setup.redis.set(key, "x")
    owner = setup.new_owner("next")
    task = asyncio.create_task(owner.run())
    await until(lambda: gets(setup, "token-9", [5]))
    await until(lambda: is_hash(setup, schema.facts_key(PARTITION)))
    owner.stop()
    await asyncio.wait_for(task, 5)


async def is_hash(setup: Setup, key: str) -> bool:
    return bool(await setup.redis.type(key) == b"hash")


# jobs without a digest


async def test_a_job_without_a_digest_survives_a_change_of_owners(setup: Setup) -> None:
    started = [builders.started(9, 7, token=None), builders.started(10, 7, token=None)]
    setup.kafka.add(*COMPANY, *started, builders.started(10, 7))
    async with setup.owning("first"):
        pass
    fact = msgspec.json.decode(await setup.redis.hget(FACTS, "3/job/9") or b"")
    assert fact["data"]["digest"] is None
    await setup.redis.delete(schema.job_key(9), schema.job_key(10))
    await setup.redis.hdel(schema.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("next") as owner:
        assert await setup.agents_of(9) == [5]
        assert await setup.redis.get(schema.job_key(10)) == digest("token-10").encode()
        setup.deliver(owner, *setup.kafka.add(builders.removed("job", 9)))
        await until(lambda: has_ended_job(setup, 9))


async def test_a_checkpoint_from_before_jobs_without_a_digest_is_read(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning("first"):
        pass
    stored = await setup.redis.hget(FACTS, "3/job/9")
    assert stored == (
        b'{"offset":0,"timestamp":%d,"data":{"digest":"%s","project":7,"pipeline":2009,"user":1,'
        b'"username":"root","ref_protected":false,"expires_at":1801440000000}}'
        % (builders.NOW, digest("token-9").encode())
    )
    await setup.redis.hdel(schema.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("next") as owner:
        job = owner._applier.projection.facts.job(Key("3/job/9"))
        assert job is not None
        assert (job.digest, job.digest_start) == (digest("token-9"), UNSET)
        assert await setup.agents() == [5]


async def has_ended_job(setup: Setup, job: int) -> bool:
    record = await setup.record_of(job)
    return record is not None and record.status == 401
