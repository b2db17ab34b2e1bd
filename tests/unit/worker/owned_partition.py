"""One partition in a Kafka and a Redis in memory, and its owner."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

import fakeredis
import orjson
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError

from projector.clients.redis_servers import RedisServers
from projector.domain.projection import Policy
from projector.events.model import EVENT_TYPES, MAX_VIEW_BYTES, KafkaRecord, Topic
from projector.kafka.broker_protocol import PartitionLeader
from projector.kafka.dead_letters import DeadLetter
from projector.kafka.range_reader import Offsets, ReadProgress
from projector.store import schema
from projector.store.partition_store import PartitionStore
from projector.worker.delivery_queue import Delivery
from projector.worker.known_logs import TopicLeaders
from projector.worker.owner import Owner, cancel_until_done
from projector.worker.sources import Sources
from projector.worker.timing import Timing
from tests import builders
from tests.builders import digest
from tests.unit.worker.source_log import Log

PARTITION = 0
COMPANY = [
    builders.group(3), builders.project(7, 3), builders.member(1, group_id=3), builders.agent(5, 7),
]  # fmt: skip
# Probes, heals and alarms every few milliseconds; deliveries are never taken for stalled.
QUICK = Timing(
    probe_interval_s=0.01, heal_pause_s=0.02, history_pause_s=0.02, publish_interval_s=0.01,
    stall_s=3600.0, unstamped_s=0.05,
)  # fmt: skip
# Time for several probes, and for a stamp that must not come.
PROBES_S = 0.1


class Kafka:
    """The topics of one partition, and the dead letters."""

    def __init__(self) -> None:
        self.records: dict[Topic, list[KafkaRecord]] = {topic: [] for topic in Topic}
        self.letters: list[DeadLetter] = []
        self.looks: list[dict[Topic, int]] = []
        self.reads: list[tuple[dict[Topic, int], dict[Topic, int]]] = []
        self.down = False
        self.takes_letters = True
        self.begins = dict.fromkeys(Topic, 0)
        self.topic_ids: dict[Topic, UUID | None] = {
            topic: uuid5(NAMESPACE_OID, topic) for topic in Topic
        }
        self.epochs = dict.fromkeys(Topic, 0)
        # Where a transaction is open.
        self.opens: Offsets = {}
        self.sources = Log()
        # By how much its end offsets are too low, as those of the embedded broker.
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

    async def ends(self, partition: int, leaders: TopicLeaders | None = None) -> Offsets:
        self._answer()
        return {topic: max(0, len(r) - self.hides) for topic, r in self.records.items()}

    async def source_leader(self) -> PartitionLeader:
        self._answer()
        return self.sources.leader

    async def ends_with_source(
        self, partition: int, leaders: TopicLeaders, source: PartitionLeader
    ) -> tuple[Offsets, int]:
        return await self.ends(partition, leaders), self.sources.end

    async def leaders(self, partition: int) -> dict[Topic, PartitionLeader]:
        self._answer()
        return {
            topic: PartitionLeader(1, self.epochs[topic], frozenset({1}), self.topic_ids[topic])
            for topic in Topic
        }

    async def records_at(
        self, partition: int, offsets: Mapping[Topic, int]
    ) -> dict[Topic, KafkaRecord | None]:
        self._answer()
        self.looks.append(dict(offsets))
        kept = {topic: at for topic, at in offsets.items() if at >= self.begins[topic]}
        return {topic: dict(enumerate(self.records[topic])).get(at) for topic, at in kept.items()}

    async def open_transactions(self, partition: int) -> Offsets:
        self._answer()
        return self.opens

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
            end = max(starts[topic], min(end, self.opens.get(topic, end)))  # noqa: PLW2901
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
    """Kafka and Redis, and owners of the partition between them."""

    def __init__(self) -> None:
        self.kafka = Kafka()
        self.redis = fakeredis.FakeAsyncRedis()
        self.server = RedisServers()
        self.acked: list[tuple[Topic, int]] = []
        self.timing = QUICK
        self.max_view_bytes = MAX_VIEW_BYTES
        self.sources: Sources | None = None

    def new_owner(self, name: str = "me") -> Owner:
        store = PartitionStore(self.redis, self.server, PARTITION, name)
        kafka: Any = self.kafka
        policy = Policy(1, 30, 10**9, max_view_bytes=self.max_view_bytes)
        return Owner(
            PARTITION, policy, store, kafka, kafka, timing=self.timing, sources=self.sources
        )

    @asynccontextmanager
    async def owning(self, name: str = "me") -> AsyncIterator[Owner]:
        owner = self.new_owner(name)
        running = asyncio.create_task(owner.run())
        try:
            # The owner before may have stamped already.
            await until(lambda: owner.is_serving and self.field("stamp_epoch"))
            yield owner
            owner.stop()
            await asyncio.wait_for(running, 5)
        finally:
            # Until it is done: a test that fails would else hang when its loop closes.
            await cancel_until_done([running])

    @asynccontextmanager
    async def waiting_for(self, *names: str) -> AsyncIterator[Log]:
        """Let the owners' stamps wait for these sources."""
        self.sources = Sources(names, 1, self.kafka.sources, self.timing)
        reading = asyncio.create_task(self.sources.run())
        try:
            yield self.kafka.sources
        finally:
            await cancel_until_done([reading])

    def deliver(self, owner: Owner, *records: KafkaRecord) -> None:
        for record in records:
            place = (record.topic, record.offset)
            owner.enqueue(Delivery(record, lambda place=place: self.acked.append(place)))  # type: ignore[misc]

    async def field(self, name: str) -> bytes | None:
        value: Any = await self.redis.hget(schema.partition_key(PARTITION), name)
        return value  # type: ignore[no-any-return]

    async def agents(self, token: str = "token-9") -> list[int] | None:
        raw: Any = await self.redis.get(schema.record_key(digest(token)))
        if not raw:
            return None
        body = orjson.loads(schema.ViewRecord.decode(raw).body)
        return [agent["id"] for agent in body.get("allowed_agents", [])]

    async def record_of(self, job: int) -> schema.ViewRecord | None:
        """Return the record under a job's key; None if there is a digest, or nothing."""
        raw: Any = await self.redis.get(schema.job_key(job))
        return schema.ViewRecord.decode(raw) if raw and b" " in raw else None

    async def agents_of(self, job: int) -> list[int] | None:
        """Return the agents of a job without a digest."""
        record = await self.record_of(job)
        if record is None:
            return None
        return [a["id"] for a in orjson.loads(record.body or b"{}").get("allowed_agents", [])]

    async def status(self, token: str = "token-9") -> int:
        raw: Any = await self.redis.get(schema.record_key(digest(token)))
        return schema.ViewRecord.decode(raw).status

    async def has_applied(self, topic: Topic, offset: int) -> bool:
        return int(await self.field(f"offset:{topic}") or 0) >= offset


