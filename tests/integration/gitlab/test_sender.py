"""The bridge's sender and heartbeats on a real broker, with an outbox in memory."""

import asyncio
import itertools
import json
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaTimeoutError
from aiokafka.structs import RecordMetadata

from projector.config.settings import Settings
from projector.errors import LostTopicsError
from projector.events.heartbeats import Heartbeat, decode_heartbeat
from projector.events.model import EVENT_TYPES, SourceRecord, Topic
from projector.events.partitioning import partition_of
from projector.gitlab import sender as sender_module
from projector.gitlab.mapping.envelope import OutboxRow
from projector.gitlab.own_thread import OwnThread
from projector.gitlab.sender import Offsets, Sender
from projector.gitlab.source_heartbeats import SourceHeartbeats
from projector.kafka import topics
from projector.kafka.range_reader import RangeReader
from projector.ports import is_listening
from tests.integration import servers
from tests.integration.ports import free_port
from tests.integration.servers import Server, eventually

PARTITIONS = 3
# Heartbeats go on while they are read.
READ_S = 1.5
prefixes = itertools.count(1)


class Memory:
    """An outbox that forgets nothing but what is acknowledged."""

    def __init__(self) -> None:
        self.rows: list[OutboxRow] = []
        self.last_number = 0
        self.stored: dict[str, dict[int, int]] = {}

    def add(self, *events: tuple[str, str]) -> int:
        for kind, root in events:
            self.last_number += 1
            self.rows.append(
                OutboxRow(self.last_number, kind, root, str(self.last_number), None, "{}")
            )
        return self.last_number

    def unsent(self, after: int, limit: int) -> list[OutboxRow]:
        return [row for row in self.rows if row.number > after][:limit]

    def acknowledged(self, upto: int, offsets: Offsets) -> None:
        self.rows = [row for row in self.rows if row.number > upto]
        self.stored = {topic: dict(numbers) for topic, numbers in offsets.items()}

    def offsets(self) -> Mapping[str, Mapping[int, int]]:
        return self.stored


class Record(NamedTuple):
    topic: Topic
    partition: int
    offset: int
    number: int


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    port = free_port()
    with servers.running(servers.embedded_kafka(tmp_path_factory.mktemp("kafka"), port)) as server:
        eventually(lambda: is_listening(port), f"broker listening: {server.log()}")
        yield server, f"127.0.0.1:{port}"


@pytest.fixture
async def settings(broker: tuple[Server, str]) -> Settings:
    settings = Settings(
        kafka=broker[1], topic_prefix=f"sender-{next(prefixes)}.", partitions=PARTITIONS,
        sources="gitlab",
    )  # fmt: skip
    await topics.create_topics(settings)
    return settings


@asynccontextmanager
async def opened(
    settings: Settings, memory: Memory, look: Callable[[], Any] | None = None
) -> AsyncIterator[Sender]:
    """Run a sender, with heartbeats if there is a look; errors end the block."""
    reader, state = RangeReader(settings), OwnThread("state", lambda: memory)
    await reader.start()
    sender = Sender(settings, reader, state, PARTITIONS)
    tasks = [asyncio.create_task(sender.run())]
    if look:
        beats = SourceHeartbeats(settings, sender, look, 0.25, "state")
        tasks.append(asyncio.create_task(beats.run()))
    try:
        yield sender
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await reader.stop()
        state.stop()
        for error in ended:
            if not isinstance(error, asyncio.CancelledError):
                raise error


async def send(sender: Sender, memory: Memory, *events: tuple[str, str]) -> None:
    number = memory.add(*events)
    sender.remembered(number)
    async with asyncio.timeout(30):
        await sender.until_acknowledged(number)


async def read(settings: Settings) -> list[Record]:
    names = {settings.topic(topic): topic for topic in Topic}
    return [
        Record(names[r.topic], r.partition, r.offset, int(json.loads(r.value)["sequence"]))
        for r in await _read(settings, dict.fromkeys(names, PARTITIONS))
    ]


