"""One partition's owner: the loop from delivery to acknowledgement.

It claims the partition, loads the checkpoint, catches up from Kafka, rewrites every view and from
then on applies what is delivered: facts, views, checkpoint, ack, in this order. Redis and Kafka
errors are retried while the partition grows stale; nothing but a newer claim ends an owner.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog

from projector.dead_letters import DeadLetter, DeadLetters
from projector.delivery import HistoryLostError, Offsets, RangeReader, refuse_lost_history
from projector.events import Record, Topic
from projector.outages import OUTAGES, outlast
from projector.projection import Changes, Policy, Projection
from projector.store import IncompleteCheckpointError, RefusedError, Store
from projector.views import Version

log = structlog.get_logger()

QUEUE_SIZE: Final = 10_000
QUEUE_BYTES: Final = 32 * 1024 * 1024
BATCH_SIZE: Final = 500
# How long arrivals gather while the owner is busy: some 10,000 events/s instead of 6,000.
LINGER_S: Final = 0.005
PROBE_INTERVAL_S: Final = 0.25
PROBE_TIMEOUT_S: Final = 2.0
# A delivery that the broker has and Faust does not bring within this time is read directly.
STALL_S: Final = 2.0
# Freshness probes whose end offsets are not reached yet. The oldest are kept: they come true first.
MAX_PROBES: Final = 64
# A claim that is refused again and again must not take all of Redis' time.
REFUSED_PAUSE_S: Final = 0.5
HISTORY_PAUSE_S: Final = 10.0
HISTORY_ADVICE: Final = (
    "feed everything into new topics under another PROJECTOR_TOPIC_PREFIX, "
    "and use an empty Redis database"
)


class Delivered(NamedTuple):
    """A record from Faust, and how to acknowledge it there."""

    record: Record
    ack: Callable[[], object]


class Probe(NamedTuple):
    """When everything below `ends` is applied, the partition is fresh as of `moment`.

    `receded` are the topics that the broker said end below what was applied when it was asked.
    """

    moment: int
    ends: Offsets
    receded: tuple[Topic, ...] = ()


class Owner:
    """Owns one partition from `run` until another claims it or `stop` is called."""

    def __init__(
        self,
        partition: int,
        policy: Policy,
        store: Store,
        source: RangeReader,
        dead_letters: DeadLetters,
    ) -> None:
        self.partition = partition
        self._policy = policy
        self._store = store
        self._source = source
        self._dead_letters = dead_letters
        self._projection = Projection(partition, policy)
        self._queue: deque[Delivered] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._stopping = False
        self._next: Offsets = {}
        self._checkpointed: Offsets = {}
        self._delivered: Offsets = dict.fromkeys(Topic, 0)
        self._letters: list[DeadLetter] = []
        self._probes: deque[Probe] = deque()
        self._now = 0
        # The offset up to which each topic was last seen to go, beyond what the broker said.
        self._confirmed: Offsets = {}
        # The offset that each topic waits for, and since when (seconds of the loop's clock).
        self._awaited: dict[Topic, tuple[int, float]] = {}

    @property
    def version(self) -> Version:
        """The version of the last checkpoint."""
        return self._store.version

    def enqueue(self, delivered: Delivered) -> None:
        """Take a delivery, at once. When the queue is full it is only noted, to be read later."""
        record = delivered.record
        end = self._delivered[record.topic]
        self._delivered[record.topic] = max(end, record.offset + 1)
        size = len(record.value or b"")
        if len(self._queue) >= QUEUE_SIZE or self._queued_bytes + size > QUEUE_BYTES:
            delivered.ack()
            return
        self._queue.append(delivered)
        self._queued_bytes += size
        self._wake.set()

    def stop(self) -> None:
        """Finish the batch at hand, then return from `run`."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Own the partition; returns when stopped or when another owner claimed it."""
        async with asyncio.TaskGroup() as tasks:
            probing = tasks.create_task(self._probe())
            while not self._stopping:
                try:
                    await self._own()
                except RefusedError as refusal:
                    log.warning("refused", partition=self.partition, reason=str(refusal))
                    if await self._is_claimed_by_another():
                        self._stopping = True
                    await asyncio.sleep(REFUSED_PAUSE_S)
                except HistoryLostError as loss:
                    self._alarm(loss)
                    await asyncio.sleep(HISTORY_PAUSE_S)
            probing.cancel()

    def _alarm(self, loss: HistoryLostError) -> None:
        log.error("history lost, the partition stays stale", partition=self.partition,
                  reason=str(loss), advice=HISTORY_ADVICE)  # fmt: skip

    async def _own(self) -> None:
        await self._claim()
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            await self._step()

    @outlast
    async def _is_claimed_by_another(self) -> bool:
        return await self._store.is_claimed_by_another()

    # claim

    @outlast
    async def _claim(self) -> None:
        self._projection = Projection(self.partition, self._policy)
        self._letters = []
        checkpoint = await self._store.claim(self._policy.partitions)
        beginnings = await self._source.beginnings(self.partition)
        refuse_lost_history(checkpoint.offsets, beginnings)
        self._next = beginnings | checkpoint.offsets
        try:
            fields = [field async for field in self._store.load(checkpoint)]
            self._projection.restore(fields)
        except (IncompleteCheckpointError, ValueError, KeyError) as error:
            log.warning("checkpoint unusable, reading everything again", reason=repr(error))
            await self._store.forget_checkpoint()
            self._projection = Projection(self.partition, self._policy)
            refuse_lost_history({}, beginnings)
            self._next = beginnings
        ends = await self._source.ends(self.partition)
        await self._refuse_recreated(self._receded(self._next, ends))
        await self._catch_up(ends)
        await self._reconcile()
        log.info(
            "claimed", partition=self.partition, epoch=self.version.epoch,
            facts=len(self._projection.facts), **_named(self._next),
        )  # fmt: skip

    @staticmethod
    def _receded(applied: Offsets, ends: Offsets) -> tuple[Topic, ...]:
        return tuple(topic for topic, end in ends.items() if end < applied.get(topic, 0))

    async def _refuse_recreated(self, receded: tuple[Topic, ...]) -> None:
        """A topic made anew numbers its events anew: to wait for the old offsets skips them."""
        for topic in receded:
            offset = self._next[topic]
            if self._confirmed.get(topic) == offset:
                continue
            if not await self._source.has_reached(self.partition, topic, offset):
                raise HistoryLostError(f"{topic} was recreated: it ends before offset {offset}")
            self._confirmed[topic] = offset

    async def _reconcile(self) -> None:
        """Rewrite every view: whatever the former owner wrote last, this is what holds."""
        self._now = await self._store.now()
        self._projection.advance(self._now)
        facts = self._projection.take_changes(self._now).facts
        await self._persist(Changes(self._projection.all_views(self._now), facts))

    # deliveries

    async def _step(self) -> None:
        taken = await self._take_batch()
        try:
            for delivered in taken:
                await self._take(delivered.record)
            await self._read_what_stalls()
            self._now = max([self._now, *(probe.moment for probe in self._probes)])
            self._projection.advance(self._now)
            await self._flush()
        finally:
            # Also of a batch that was refused: the next claim reads it from Kafka, and an event
            # without its ack would hold back Faust's commits for good.
            for delivered in taken:
                delivered.ack()
        await self._stamp()

    async def _take_batch(self) -> list[Delivered]:
        if len(self._queue) > 1:
            await asyncio.sleep(LINGER_S)
        taken = [self._queue.popleft() for _ in range(min(BATCH_SIZE, len(self._queue)))]
        self._queued_bytes -= sum(len(delivered.record.value or b"") for delivered in taken)
        if self._queue:
            self._wake.set()
        return taken

    async def _take(self, record: Record) -> None:
        expected = self._next[record.topic]
        if record.offset > expected:
            log.info("gap", partition=self.partition, topic=record.topic,
                     expected=expected, delivered=record.offset)  # fmt: skip
            await self._catch_up({record.topic: record.offset})
        if record.offset == self._next[record.topic]:
            self._apply(record)
            self._next[record.topic] = record.offset + 1

    @outlast
    async def _catch_up(self, ends: Offsets) -> None:
        """Read and apply everything below `ends` straight from Kafka."""
        async for progress in self._source.read(self.partition, dict(self._next), ends):
            for record in progress.records:
                if record.offset >= self._next[record.topic]:
                    self._apply(record)
            self._next |= progress.positions
            await self._send_letters()

    def _apply(self, record: Record) -> None:
        if reason := self._projection.apply(record):
            log.warning("bad event", topic=record.topic, partition=record.partition,
                        offset=record.offset, reason=reason)  # fmt: skip
            self._letters.append(DeadLetter(record, reason))

    async def _read_what_stalls(self) -> None:
        if not self._probes:
            return
        ends, now = self._probes[-1].ends, asyncio.get_running_loop().time()
        for topic in Topic:
            expected, since = self._awaited.get(topic, (-1, now))
            if self._next[topic] >= ends[topic] or self._next[topic] != expected:
                self._awaited[topic] = (self._next[topic], now)
            elif now - since > STALL_S:
                log.info("delivery stalled", partition=self.partition, topic=topic,
                         expected=expected, end=ends[topic])  # fmt: skip
                await self._catch_up({topic: ends[topic]})

    async def _flush(self) -> None:
        changes = self._projection.take_changes(self._now)
        if changes.views or changes.facts or self._letters or self._next != self._checkpointed:
            await self._persist(changes)

    @outlast
    async def _persist(self, changes: Changes) -> None:
        await self._store.write_views(changes.views)
        await self._send_letters()
        await self._store.checkpoint(self._next, changes.facts, len(self._projection.facts))
        self._checkpointed = dict(self._next)

    async def _send_letters(self) -> None:
        await self._dead_letters.send(self._letters)
        self._letters = []

    # freshness

    async def _probe(self) -> None:
        """Ask every quarter second what would make the partition fresh as of now."""
        while not self._stopping:
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    moment = await self._store.now()
                    applied = dict(self._next)
                    ends = await self._source.ends(self.partition)
                receded = self._receded(applied, ends)
                # A broker may know less than it has delivered (embedded ones do).
                ends = {topic: max(end, self._delivered[topic]) for topic, end in ends.items()}
                if len(self._probes) < MAX_PROBES:
                    self._probes.append(Probe(moment, ends, receded))
                self._wake.set()
            except OUTAGES as error:
                log.debug("no probe", partition=self.partition, reason=repr(error))
            await asyncio.sleep(PROBE_INTERVAL_S)

    async def _stamp(self) -> None:
        """Declare the partition fresh as of the latest probe whose every event is applied."""
        reached = None
        while self._probes and self._is_reached(self._probes[0]):
            reached = self._probes.popleft()
        if reached is None:
            return
        try:
            await self._refuse_recreated(reached.receded)
            await self._store.stamp(reached.moment)
        except OUTAGES as error:
            log.debug("no stamp", partition=self.partition, reason=repr(error))

    def _is_reached(self, probe: Probe) -> bool:
        return probe.moment <= self._now and all(
            self._next[topic] >= end for topic, end in probe.ends.items()
        )


def _named(offsets: Offsets) -> dict[str, int]:
    return {str(topic): offset for topic, offset in offsets.items()}
