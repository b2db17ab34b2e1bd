"""The owner's loop against a Kafka in memory: whatever Faust does, every event is applied once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import fakeredis
import orjson
import pytest
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError
from redis.exceptions import ConnectionError as RedisConnectionError

from projector.clients.redis_servers import RedisServers
from projector.domain.projection import Policy
from projector.events.model import EVENT_TYPES, KafkaRecord, Topic
from projector.kafka.dead_letters import DeadLetter
from projector.kafka.range_reader import Offsets, ReadProgress
from projector.store import schema as views
from projector.store.partition_store import PartitionStore
from projector.store.schema import Version
from projector.worker import dead_letter_outbox, delivery_queue, freshness_probes
from projector.worker import owner as owner_module
from projector.worker.delivery_queue import Delivery
from projector.worker.owner import Owner
from tests import builders
from tests.builders import digest

PARTITION = 0
COMPANY = [
    builders.group(3), builders.project(7, 3), builders.member(1, group_id=3), builders.agent(5, 7),
]  # fmt: skip


class Kafka:
    """The topics of one partition, and the dead letters."""

    def __init__(self) -> None:
        self.records: dict[Topic, list[KafkaRecord]] = {topic: [] for topic in Topic}
        self.letters: list[DeadLetter] = []
        self.reads: list[tuple[dict[Topic, int], dict[Topic, int]]] = []
        self.down = False
        self.takes_letters = True
        self.begins = dict.fromkeys(Topic, 0)
        # What the embedded broker says less than it has.
        self.hides = 0

    def add(self, *messages: dict[str, Any] | bytes) -> list[KafkaRecord]:
        added = []
        for message in messages:
            topic = (
                EVENT_TYPES[message["type"]].topic
                if isinstance(message, dict)
                else Topic.MEMBERSHIP
            )
            offset = len(self.records[topic])
            record = builders.record(message, offset, topic=topic)
            self.records[topic].append(record)
            added.append(record)
        return added

    async def ends(self, partition: int) -> Offsets:
        self._answer()
        return {topic: max(0, len(r) - self.hides) for topic, r in self.records.items()}

    async def has_reached(self, partition: int, topic: Topic, offset: int) -> bool:
        return len(self.records[topic]) >= offset

    async def beginnings(self, partition: int) -> Offsets:
        self._answer()
        return self.begins

    async def read(
        self, partition: int, starts: Mapping[Topic, int], ends: Mapping[Topic, int]
    ) -> AsyncIterator[ReadProgress]:
        self._answer()
        wanted = {topic: end for topic, end in ends.items() if starts.get(topic, 0) < end}
        if wanted:
            self.reads.append((dict(starts), wanted))
        for topic, end in wanted.items():
            yield ReadProgress(self.records[topic][starts[topic] : end], {topic: end})

    async def send(self, letters: list[DeadLetter]) -> None:
        self._answer()
        if not self.takes_letters:
            raise KafkaTimeoutError("the topic dead-letters has no leader")
        self.letters += letters

    def _answer(self) -> None:
        if self.down:
            raise KafkaConnectionError("the broker is down")


class Setup:
    def __init__(self) -> None:
        self.kafka = Kafka()
        self.redis = fakeredis.FakeAsyncRedis()
        self.server = RedisServers()
        self.acked: list[tuple[Topic, int]] = []

    def new_owner(self, name: str = "me") -> Owner:
        store = PartitionStore(self.redis, self.server, PARTITION, name)
        kafka: Any = self.kafka
        return Owner(PARTITION, Policy(1, 30, 10**9), store, kafka, kafka)

    @asynccontextmanager
    async def owning(self, name: str = "me") -> AsyncIterator[Owner]:
        owner = self.new_owner(name)
        running = asyncio.create_task(owner.run())
        try:
            await until(lambda: self.field("stamp_epoch"))
            yield owner
            owner.stop()
            await asyncio.wait_for(running, 5)
        finally:
            running.cancel()

    def deliver(self, owner: Owner, *records: KafkaRecord) -> None:
        for record in records:
            place = (record.topic, record.offset)
            owner.enqueue(Delivery(record, lambda place=place: self.acked.append(place)))  # type: ignore[misc]

    async def field(self, name: str) -> bytes | None:
        value: Any = await self.redis.hget(views.partition_key(PARTITION), name)
        return value  # type: ignore[no-any-return]

    async def agents(self, token: str = "token-9") -> list[int] | None:
        raw: Any = await self.redis.get(views.token_record_key(digest(token)))
        if not raw:
            return None
        body = orjson.loads(views.ViewRecord.decode(raw).body)
        return [agent["id"] for agent in body.get("allowed_agents", [])]

    async def has_applied(self, topic: Topic, offset: int) -> bool:
        return int(await self.field(f"offset:{topic}") or 0) >= offset


async def until(holds: Callable[[], Any]) -> None:
    """Wait for the condition: five seconds bound the hanging, they measure nothing."""
    async with asyncio.timeout(5):
        while not await _value(holds()):  # noqa: ASYNC110  it stands in Redis, nobody signals it
            await asyncio.sleep(0.01)


async def _value(outcome: Any) -> Any:
    return await outcome if asyncio.iscoroutine(outcome) else outcome


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    setup = Setup()
    yield setup
    await setup.redis.aclose()


async def test_a_new_owner_catches_up_from_kafka_before_it_stamps(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        assert await setup.agents() == [5]


async def test_a_delivery_is_written_and_then_acknowledged(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        (record,) = setup.kafka.add(builders.started(9, 7))
        setup.deliver(owner, record)
        await until(lambda: setup.acked)
        assert await setup.agents() == [5]
        assert await setup.field(f"offset:{Topic.JOB_LIFECYCLE}") == b"1"


class Writes:
    """What an owner writes, in its order: jobs of views, `checkpoint`; and what happens at each."""

    def __init__(self, setup: Setup, owner: Owner) -> None:
        self.order: list[list[int] | str] = []
        self.acked_before: list[int] = []
        self.before_write: Callable[[int], Any] = lambda _: None
        self._write, self._checkpoint = owner._store.write_views, owner._store.checkpoint
        self._setup = setup
        store: Any = owner._store
        store.write_views, store.checkpoint = self.write_views, self.checkpoint

    async def write_views(self, changed: Any, *args: Any) -> Any:
        views = list(changed)
        self.order.append([view.job for view in views])
        self.before_write(len(self.order))
        return await self._write(views, *args)

    async def checkpoint(self, *args: Any) -> None:
        self.order.append("checkpoint")
        await self._checkpoint(*args)
        self.acked_before.append(len(self._setup.acked))


@pytest.fixture
def one_view_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every portion of a long write has one view."""
    monkeypatch.setattr(owner_module, "VIEWS_PER_PORTION", 1)


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