async def beats(settings: Settings) -> list[Heartbeat]:
    found = await _read(settings, {settings.topic("sources"): 1})
    records = [SourceRecord(r.offset, r.key, r.value, tuple(r.headers)) for r in found]
    return [decode_heartbeat(record, PARTITIONS) for record in records]


async def _read(settings: Settings, names: dict[str, int]) -> list[Any]:
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(n, p) for n, count in names.items() for p in range(count)])
        await consumer.seek_to_beginning()
        found: list[Any] = []
        idle, end = 0, time.monotonic() + READ_S
        while idle < 3 and time.monotonic() < end:
            polled = await consumer.getmany(timeout_ms=200)
            found += [record for records in polled.values() for record in records]
            idle = 0 if polled else idle + 1
        return found
    finally:
        await consumer.stop()


def next_offsets(records: list[Record]) -> dict[Topic, list[int]]:
    ends = {topic: [0] * PARTITIONS for topic in Topic}
    for record in records:
        ends[record.topic][record.partition] += 1
    return ends


async def test_events_reach_their_partitions_and_broadcasts_every_one(settings: Settings) -> None:
    memory = Memory()
    async with opened(settings, memory) as sender:
        await send(
            sender, memory, ("group.set", "9"), ("user.set", "*"), ("agent.set", "9"),
            ("instance-agent.set", "*"), ("job.finished", "12"),
        )  # fmt: skip
        assert memory.rows == []
        assert memory.stored == {t: dict(enumerate(n)) for t, n in sender.offsets.items()}
    found = await read(settings)
    assert {(r.topic, r.partition, r.number) for r in found} == {
        (Topic.MEMBERSHIP, partition_of("9", PARTITIONS), 1),
        *((Topic.MEMBERSHIP, partition, 2) for partition in range(PARTITIONS)),
        (Topic.AGENT_CONFIG, partition_of("9", PARTITIONS), 3),
        *((Topic.AGENT_CONFIG, partition, 4) for partition in range(PARTITIONS)),
        (Topic.JOB_LIFECYCLE, partition_of("12", PARTITIONS), 5),
    }
    assert sender.offsets == next_offsets(found)


