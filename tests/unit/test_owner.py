"""The owner's loop against a Kafka in memory: whatever Faust does, every event is applied once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import fakeredis
import orjson
import pytest
from aiokafka.errors import KafkaConnectionError
from redis.exceptions import ConnectionError as RedisConnectionError

from projector import inbox, views
from projector import owner as owner_module
from projector.connections import Server
from projector.dead_letters import DeadLetter
from projector.delivery import Offsets, Progress
from projector.events import KINDS, Record, Topic
from projector.inbox import Delivered
from projector.owner import Owner
from projector.projection import Policy
from projector.store import Store
from tests import build
from tests.build import digest

PARTITION = 0
COMPANY = [
    build.group(3), build.project(7, 3), build.member(1, group_id=3), build.agent(5, 7),
]  # fmt: skip


class Kafka:
    """The topics of one partition, and the dead letters."""

    def __init__(self) -> None:
        self.records: dict[Topic, list[Record]] = {topic: [] for topic in Topic}
        self.letters: list[DeadLetter] = []
        self.reads: list[tuple[dict[Topic, int], dict[Topic, int]]] = []
        self.down = False
        self.begins = dict.fromkeys(Topic, 0)
        # What the embedded broker says less than it has.
        self.hides = 0

    def add(self, *messages: dict[str, Any] | bytes) -> list[Record]:
        added = []
        for message in messages:
            topic = KINDS[message["type"]].topic if isinstance(message, dict) else Topic.MEMBERSHIP
            offset = len(self.records[topic])
            record = build.record(message, offset, topic=topic)
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
    ) -> AsyncIterator[Progress]:
        self._answer()
        wanted = {topic: end for topic, end in ends.items() if starts[topic] < end}
        if wanted:
            self.reads.append((dict(starts), wanted))
        for topic, end in wanted.items():
            yield Progress(self.records[topic][starts[topic] : end], {topic: end})

    async def send(self, letters: list[DeadLetter]) -> None:
        self._answer()
        self.letters += letters

    def _answer(self) -> None:
        if self.down:
            raise KafkaConnectionError("the broker is down")


class Setup:
    def __init__(self) -> None:
        self.kafka = Kafka()
        self.redis = fakeredis.FakeAsyncRedis()
        self.server = Server()
        self.acked: list[tuple[Topic, int]] = []

    def new_owner(self, name: str = "me") -> Owner:
        store = Store(self.redis, self.server, PARTITION, name)
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

    def deliver(self, owner: Owner, *records: Record) -> None:
        for record in records:
            place = (record.topic, record.offset)
            owner.enqueue(Delivered(record, lambda place=place: self.acked.append(place)))  # type: ignore[misc]

    async def field(self, name: str) -> bytes | None:
        value: Any = await self.redis.hget(views.partition_key(PARTITION), name)
        return value  # type: ignore[no-any-return]

    async def agents(self, token: str = "token-9") -> list[int] | None:
        raw: Any = await self.redis.get(views.token_key(digest(token)))
        if not raw:
            return None
        body = orjson.loads(views.Record.decode(raw).body)
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
    setup.kafka.add(*COMPANY, build.started(9, 7))
    async with setup.owning():
        assert await setup.agents() == [5]


async def test_a_delivery_is_written_and_then_acknowledged(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        (record,) = setup.kafka.add(build.started(9, 7))
        setup.deliver(owner, record)
        await until(lambda: setup.acked)
        assert await setup.agents() == [5]
        assert await setup.field(f"offset:{Topic.JOB_LIFECYCLE}") == b"1"


async def test_what_faust_skips_is_read_from_kafka(setup: Setup) -> None:
    async with setup.owning() as owner:
        records = setup.kafka.add(*COMPANY, build.started(9, 7))
        setup.deliver(owner, records[2], records[3], records[4])
        await until(lambda: setup.has_applied(Topic.MEMBERSHIP, 3))
        await until(setup.agents)
        assert setup.kafka.reads[-1][1] == {Topic.MEMBERSHIP: 2}


async def test_what_faust_repeats_is_skipped(setup: Setup) -> None:
    async with setup.owning() as owner:
        records = setup.kafka.add(*COMPANY, build.started(9, 7))
        setup.deliver(owner, *records, *records)
        await until(lambda: len(setup.acked) == 2 * len(records))
        assert await setup.agents() == [5]
        assert setup.kafka.reads == []


async def test_what_never_comes_is_read_from_kafka(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "STALL_S", 0.3)
    async with setup.owning():
        setup.kafka.add(*COMPANY, build.started(9, 7))
        await until(setup.agents)


async def test_a_full_queue_drops_nothing_for_good(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_RECORDS", 2)
    monkeypatch.setattr(owner_module, "STALL_S", 0.3)
    async with setup.owning() as owner:
        records = setup.kafka.add(*COMPANY, *(build.started(n, 7) for n in range(9, 40)))
        setup.deliver(owner, *records)
        assert len(setup.acked) == len(records) - 2
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 31))
        await until(lambda: _gets(setup, "token-39", [5]))


async def _gets(setup: Setup, token: str, agents: list[int]) -> bool:
    return await setup.agents(token) == agents


async def test_a_restarted_owner_goes_on_from_the_checkpoint(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, build.started(9, 7))
    async with setup.owning():
        pass
    epoch = await setup.field("epoch")
    setup.kafka.reads.clear()
    setup.kafka.add(build.removed("agent", 5))
    await setup.redis.hdel(views.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("another"):
        assert await setup.agents() == []
    assert await setup.field("epoch") != epoch
    assert [starts for starts, _ in setup.kafka.reads] == [
        {Topic.MEMBERSHIP: 3, Topic.AGENT_CONFIG: 1, Topic.JOB_LIFECYCLE: 1}
    ]


async def test_a_stamp_waits_for_every_event_that_kafka_had(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API proves a token unknown by stamps: one before its event would be a false 401."""
    monkeypatch.setattr(owner_module, "STALL_S", 3600.0)
    async with setup.owning() as owner:
        records = setup.kafka.add(*COMPANY)
        await asyncio.sleep(2 * owner_module.PROBE_INTERVAL_S)
        before = await setup.field("stamp")
        await asyncio.sleep(2 * owner_module.PROBE_INTERVAL_S)
        assert await setup.field("stamp") == before
        setup.deliver(owner, *records)
        await until(lambda: _differs(setup, before))