@pytest.mark.usefixtures("one_view_each")
async def test_an_outage_in_a_long_write_loses_none_of_its_views(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, *(builders.started(job, 7) for job in (9, 10, 11)))
    async with setup.owning() as owner:
        writes = Writes(setup, owner)

        def fail(written: int) -> None:
            if written in (2, 3):
                raise RedisConnectionError("down")

        writes.before_write = fail
        setup.deliver(owner, *setup.kafka.add(builders.removed("agent", 5)))
        await until(lambda: setup.acked)
        assert writes.order[1] == writes.order[2] == writes.order[3]
        for job in (9, 10, 11):
            assert await setup.agents(f"token-{job}") == []


async def test_a_jobs_key_is_written_with_its_start_and_by_every_claim(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: setup.redis.get(views.job_token_key(9)))
        await setup.redis.delete(views.job_token_key(9))
        setup.deliver(owner, *setup.kafka.add(builders.removed("agent", 5)))
        await until(lambda: _gets(setup, "token-9", []))
        assert not await setup.redis.exists(views.job_token_key(9))
        await setup.redis.delete(views.partition_key(PARTITION))
        await until(lambda: setup.redis.get(views.job_token_key(9)))
    await setup.redis.delete(views.job_token_key(9))
    await setup.redis.hdel(views.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("next"):
        assert await setup.redis.get(views.job_token_key(9)) == digest("token-9").encode()


async def test_what_faust_skips_is_read_from_kafka(setup: Setup) -> None:
    async with setup.owning() as owner:
        records = setup.kafka.add(*COMPANY, builders.started(9, 7))
        setup.deliver(owner, records[2], records[3], records[4])
        await until(lambda: setup.has_applied(Topic.MEMBERSHIP, 3))
        await until(setup.agents)
        assert setup.kafka.reads[-1][1] == {Topic.MEMBERSHIP: 2}


async def test_what_faust_repeats_is_skipped(setup: Setup) -> None:
    async with setup.owning() as owner:
        records = setup.kafka.add(*COMPANY, builders.started(9, 7))
        setup.deliver(owner, *records, *records)
        await until(lambda: len(setup.acked) == 2 * len(records))
        assert await setup.agents() == [5]
        assert setup.kafka.reads == []


async def test_what_is_applied_or_being_read_need_not_be_delivered(setup: Setup) -> None:
    """Faust begins where its commits are: after a rebuild at the beginning."""
    setup.kafka.add(*COMPANY)
    owner = setup.new_owner()
    read, known = setup.kafka.read, []

    async def reading(*args: Any) -> AsyncIterator[ReadProgress]:
        known.append([owner.known_offset(topic) for topic in Topic])
        async for progress in read(*args):
            yield progress

    setup.kafka.read = reading  # type: ignore[method-assign,assignment]
    assert owner.known_offset(Topic.MEMBERSHIP) == 0
    running = asyncio.create_task(owner.run())
    await until(lambda: setup.field("stamp_epoch"))
    assert known == [[3, 1, 0]]
    setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
    await until(lambda: setup.acked)
    assert [owner.known_offset(topic) for topic in Topic] == [3, 1, 1]
    owner.stop()
    await asyncio.wait_for(running, 5)


async def test_who_is_behind_gathers_larger_batches(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "BEHIND", 3)
    monkeypatch.setattr(delivery_queue, "GATHER_BEHIND_S", 60)
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


async def test_what_never_comes_is_read_from_kafka(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "STALL_S", 0.3)
    async with setup.owning():
        setup.kafka.add(*COMPANY, builders.started(9, 7))
        await until(setup.agents)


async def test_a_full_queue_drops_nothing_for_good(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_queue, "MAX_RECORDS", 2)
    monkeypatch.setattr(owner_module, "STALL_S", 0.3)
    async with setup.owning() as owner:
        records = setup.kafka.add(*COMPANY, *(builders.started(n, 7) for n in range(9, 40)))
        setup.deliver(owner, *records)
        assert len(setup.acked) == len(records) - 2
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 31))
        await until(lambda: _gets(setup, "token-39", [5]))