async def test_a_job_starts_once_kafka_has_acknowledged_all_else(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    original = AIOKafkaProducer.send

    async def noting(self: AIOKafkaProducer, topic: str, *args: Any, **more: Any) -> Any:
        name = topic.removeprefix(settings.topic_prefix)
        steps.append(f"sent {name}")
        future = await original(self, topic, *args, **more)
        future.add_done_callback(lambda _: steps.append(f"acknowledged {name}"))
        return future

    monkeypatch.setattr(AIOKafkaProducer, "send", noting)
    memory = Memory()
    memory.add(("job.started", "9"), ("member.set", "9"), ("agent.set", "12"))
    async with opened(settings, memory) as sender:
        await asyncio.wait_for(sender.until_acknowledged(3), 10)
    started = steps.index("sent job-lifecycle")
    assert steps.index("acknowledged membership") < started
    assert steps.index("acknowledged agent-config") < started


async def test_many_events_arrive_in_order(settings: Settings) -> None:
    memory = Memory()
    async with opened(settings, memory) as sender:
        for _ in range(3):
            await send(sender, memory, *[("member.set", str(n % 7 + 1)) for n in range(3000)])
    found = await read(settings)
    assert len(found) == 9000
    for partition in range(PARTITIONS):
        numbers = [r.number for r in found if r.partition == partition]
        assert numbers == sorted(numbers)


async def test_what_no_run_has_seen_acknowledged_is_sent_again(settings: Settings) -> None:
    memory = Memory()
    memory.add(("group.set", "9"))
    kept = list(memory.rows)
    async with opened(settings, memory) as sender:
        await asyncio.wait_for(sender.until_acknowledged(1), 10)
    memory.rows = kept  # a crash before the state had the acknowledgement
    memory.stored = {}
    async with opened(settings, memory) as sender:
        await send(sender, memory, ("group.set", "9"))
        assert max(sender.offsets[Topic.MEMBERSHIP]) == 3
    assert [r.number for r in await read(settings)] == [1, 1, 2]


async def test_topics_that_were_made_anew_stop_the_sender(settings: Settings) -> None:
    memory = Memory()
    memory.stored = {Topic.AGENT_CONFIG: {2: 17}}
    memory.add(("group.set", "9"))

    async def use() -> None:
        async with opened(settings, memory):
            await asyncio.sleep(3)

    with pytest.raises(LostTopicsError, match=r"agent-config .* partition 2.*17.*--audit"):
        await use()
    assert await read(settings) == []


class Acknowledgements:
    """Falsifies the producer's acknowledgements."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.change: Callable[[int], int] = lambda offset: offset
        self.failures = 0
        original = AIOKafkaProducer.send

        async def falsified(producer: AIOKafkaProducer, *args: Any, **more: Any) -> Any:
            future = await original(producer, *args, **more)
            return asyncio.ensure_future(self.falsify(future))

        monkeypatch.setattr(AIOKafkaProducer, "send", falsified)

    async def falsify(self, future: asyncio.Future[RecordMetadata]) -> RecordMetadata:
        record = await future
        if self.failures:
            self.failures -= 1
            raise KafkaTimeoutError
        return record._replace(offset=self.change(record.offset))


async def test_an_offset_below_the_expected_one_stops_the_sender(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, acknowledgements = Memory(), Acknowledgements(monkeypatch)

    async def use() -> None:
        async with opened(settings, memory) as sender:
            await send(sender, memory, ("group.set", "9"), ("group.set", "9"))
            acknowledgements.change = lambda _: 0
            sender.remembered(memory.add(("group.set", "9")))
            await asyncio.sleep(2)

    with pytest.raises(LostTopicsError, match="made anew"):
        await use()


async def test_acknowledgements_without_an_offset_count_for_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, acknowledgements = Memory(), Acknowledgements(monkeypatch)
    async with opened(settings, memory) as sender:
        await send(sender, memory, *[("group.set", "9")] * 5)
        # aiokafka counts up from -1 within a batch.
        numbers = itertools.count(-1)
        acknowledgements.change = lambda _: next(numbers)
        await send(sender, memory, *[("group.set", "9")] * 5)
        acknowledgements.change = lambda offset: offset
        asked = max(sender.offsets[Topic.MEMBERSHIP])
        assert 5 <= asked <= 10  # the embedded broker may name too low an end
        await send(sender, memory, ("group.set", "9"))
        assert max(sender.offsets[Topic.MEMBERSHIP]) == 11


async def test_a_failed_send_is_done_again_by_another_producer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, acknowledgements = Memory(), Acknowledgements(monkeypatch)
    async with opened(settings, memory) as sender:
        await send(sender, memory, ("group.set", "9"))
        acknowledgements.failures = 2
        await send(sender, memory, ("member.set", "9"), ("member.set", "9"), ("job.started", "9"))
        assert sender.session > 1
        assert memory.rows == []
    numbers = [record.number for record in await read(settings)]
    assert set(numbers) == {1, 2, 3, 4}
    assert numbers.count(2) > 1
    assert sender.offsets == next_offsets(await read(settings))


async def test_a_frozen_broker_stops_the_events_and_not_for_longer(
    settings: Settings, broker: tuple[Server, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "REQUEST_TIMEOUT_MS", 1000)
    memory = Memory()
    async with opened(settings, memory) as sender:
        await send(sender, memory, ("group.set", "9"))
        broker[0].signal(signal.SIGSTOP)
        try:
            sender.remembered(memory.add(("member.set", "9")))
            await asyncio.sleep(4)
            assert sender.unsent == 1
            assert len(memory.rows) == 1
        finally:
            broker[0].signal(signal.SIGCONT)
        await asyncio.wait_for(sender.until_acknowledged(2), 15)
    found = await read(settings)
    assert sender.offsets == next_offsets(found)
    assert {record.number for record in found} == {1, 2}


async def test_heartbeats_name_the_one_before_and_vouch_for_what_was_looked_at(
    settings: Settings,
) -> None:
    memory = Memory()
    senders: list[Sender] = []

    async def look() -> int:
        # The change happens after the acknowledgement of the heartbeat before.
        number = memory.add(("member.set", "9"))
        senders[0].remembered(number)
        return number

    began = time.monotonic()
    async with opened(settings, memory, look) as sender:
        senders.append(sender)
        await asyncio.sleep(2)
    lasted = time.monotonic() - began
    found, records = await beats(settings), await read(settings)
    assert 4 <= len(found) <= 4 * lasted + 1
    assert [beat.after for beat in found] == [None, *(beat.offset for beat in found[:-1])]
    partition = partition_of("9", PARTITIONS)
    for count, beat in enumerate(found):
        assert beat.offsets[Topic.MEMBERSHIP][partition] == count
    assert len(records) in {len(found), len(found) - 1}


async def test_no_heartbeat_vouches_for_events_that_kafka_has_not_acknowledged(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, acknowledgements = Memory(), Acknowledgements(monkeypatch)
    looked = 0

    async def look() -> int:
        nonlocal looked
        looked += 1
        return memory.last_number

    async with opened(settings, memory, look) as sender:
        await asyncio.sleep(0.7)
        held = asyncio.Event()
        original = acknowledgements.falsify

        async def hold(future: asyncio.Future[RecordMetadata]) -> RecordMetadata:
            record = await original(future)
            if not record.topic.endswith("sources"):
                await held.wait()
            return record

        monkeypatch.setattr(acknowledgements, "falsify", hold)
        sender.remembered(memory.add(("member.set", "9")))
        await asyncio.sleep(0.5)
        before = len(await beats(settings))
        assert len(await beats(settings)) == before  # each reading takes more than a round
        held.set()
        await asyncio.sleep(0.7)
        found = await beats(settings)
        assert len(found) > before
    assert max(found[before - 1].offsets[Topic.MEMBERSHIP]) == 0
    assert max(found[before].offsets[Topic.MEMBERSHIP]) == 1
    assert looked > 2


async def test_after_a_failed_send_the_heartbeats_begin_anew(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, acknowledgements = Memory(), Acknowledgements(monkeypatch)

    async def look() -> int:
        return memory.last_number

    async with opened(settings, memory, look) as sender:
        await asyncio.sleep(0.7)
        acknowledgements.failures = 1
        sender.remembered(memory.add(("member.set", "9")))
        await asyncio.sleep(2)
    firsts = [beat for beat in await beats(settings) if beat.after is None]
    assert len(firsts) == 2


async def test_the_source_vouches_for_nothing_while_it_cannot_be_looked_at(
    settings: Settings,
) -> None:
    memory = Memory()

    async def look() -> int:
        await asyncio.sleep(3600)
        return 0

    async with opened(settings, memory, look):
        await asyncio.sleep(1)
    assert [beat.after for beat in await beats(settings)] == [None]


def test_every_type_but_a_started_job_may_be_sent_at_once() -> None:
    assert sender_module.JOB_STARTED in EVENT_TYPES


def test_the_thread_of_the_state_is_one() -> None:
    async def work() -> set[int]:
        state = OwnThread("state", threading.get_ident)
        opened_in = await state.created()
        found = {await state.run(lambda _: threading.get_ident()) for _ in range(5)}
        state.stop()
        return found | {opened_in}

    assert len(asyncio.run(work())) == 1