async def _differs(setup: Setup, before: bytes | None) -> bool:
    return await setup.field("stamp") != before


async def test_no_stamp_while_kafka_does_not_answer(setup: Setup) -> None:
    async with setup.owning():
        setup.kafka.down = True
        await asyncio.sleep(owner_module.PROBE_INTERVAL_S)
        before = await setup.field("stamp")
        await asyncio.sleep(2 * owner_module.PROBE_INTERVAL_S)
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
        setup.deliver(owner, *setup.kafka.add(build.started(9, 7)))
        await asyncio.sleep(0.3)
        assert setup.acked == []
        broken.execute_command = execute
        await until(setup.agents)


async def test_a_bad_event_becomes_a_dead_letter_before_it_is_acknowledged(setup: Setup) -> None:
    async with setup.owning() as owner:
        records = setup.kafka.add(b"{", *COMPANY, build.started(9, 7))
        setup.deliver(owner, *records)
        await until(lambda: len(setup.acked) == len(records))
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
    setup.kafka.add(*COMPANY, build.started(9, 7))
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
    await asyncio.sleep(4 * owner_module.PROBE_INTERVAL_S)
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
    setup.kafka.add(*(build.started(n, 7) for n in (9, 10, 11)))
    async with setup.owning():
        assert await setup.agents("token-11") == []


@pytest.mark.usefixtures("quick_alarm")
async def test_a_checkpoint_older_than_what_kafka_has_keeps_the_partition_stale(
    setup: Setup,
) -> None:
    """What was cut may have been a revocation."""
    setup.kafka.add(*COMPANY, build.started(9, 7))
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
    setup.kafka.add(*COMPANY, build.started(9, 7))
    async with setup.owning():
        if when == "while owned":
            setup.kafka.records[Topic.MEMBERSHIP].clear()
            await asyncio.sleep(2 * owner_module.PROBE_INTERVAL_S)
            before = await setup.field("stamp")
            await asyncio.sleep(3 * owner_module.PROBE_INTERVAL_S)
            assert await setup.field("stamp") == before
    if when == "between owners":
        setup.kafka.records[Topic.MEMBERSHIP].clear()
        await setup.redis.hdel(views.partition_key(PARTITION), "stamp")
        async with running(setup.new_owner()):
            assert await setup.field("stamp") is None


async def test_a_broker_that_says_too_little_is_no_recreated_topic(setup: Setup) -> None:
    """The embedded one names the last batch's first record as the end."""
    setup.kafka.add(*COMPANY, build.started(9, 7))
    async with setup.owning() as owner:
        setup.kafka.hides = 1
        before = await setup.field("stamp")
        setup.deliver(owner, *setup.kafka.add(build.started(10, 7)))
        await until(lambda: _gets(setup, "token-10", [5]))
        await until(lambda: _differs(setup, before))
