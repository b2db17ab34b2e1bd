"""One partition's owner: the loop from delivery to acknowledgement.

It claims the partition, loads the checkpoint, catches up from Kafka, rewrites every view and from
then on applies what is delivered: facts, views, checkpoint, ack, in this order. Redis and Kafka
errors are retried while the partition grows stale. An owner ends when another claims, when it is
stopped, or by an error of this program, which ends the process.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from itertools import chain
from typing import Final

import structlog
from structlog.contextvars import bind_contextvars

from projector import metrics
from projector.clients.retry import OUTAGES, retry_outages
from projector.domain.fact_keys import Key
from projector.domain.projection import Policy, Projection
from projector.domain.views import View, tombstone
from projector.errors import HistoryLostError, IncompleteCheckpointError, WriteRefusedError
from projector.events.model import KafkaRecord, Topic
from projector.kafka.dead_letters import DeadLetterProducer
from projector.kafka.range_reader import Offsets, RangeReader, refuse_lost_history
from projector.store.partition_store import Checkpoint, PartitionStore
from projector.store.schema import Version
from projector.tracing import EventSpans
from projector.worker import dead_letter_outbox, freshness_probes
from projector.worker.dead_letter_outbox import DeadLetterOutbox
from projector.worker.delivery_queue import Delivery, DeliveryQueue
from projector.worker.freshness_probes import FreshnessProbes
from projector.worker.instrumentation import OwnerInstruments, Sizes
from projector.worker.sweep import SweepSchedule

log = structlog.get_logger()

# With so many events in Kafka that are not applied, larger batches are worth more than haste.
BEHIND: Final = 100
# A delivery that the broker has and Faust does not bring within this time is read directly.
STALL_S: Final = 2.0
# The first heal begins at once; one after the other must not take all of Redis' time.
HEAL_PAUSE_S: Final = 0.5
# Heartbeats and the owners of other partitions wait no longer, but for a step of some 10 ms more.
TURN_S: Final = 0.02
HISTORY_PAUSE_S: Final = 10.0
# Events that arrive during a long write are applied after each portion of it: some 20 ms.
VIEWS_PER_PORTION: Final = 2000
# So many in one batch, and the others wait: or the checkpoint would never come.
MAX_BATCH: Final = 5000
HISTORY_ADVICE: Final = (
    "feed everything into new topics under another PROJECTOR_TOPIC_PREFIX with an empty Redis "
    "database, or go on from what is there with `projector rebuild --accept-loss`"
)


class Owner:
    """Owns one partition from `run` until another claims it or `stop` is called."""

    def __init__(
        self,
        partition: int,
        policy: Policy,
        store: PartitionStore,
        source: RangeReader,
        dead_letters: DeadLetterProducer,
    ) -> None:
        self.partition = partition
        self._policy = policy
        self._store = store
        self._source = source
        self._projection = Projection(partition, policy)
        self._inbox = DeliveryQueue()
        self._wake = asyncio.Event()
        self._outbox = DeadLetterOutbox(partition, source, dead_letters)
        self._spans = EventSpans()
        self._meter = OwnerInstruments(partition, self._sizes)
        self._rounds = SweepSchedule(policy.sweep_interval, freshness_probes.PROBE_INTERVAL_S)
        self._stopping = False
        # Whether the facts in memory are whole: then they outlast whatever happens to Redis.
        self._knows_all = False
        self._next: Offsets = {}
        # Up to where Kafka is being read at the moment.
        self._reading: Offsets = {}
        self._checkpointed: Offsets = {}
        self._probes = FreshnessProbes(partition, store, source, self._inbox)
        self._now = 0
        # The moment up to which every event that Kafka had is applied (milliseconds).
        self._applied_until = 0
        # The offset up to which each topic was last seen to go, beyond what the broker said.
        self._confirmed: Offsets = {}
        # The offset that each topic waits for, and since when (seconds of the loop's clock).
        self._awaited: dict[Topic, tuple[int, float]] = {}
        self._stall_s = STALL_S

    @property
    def version(self) -> Version:
        """The version of the last checkpoint."""
        return self._store.version

    def enqueue(self, delivered: Delivery) -> None:
        """Take a delivery, at once."""
        self._inbox.put(delivered)
        self._wake.set()

    def known_offset(self, topic: Topic) -> int:
        """The offset before which everything is applied, or is being read straight from Kafka."""
        return max(self._next.get(topic, 0), self._reading.get(topic, 0))

    def check_orphan(self, digest: str) -> None:
        """A live record of this partition was found in Redis; is there a fact behind it?"""
        if self._knows_all and not self._projection.facts.job_of_token(digest):
            self._rounds.suspect(digest)

    def stop(self) -> None:
        """Finish the batch at hand, then return from `run`."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Own the partition; returns when stopped or when another owner claimed it."""
        with self._meter:
            await self._run()
        self._inbox.release()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            beside = [
                tasks.create_task(self._probes.run(lambda: self._next, self._note_probe)),
                tasks.create_task(self._outbox.run()),
                tasks.create_task(self._meter.publish(self._store)),
            ]
            try:
                await self._own_until_stopped()
            finally:
                # Also after an error: the group itself would cancel them only once.
                await _end(beside)

    async def _own_until_stopped(self) -> None:
        while not self._stopping:
            began = asyncio.get_running_loop().time()
            try:
                await self._own()
            except WriteRefusedError as refusal:
                await self._take_refusal(refusal, began)
            except HistoryLostError as loss:
                self._alarm(loss)
                await asyncio.sleep(HISTORY_PAUSE_S)
                self._stopping |= await self._is_claimed_by_another()

    def _alarm(self, loss: HistoryLostError) -> None:
        metrics.ALARMS.labels(reason="history lost").inc()
        log.error("history lost, the partition stays stale", partition=self.partition,
                  reason=str(loss), advice=HISTORY_ADVICE)  # fmt: skip

    async def _take_refusal(self, refusal: WriteRefusedError, began: float) -> None:
        metrics.REFUSED_WRITES.inc()
        log.warning("refused", partition=self.partition, reason=str(refusal))
        self._stopping |= await self._is_claimed_by_another()
        if not self._stopping and asyncio.get_running_loop().time() - began < HEAL_PAUSE_S:
            await asyncio.sleep(HEAL_PAUSE_S)

    async def _own(self) -> None:
        await self._claim()
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            await self._step()

    @retry_outages
    async def _is_claimed_by_another(self) -> bool:
        return await self._store.is_claimed_by_another()

    # claim

    @retry_outages
    async def _claim(self) -> None:
        """Take the partition, catch up with Kafka, and make Redis say what the facts say."""
        # First: whoever cannot reach Kafka must not take the partition from one who can.
        beginnings = await self._source.beginnings(self.partition)
        checkpoint = await self._store.claim(self._policy.partitions, self._policy.rules)
        # Everything that this task logs from here on says so.
        bind_contextvars(epoch=self.version.epoch)
        heal = self._knows_all
        if heal:
            refuse_lost_history(self._next, beginnings)
        else:
            await self._load(checkpoint, beginnings)
        moment = await self._store.now()
        ends = await self._source.ends(self.partition)
        await self._refuse_recreated(freshness_probes.truncated_topics(self._next, ends))
        await self._catch_up(ends)
        self._applied_until = moment
        await (self._heal() if heal else self._reconcile())
        self._knows_all = True
        self._report_claim("memory" if heal else "checkpoint")

    def _sizes(self) -> Sizes:
        facts = self._projection.facts
        return Sizes(facts.live_tokens, len(facts), len(self._outbox))

    def _report_claim(self, source: str) -> None:
        metrics.CLAIMS.labels(facts=source).inc()
        self._meter.record_claim()
        log.info(
            "claimed", partition=self.partition, epoch=self.version.epoch, source=source,
            facts=len(self._projection.facts), **_named(self._next),
        )  # fmt: skip

    async def _load(self, checkpoint: Checkpoint, beginnings: Offsets) -> None:
        refuse_lost_history(checkpoint.offsets, beginnings)
        self._next = beginnings | checkpoint.offsets
        try:
            await self._restore(checkpoint)
        except (IncompleteCheckpointError, ValueError, LookupError) as error:
            log.warning("checkpoint unusable, reading everything again",
                        partition=self.partition, reason=repr(error))  # fmt: skip
            await self._store.forget_checkpoint()
            self._forget()
            refuse_lost_history({}, beginnings)
            self._next = beginnings

    async def _restore(self, checkpoint: Checkpoint) -> None:
        self._forget()
        letters: dict[Key, bytes] = {}
        async with aclosing(self._store.load()) as parts:
            async for fields in parts:
                letters |= dead_letter_outbox.take_letters(fields)
                await _in_turn(self._projection.load(fields))
        await _in_turn(self._projection.settle())
        self._store.refuse_incomplete(checkpoint, len(self._projection.facts) + len(letters))
        self._outbox.restore(letters)

    def _forget(self) -> None:
        self._projection = Projection(self.partition, self._policy)
        self._outbox.restore({})

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
        self._advance(await self._store.now())
        await self._write_all()
        await self._checkpoint(self._take_fields())

    async def _heal(self) -> None:
        """Write everything from memory: Redis was emptied, went back, or was claimed meanwhile."""
        self._advance(await self._store.now())
        self._take_fields()
        everything: dict[Key, bytes | None] = {
            **self._projection.fields(),
            **self._outbox.fields(),
        }
        await self._write_all()
        await self._store.forget_checkpoint()
        await self._checkpoint(everything)

    async def _write_all(self, more: Sequence[View] = ()) -> None:
        """Write every view there is, and these besides."""
        self._projection.facts.dirty.clear()
        self._report_written(
            await self._write(lambda: chain(self._projection.all_views(self._now), more))
        )

    # deliveries

    async def _step(self) -> None:
        taken = await self._inbox.take(behind=self._is_behind())
        if self._inbox:
            self._wake.set()
        try:
            for delivered in taken:
                await self._take(delivered.record)
            await self._read_what_stalls()
            self._advance(max([self._now, *self._probes.moments]))
            await self._flush(taken)
        finally:
            # Also of a batch that was refused: the next claim reads it from Kafka, and an event
            # without its ack would hold back Faust's commits for good.
            for delivered in taken:
                delivered.ack()
        await self._stamp()
        await self._sweep()

    def _is_behind(self) -> bool:
        probe = self._probes.latest
        if probe is None:
            return False
        behind = (end - self._next[topic] for topic, end in probe.ends.items())
        return sum(max(0, events) for events in behind) > BEHIND

    async def _take(self, record: KafkaRecord) -> None:
        expected = self._next[record.topic]
        if record.offset > expected:
            metrics.GAPS_READ.inc()
            log.info("gap", partition=self.partition, topic=record.topic,
                     expected=expected, delivered=record.offset)  # fmt: skip
            await self._catch_up({record.topic: record.offset})
        if record.offset == self._next[record.topic]:
            await self._outbox.room()
            self._apply(record)
            self._next[record.topic] = record.offset + 1
        else:
            self._meter.record_repeated(record)

    @retry_outages
    async def _catch_up(self, ends: Offsets) -> None:
        """Read and apply everything below `ends` straight from Kafka."""
        self._reading = ends
        async for progress in self._source.read(self.partition, dict(self._next), ends):
            await self._outbox.room()
            for record in progress.records:
                if record.offset >= self._next[record.topic]:
                    self._apply(record)
            self._next |= progress.positions
        self._reading = {}

    def _apply(self, record: KafkaRecord) -> None:
        reason = self._projection.apply(record)
        self._spans.applied(record, refused=reason is not None)
        event = self._projection.latest
        self._meter.record_applied(record, event, good=reason is None, live=self._knows_all)
        if reason:
            log.warning("bad event", topic=record.topic, partition=record.partition,
                        offset=record.offset, reason=reason)  # fmt: skip
            self._outbox.add(record, reason)

    async def _read_what_stalls(self) -> None:
        probe = self._probes.latest
        if probe is None:
            return
        ends, now = probe.ends, asyncio.get_running_loop().time()
        for topic in Topic:
            expected, since = self._awaited.get(topic, (-1, now))
            if self._next[topic] >= ends[topic] or self._next[topic] != expected:
                self._awaited[topic] = (self._next[topic], now)
            elif now - since > self._stall_s:
                metrics.STALLS_READ.inc()
                log.info("delivery stalled", partition=self.partition, topic=topic,
                         expected=expected, end=ends[topic])  # fmt: skip
                await self._catch_up({topic: ends[topic]})

    def _advance(self, now: int) -> None:
        self._now = max(self._now, now)
        self._projection.advance(self._now, self._applied_until)

    def _take_fields(self) -> dict[Key, bytes | None]:
        return self._projection.take_fields() | self._outbox.take_changes()

    async def _flush(self, taken: list[Delivery]) -> None:
        """Write the views that have changed, and only then the checkpoint that they justify.

        What arrives meanwhile is applied and added to `taken`, to be acknowledged with it.
        """
        written: Counter[int] = Counter()
        while (portion := self._projection.take_dirty(VIEWS_PER_PORTION)).tokens:
            # Computed as they are written: from facts that hold still until all are acknowledged.
            views = partial(self._projection.views, portion.tokens, self._now)
            written += await self._write(views, portion.named)
            await self._take_meanwhile(taken)
        self._report_written(written)
        fields = self._take_fields()
        # A view may change with time alone, and then no field does.
        if fields or self._store.is_ahead or self._next != self._checkpointed:
            await self._checkpoint(fields)

    async def _take_meanwhile(self, taken: list[Delivery]) -> None:
        """Let events not wait for views of others, unless there are too many already."""
        if self._projection.facts.dirty and self._inbox and len(taken) < MAX_BATCH:
            arrived = await self._inbox.take()
            taken += arrived
            for delivered in arrived:
                await self._take(delivered.record)

    @retry_outages
    async def _write(
        self, views: Callable[[], Iterable[View]], named: Container[str] | None = None
    ) -> Counter[int]:
        """Write what `views` yields, asked anew for each attempt; how many of each status."""
        return await self._store.write_views(views(), named)

    def _report_written(self, statuses: Counter[int]) -> None:
        self._spans.written()
        self._meter.record_written(statuses)

    @retry_outages
    async def _checkpoint(self, fields: dict[Key, bytes | None]) -> None:
        total = len(self._projection.facts) + len(self._outbox)
        await self._store.checkpoint(self._next, fields, total)
        self._checkpointed = dict(self._next)

    # freshness

    def _note_probe(self) -> None:
        self._rounds.tick()
        self._wake.set()

    async def _stamp(self) -> None:
        """Declare the partition fresh as of the latest probe whose every event is applied."""
        probe = self._probes.take_reached(self._now, self._next)
        if probe is None:
            return
        try:
            await self._refuse_recreated(probe.receded)
            self._applied_until = probe.moment
            await self._store.stamp(probe.moment)
            self._meter.record_stamp(probe.asked)
        except OUTAGES as error:
            log.debug("no stamp", partition=self.partition, reason=repr(error))

    # sweep

    async def _sweep(self) -> None:
        """Compare the next few views with what stands in Redis, and write what differs."""
        facts = self._projection.facts
        digests = [d for d in self._rounds.take(facts.tokens) if facts.job_of_token(d)]
        views = [self._projection.view(digest, self._now) for digest in digests]
        orphans = [d for d in self._rounds.take_suspects() if not facts.job_of_token(d)]
        drifted = await self._drifted([view for view in views if view.expires_at > self._now])
        if drifted or orphans:
            self._report_drift(drifted, orphans)
            ended = [tombstone(digest, self._now) for digest in orphans]
            self._report_written(await self._write(lambda: drifted + ended))
            await self._checkpoint(self._take_fields())

    @retry_outages
    async def _drifted(self, views: list[View]) -> list[View]:
        return await self._store.drifted(views)

    def _report_drift(self, drifted: list[View], orphans: list[str]) -> None:
        metrics.DRIFT_REPAIRED.labels(what="view").inc(len(drifted))
        metrics.DRIFT_REPAIRED.labels(what="orphan").inc(len(orphans))
        log.warning("Redis differed from the facts and was repaired", partition=self.partition,
                    jobs=[view.job for view in drifted], orphans=len(orphans))  # fmt: skip


async def _in_turn(steps: Iterator[None]) -> None:
    """Take the steps, and let others have the loop whenever they took long."""
    clock = asyncio.get_running_loop().time
    began = clock()
    for _ in steps:
        if clock() - began > TURN_S:
            await asyncio.sleep(0)
            began = clock()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel them until they are done: once is not enough, for libraries lose it now and then."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.1)


def _named(offsets: Offsets) -> dict[str, int]:
    return {str(topic): offset for topic, offset in offsets.items()}