async def _gets(setup: Setup, token: str, agents: list[int]) -> bool:
    return await setup.agents(token) == agents


async def test_a_restarted_owner_goes_on_from_the_checkpoint(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        pass
    epoch = await setup.field("epoch")
    setup.kafka.reads.clear()
    setup.kafka.add(builders.removed("agent", 5))
    await setup.redis.hdel(views.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("another"):
        assert await setup.agents() == []
    assert await setup.field("epoch") != epoch
    assert [starts for starts, _ in setup.kafka.reads] == [
        {Topic.MEMBERSHIP: 3, Topic.AGENT_CONFIG: 1, Topic.JOB_LIFECYCLE: 1}
    ]


async def test_facts_that_redis_repeats_are_counted_once(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HSCAN may bring a field more than once, and does while its hash is being resized."""
    setup.kafka.add(b"{", *COMPANY, builders.started(9, 7))
    setup.kafka.takes_letters = False
    async with setup.owning():
        pass
    hscan = setup.redis.hscan

    async def repeated(name: str, cursor: int, count: int) -> Any:
        _, fields = await hscan(name, 0, count=count)
        return 0 if cursor else 1, fields

    monkeypatch.setattr(setup.redis, "hscan", repeated)
    setup.kafka.reads.clear()
    await setup.redis.hdel(views.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("another"):
        assert await setup.agents() == [5]
    # The letter's record alone.
    assert {ends[Topic.MEMBERSHIP] for _, ends in setup.kafka.reads} == {1}


async def test_where_a_fact_is_missing_everything_is_read_again(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        pass
    await setup.redis.hdel(views.facts_key(PARTITION), "3/agent/5")
    setup.kafka.reads.clear()
    await setup.redis.hdel(views.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("another"):
        assert await setup.agents() == [5]
    assert [starts for starts, _ in setup.kafka.reads] == [dict.fromkeys(Topic, 0)]


async def test_others_have_the_loop_between_the_steps_of_a_long_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner_module, "TURN_S", -1.0)
    order: list[str] = []

    def steps() -> Iterator[None]:
        for _ in range(3):
            order.append("step")
            yield

    async def other() -> None:
        while True:
            order.append("other")
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    await owner_module._in_turn(steps())
    beside.cancel()
    assert order == ["step", "other"] * 3


async def test_a_stamp_waits_for_every_event_that_kafka_had(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API proves a token unknown by stamps: one before its event would be a false 401."""
    monkeypatch.setattr(owner_module, "STALL_S", 3600.0)
    async with setup.owning() as owner:
        records = setup.kafka.add(*COMPANY)
        await asyncio.sleep(2 * freshness_probes.PROBE_INTERVAL_S)
        before = await setup.field("stamp")
        await asyncio.sleep(2 * freshness_probes.PROBE_INTERVAL_S)
        assert await setup.field("stamp") == before
        setup.deliver(owner, *records)
        await until(lambda: _differs(setup, before))


async def _differs(setup: Setup, before: bytes | None) -> bool:
    return await setup.field("stamp") != before


async def test_no_stamp_while_kafka_does_not_answer(setup: Setup) -> None:
    async with setup.owning():
        setup.kafka.down = True
        await asyncio.sleep(freshness_probes.PROBE_INTERVAL_S)
        before = await setup.field("stamp")
        await asyncio.sleep(2 * freshness_probes.PROBE_INTERVAL_S)
        assert await setup.field("stamp") == before
        setup.kafka.down = False
        await until(lambda: _differs(setup, before))


async def test_a_redis_outage_delays_and_loses_nothing(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        execute = setup.redis.execute_command
        broken: Any = setup.redis

        async def fail(*_: Any, **__: Any) -> None:
            raise RedisConnectionError("down")

        broken.execute_command = fail
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await asyncio.sleep(0.3)
        assert setup.acked == []
        broken.execute_command = execute
        await until(setup.agents)


async def test_a_bad_event_becomes_a_dead_letter(setup: Setup) -> None:
    async with setup.owning() as owner:
        records = setup.kafka.add(b"{", *COMPANY, builders.started(9, 7))
        setup.deliver(owner, *records)
        await until(lambda: len(setup.acked) == len(records))
        await until(lambda: setup.kafka.letters)
        (letter,) = setup.kafka.letters
        assert (letter.record.offset, letter.record.value) == (0, b"{")
        assert await setup.agents() == [5]


async def test_an_owner_that_is_overtaken_ends(setup: Setup) -> None:
    first = setup.new_owner("first")
    running = asyncio.create_task(first.run())
    await until(lambda: setup.field("stamp_epoch"))
    async with setup.owning("second"):
        await asyncio.wait_for(running, 5)
        assert await setup.field("owner") == b"second"


async def test_a_flushed_redis_is_filled_again(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        await setup.redis.flushall()
        await until(setup.agents)
        await until(lambda: setup.field("stamp"))
        assert await setup.redis.get(views.PARTITIONS_KEY) == b"1"


@pytest.fixture
def quick_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner_module, "HISTORY_PAUSE_S", 0.1)


@asynccontextmanager
async def running(owner: Owner) -> AsyncIterator[None]:
    task = asyncio.create_task(owner.run())
    await asyncio.sleep(4 * freshness_probes.PROBE_INTERVAL_S)
    assert not task.done()
    yield
    owner.stop()
    await asyncio.wait_for(task, 5)


@pytest.mark.usefixtures("quick_alarm")
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


@pytest.mark.usefixtures("quick_alarm")
async def test_a_checkpoint_older_than_what_kafka_has_keeps_the_partition_stale(
    setup: Setup,
) -> None:
    """What was cut may have been a revocation."""
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        pass
    await setup.redis.hdel(views.partition_key(PARTITION), "stamp")
    setup.kafka.begins = setup.kafka.begins | {Topic.JOB_LIFECYCLE: 2}
    async with running(setup.new_owner()):
        assert await setup.field("stamp") is None


@pytest.mark.usefixtures("quick_alarm")
@pytest.mark.parametrize("when", ["while owned", "between owners"])
async def test_a_recreated_topic_keeps_the_partition_stale(setup: Setup, when: str) -> None:
    """Its events have the offsets of those applied before: they would all be skipped."""
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        if when == "while owned":
            setup.kafka.records[Topic.MEMBERSHIP].clear()
            await asyncio.sleep(2 * freshness_probes.PROBE_INTERVAL_S)
            before = await setup.field("stamp")
            await asyncio.sleep(3 * freshness_probes.PROBE_INTERVAL_S)
            assert await setup.field("stamp") == before
    if when == "between owners":
        setup.kafka.records[Topic.MEMBERSHIP].clear()
        await setup.redis.hdel(views.partition_key(PARTITION), "stamp")
        async with running(setup.new_owner()):
            assert await setup.field("stamp") is None


async def test_a_broker_that_says_too_little_is_no_recreated_topic(setup: Setup) -> None:
    """The embedded one names the last batch's first record as the end."""
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning() as owner:
        setup.kafka.hides = 1
        before = await setup.field("stamp")
        setup.deliver(owner, *setup.kafka.add(builders.started(10, 7)))
        await until(lambda: _gets(setup, "token-10", [5]))
        await until(lambda: _differs(setup, before))


# Redis emptied, set back, changed: whatever it was, the facts in memory are whole


def damage_flush(setup: Setup) -> Any:
    return setup.redis.flushall()


async def damage_hash(setup: Setup) -> None:
    await setup.redis.delete(views.partition_key(PARTITION), views.facts_key(PARTITION))


async def damage_revision(setup: Setup) -> None:
    """As a failover to a replica that lacks the last writes."""
    await setup.redis.hincrby(views.partition_key(PARTITION), "revision", -1)
    await setup.redis.delete(views.token_record_key(digest("token-9")))
    await setup.redis.hset(views.facts_key(PARTITION), "3/group/99", b"{}")
    await setup.redis.hdel(views.facts_key(PARTITION), "3/group/3")


@pytest.mark.parametrize("damage", [damage_flush, damage_hash, damage_revision])
async def test_redis_is_healed_from_memory_without_kafka(
    setup: Setup, damage: Callable[[Setup], Any]
) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        before = await setup.redis.hgetall(views.facts_key(PARTITION))
        setup.kafka.reads.clear()
        epoch = int(await setup.field("epoch") or 0)
        await damage(setup)
        await until(lambda: _is_claimed_above(setup, epoch))
        await until(setup.agents)
        await until(lambda: _says(setup, views.facts_key(PARTITION), before))
        await until(lambda: _is_stamped_above(setup, epoch))
        assert setup.kafka.reads == []
    setup.kafka.reads.clear()
    await setup.redis.hdel(views.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("next"):
        assert await setup.agents() == [5]
        assert setup.kafka.reads == []


async def _is_claimed_above(setup: Setup, epoch: int) -> bool:
    return int(await setup.field("epoch") or 0) > epoch


async def _is_stamped_above(setup: Setup, epoch: int) -> bool:
    return int(await setup.field("stamp_epoch") or 0) > epoch


async def _says(setup: Setup, key: str, fields: Any) -> bool:
    return bool(await setup.redis.hgetall(key) == fields)


async def test_a_healed_redis_has_its_views_before_its_first_stamp(setup: Setup) -> None:
    """A stamp says that every view is there; one too early is a false 401 for each that is not."""
    setup.kafka.add(*COMPANY, *(builders.started(n, 7) for n in range(9, 30)))
    async with setup.owning() as owner:
        stamp = owner._store.stamp
        missing: list[int] = []

        async def watched(moment: int) -> None:
            keys = [views.token_record_key(digest(f"token-{n}")) for n in range(9, 30)]
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
        await setup.redis.delete(views.token_record_key(digest("token-9")))
        setup.server.changes += 1
        setup.deliver(owner, *setup.kafka.add(builders.started(10, 7)))
        await until(lambda: _is_claimed_above(setup, epoch))
        await until(setup.agents)
        await until(lambda: _gets(setup, "token-10", [5]))


# the sweep


@pytest.fixture
def quick_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness_probes, "PROBE_INTERVAL_S", 0.02)


@pytest.mark.usefixtures("quick_sweep")
@pytest.mark.parametrize("drift", ["gone", "other", "endless"])
async def test_a_view_that_drifted_is_repaired(setup: Setup, drift: str) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        key = views.token_record_key(digest("token-9"))
        before = await setup.redis.pexpiretime(key)
        match drift:
            case "gone":
                await setup.redis.delete(key)
            case "other":
                raw: Any = await setup.redis.get(key)
                await setup.redis.set(key, raw.replace(b'"id":5', b'"id":6'), keepttl=True)
            case "endless":
                await setup.redis.persist(key)
        await until(lambda: _gets(setup, "token-9", [5]))
        await until(lambda: _expires(setup, key, before))


async def _expires(setup: Setup, key: str, moment: int) -> bool:
    return bool(await setup.redis.pexpiretime(key) == moment)


@pytest.mark.usefixtures("quick_sweep")
async def test_a_record_that_no_fact_justifies_becomes_a_tombstone(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning() as owner:
        record = views.ViewRecord(200, PARTITION, Version(owner.version.epoch, 1), b"{}")
        await setup.redis.set(views.token_record_key(digest("orphan")), record.encode())
        owner.check_orphan(digest("orphan"))
        owner.check_orphan(digest("token-9"))
        await until(lambda: _has_ended(setup, "orphan"))
        assert not await _has_ended(setup, "token-9")


@pytest.mark.usefixtures("quick_sweep")
async def test_an_orphan_of_a_higher_epoch_is_ended_too(setup: Setup) -> None:
    """It would be taken for newer than every stamp: the claim must rise above it."""
    async with setup.owning() as owner:
        epoch = owner.version.epoch + 1000
        record = views.ViewRecord(200, PARTITION, Version(epoch, 1), b"{}")
        await setup.redis.set(views.token_record_key(digest("orphan")), record.encode())
        owner.check_orphan(digest("orphan"))
        await until(lambda: _is_claimed_above(setup, epoch))
        owner.check_orphan(digest("orphan"))
        await until(lambda: _has_ended(setup, "orphan"))


async def _has_ended(setup: Setup, token: str) -> bool:
    raw: Any = await setup.redis.get(views.token_record_key(digest(token)))
    return views.ViewRecord.decode(raw).status == 401


# dead letters


async def test_dead_letters_that_cannot_be_sent_hold_nobody_up(setup: Setup) -> None:
    setup.kafka.takes_letters = False
    async with setup.owning() as owner:
        records = setup.kafka.add(b"{", *COMPANY, builders.started(9, 7))
        setup.deliver(owner, *records)
        await until(lambda: _gets(setup, "token-9", [5]))
        before = await setup.field("stamp")
        await until(lambda: _differs(setup, before))
        assert await setup.field("facts") == b"6"
        await setup.redis.delete(views.partition_key(PARTITION), views.facts_key(PARTITION))
        await until(lambda: _field_is(setup, "facts", b"6"))
    assert await setup.redis.hexists(views.facts_key(PARTITION), "*/dead-letter/membership:0")
    setup.kafka.takes_letters = True
    await setup.redis.hdel(views.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("next"):
        await until(lambda: setup.kafka.letters)
        (letter,) = setup.kafka.letters
        assert (letter.record.offset, letter.record.value) == (0, b"{")
        assert "not JSON" in letter.reason
        await until(lambda: _field_is(setup, "facts", b"5"))
    await setup.redis.hdel(views.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("third"):
        assert await setup.agents() == [5]
    assert len(setup.kafka.letters) == 1


async def _field_is(setup: Setup, name: str, value: bytes) -> bool:
    return await setup.field(name) == value


async def test_a_partition_waits_once_too_many_letters_do(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing may be forgotten, and nothing may grow without bound."""
    monkeypatch.setattr(dead_letter_outbox, "MAX_LETTERS", 3)
    setup.kafka.takes_letters = False
    async with setup.owning() as owner:
        records = setup.kafka.add(*[b"{"] * 5, *COMPANY)
        setup.deliver(owner, *records)
        await asyncio.sleep(0.3)
        assert setup.acked == []
        setup.kafka.takes_letters = True
        await until(lambda: len(setup.acked) == len(records))
        await until(lambda: len(setup.kafka.letters) == 5)


class LosingKafka(Kafka):
    """Loses the first cancellation that meets a question about the ends."""

    def __init__(self) -> None:
        super().__init__()
        self.loses = False
        self.asked = asyncio.Event()

    async def ends(self, partition: int) -> Offsets:
        if self.loses and not self.asked.is_set():
            self.asked.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return await super().ends(partition)


async def test_a_cancellation_that_a_library_loses_keeps_no_owner_from_ending(
    setup: Setup,
) -> None:
    setup.kafka = kafka = LosingKafka()
    async with setup.owning():
        kafka.loses = True
        await kafka.asked.wait()


async def test_an_error_ends_the_owner_even_if_a_cancellation_is_lost(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker must hear of it: no partition stops silently."""
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


async def test_a_damaged_partition_hash_is_read_again_from_kafka(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    held = views.partition_key(PARTITION)
    for name in ("epoch", "revision", "facts", "of-a-later-version"):
        await setup.redis.hset(held, name, "v")
    async with setup.owning():
        assert await setup.agents() == [5]
        assert await setup.field("of-a-later-version") == b"v"


async def test_letters_too_large_for_memory_are_read_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letter_outbox, "MAX_BYTES", 2)
    async with setup.owning() as owner:
        setup.deliver(owner, *setup.kafka.add(b"{1", b"{2", b"{3"))
        await until(lambda: len(setup.kafka.letters) == 3)
        assert {letter.record.value for letter in setup.kafka.letters} == {b"{1", b"{2", b"{3"}


# time


async def test_time_alone_changes_a_view_before_the_next_stamp(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock stands until the test moves it."""
    clock = [builders.NOW]

    async def now(_store: PartitionStore) -> int:
        return clock[0]

    monkeypatch.setattr(PartitionStore, "now", now)
    until_then = builders.member(2, project_id=7, expires_at="2027-01-15T08:00:10Z")
    setup.kafka.add(*COMPANY, until_then, builders.started(9, 7, 2))
    async with setup.owning():
        assert await setup.agents() == [5]
        clock[0] = builders.NOW + 9_999
        await until(lambda: _field_is(setup, "stamp", b"%d" % clock[0]))
        assert await setup.agents() == [5]
        clock[0] = builders.NOW + 10_000
        await until(lambda: _field_is(setup, "stamp", b"%d" % clock[0]))
        assert await setup.agents() == []


async def test_whoever_cannot_reach_kafka_takes_no_partition_from_whoever_can(
    setup: Setup,
) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning("well"):
        cut_off = Setup()
        cut_off.redis, cut_off.kafka.down = setup.redis, True
        claiming = asyncio.create_task(cut_off.new_owner("cut off").run())
        await asyncio.sleep(1)
        assert await setup.field("owner") == b"well"
        claiming.cancel()


async def test_an_event_that_no_encoding_can_quote_becomes_a_dead_letter(setup: Setup) -> None:
    async with setup.owning() as owner:
        setup.deliver(owner, *setup.kafka.add(b'{"\\ud800": "glcbt-1"}', *COMPANY))
        await until(lambda: setup.kafka.letters)
        await until(lambda: setup.has_applied(Topic.MEMBERSHIP, 4))


async def test_a_field_that_is_no_fact_is_a_checkpoint_that_cannot_be_used(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        pass
    await setup.redis.hset(views.facts_key(PARTITION), "stray", b"{}")
    await setup.redis.hdel(views.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("next"):
        assert await setup.agents() == [5]