async def until(holds: Callable[[], Any]) -> None:
    """Wait until the condition holds; the five seconds only bound a test that hangs."""
    async with asyncio.timeout(5):
        while not await _value(holds()):  # noqa: ASYNC110  Redis signals no change of a key
            await asyncio.sleep(0.01)


async def _value(outcome: Any) -> Any:
    return await outcome if asyncio.iscoroutine(outcome) else outcome


@asynccontextmanager
async def running(owner: Owner) -> AsyncIterator[None]:
    """Run the owner; it has raised an alarm and probed since."""
    task = asyncio.create_task(owner.run())
    await until(lambda: owner.loss)
    await asyncio.sleep(PROBES_S)
    assert not task.done()
    try:
        yield
        owner.stop()
        await asyncio.wait_for(task, 5)
    finally:
        await cancel_until_done([task])


class Writes:
    """Records what an owner writes, in order: the jobs of views, `checkpoint`.

    `before_write` is called before each write of views, with the number of writes so far.
    """

    def __init__(self, setup: Setup, owner: Owner) -> None:
        self.order: list[list[int] | str] = []
        self.acked_before: list[int] = []
        self.before_write: Callable[[int], Any] = lambda _: None
        self._write, self._checkpoint = owner._store.write_views, owner._store.checkpoint
        self._commit = owner._store.commit
        self._setup = setup
        store: Any = owner._store
        store.write_views, store.checkpoint = self.write_views, self.checkpoint
        store.commit = self.commit

    async def write_views(self, changed: Any, *args: Any) -> Any:
        views = list(changed)
        self.order.append([view.job for view in views])
        self.before_write(len(self.order))
        return await self._write(views, *args)

    async def commit(self, changed: Any, *args: Any) -> bool:
        self.order.append([view.job for view in changed])
        self.before_write(len(self.order))
        if is_done := await self._commit(changed, *args):
            self.order.append("checkpoint")
            self.acked_before.append(len(self._setup.acked))
        return is_done

    async def checkpoint(self, *args: Any) -> None:
        self.order.append("checkpoint")
        await self._checkpoint(*args)
        self.acked_before.append(len(self._setup.acked))


async def gets(setup: Setup, token: str, agents: list[int]) -> bool:
    return await setup.agents(token) == agents


async def differs(setup: Setup, before: bytes | None) -> bool:
    return await setup.field("stamp") != before


async def field_is(setup: Setup, name: str, value: bytes) -> bool:
    return await setup.field(name) == value


async def is_claimed_above(setup: Setup, epoch: int) -> bool:
    return int(await setup.field("epoch") or 0) > epoch


async def is_stamped_above(setup: Setup, epoch: int) -> bool:
    return int(await setup.field("stamp_epoch") or 0) > epoch


async def has_ended(setup: Setup, token: str) -> bool:
    raw: Any = await setup.redis.get(schema.record_key(digest(token)))
    return schema.ViewRecord.decode(raw).status == 401
