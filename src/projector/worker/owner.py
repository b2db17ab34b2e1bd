"""The owner of one partition: its loop from delivery to acknowledgement.

Redis and Kafka errors are retried while the partition grows stale. An owner ends when another
worker claims the partition, when it is stopped, or by an error of this program. Such an error ends
the process.
"""

import asyncio
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any, Final

import structlog

from projector import metrics
from projector.clients.retry import OUTAGES, Call, retry_outages
from projector.domain.projection import Policy
from projector.domain.views import ViewId
from projector.errors import HistoryLostError, WriteRefusedError
from projector.events.model import Topic
from projector.kafka.dead_letters import DeadLetterProducer
from projector.kafka.range_reader import RangeReader
from projector.process import refuse_stray_cancellation
from projector.store.partition_store import PartitionStore
from projector.store.schema import Version
from projector.store.silent_source import SilentSource
from projector.worker.dead_letter_outbox import DeadLetterOutbox
from projector.worker.delivery_queue import Delivery, DeliveryQueue
from projector.worker.event_applier import EventApplier
from projector.worker.first_views import FirstViews
from projector.worker.freshness_probes import FreshnessProbes, Probe
from projector.worker.initial_facts import CheckpointFacts, InitialFacts
from projector.worker.instrumentation import OwnerInstruments
from projector.worker.recovery import Recovery
from projector.worker.sources import Sources
from projector.worker.sweep import SweepSchedule, ViewSweep
from projector.worker.timing import DEFAULT_TIMING, Moments, Timing
from projector.worker.view_writer import ViewWriter

log = structlog.get_logger()

# Without this bound a steady stream of deliveries would put off the checkpoint without end.
MAX_BATCH: Final = 5000
HISTORY_ADVICE: Final = (
    "feed everything into new topics under another PROJECTOR_TOPIC_PREFIX with an empty Redis "
    "database, or go on from what is there with `projector rebuild --accept-loss`"
)


class Owner:
    """Owns one partition from `run` until another worker claims it or `stop` is called.

    `loss` is the history that Kafka has lost, once there was an alarm about it. `waits_for` is the
    source that the next stamp waits for alone.
    """

    def __init__(  # noqa: PLR0913  one for each server, and what differs in tests and rebuilds
        self,
        partition: int,
        policy: Policy,
        store: PartitionStore,
        reader: RangeReader,
        dead_letters: DeadLetterProducer,
        *,
        timing: Timing = DEFAULT_TIMING,
        moments: Moments | None = None,
        initial_facts: InitialFacts | None = None,
        sources: Sources | None = None,
    ) -> None:
        self.partition = partition
        self.loss: HistoryLostError | None = None
        self.waits_for: str | None = None
        self._store = store
        self._timing = timing
        self._wake = asyncio.Event()
        self._stopped = asyncio.Event()
        self._queue = DeliveryQueue(timing)
        self._sources = sources
        self._probes = FreshnessProbes(
            partition, store, reader, self._queue, timing, moments=moments, sources=sources
        )
        self._outbox = DeadLetterOutbox(partition, reader, dead_letters)
        self._instruments = OwnerInstruments(
            partition, lambda: self._applier.sizes, self._probes.vouchers.counted_at
        )
        self._applier = EventApplier(
            partition, policy, reader, self._outbox, self._instruments,
            overlay=store.overlay, turn_s=timing.turn_s,
        )  # fmt: skip
        self._writer = ViewWriter(self._applier, store, self._instruments)
        self._first_views = FirstViews(self._applier, reader, self._queue)
        self._recovery = Recovery(
            policy=policy, store=store, reader=reader, applier=self._applier, writer=self._writer,
            initial_facts=initial_facts or CheckpointFacts(store, timing.turn_s),
            open_pause_s=timing.open_pause_s, sources=sources.names if sources else (),
        )  # fmt: skip
        schedule = SweepSchedule(policy.sweep_interval, timing.probe_interval_s)
        self._sweep = ViewSweep(schedule, store, self._applier, self._writer)
        self._stamps = Call(partition)

    @property
    def version(self) -> Version:
        """The version of the last checkpoint."""
        return self._store.version

    @property
    def is_serving(self) -> bool:
        """Whether a claim went through: views and checkpoint are those of the facts in memory."""
        return self._applier.is_complete

    def enqueue(self, delivery: Delivery) -> None:
        """Put a delivery into the queue, without waiting."""
        self._queue.put(delivery)
        self._wake.set()

    def known_offset(self, topic: Topic) -> int:
        """Return the offset below which all is applied, or is being read from Kafka."""
        return self._applier.progress.known_offset(topic)

    def check_orphan(self, id_: ViewId) -> None:
        """Let the sweep look at a live record in Redis, unless a fact has its view."""
        self._sweep.check_orphan(id_)

    def stop(self) -> None:
        """Finish the current batch, then return from `run`."""
        self._stopped.set()
        self._wake.set()

    async def run(self) -> None:
        """Own the partition; return when stopped or when another worker has claimed it."""
        with self._instruments, self._listening():
            await self._run()
        self._queue.release()

    def _listening(self) -> AbstractContextManager[None]:
        if self._sources is None:
            return nullcontext()
        return self._sources.listening(self._probes.vouchers, self._wake_for_heartbeat)

    def _wake_for_heartbeat(self) -> None:
        """Wake up, unless the next probe will do so."""
        if self._probes.may_be_reached:
            self._wake.set()

    async def _run(self) -> None:
        if self._stopped.is_set():
            # Else its background work would be cancelled before it begins: a warning for each.
            return
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(refuse_stray_cancellation(work))
                for work in (
                    self._probes.run(self._next_offsets, self._note_probe),
                    self._outbox.run(),
                    self._first_views.run(self._wake.set),
                    self._instruments.publish(self._store, self._timing),
                )
            ]
            for task in background:
                # The group cancels this task once after an error, and a library may lose that.
                task.add_done_callback(lambda _: self.stop())
            try:
                await self._own_until_stopped()
            finally:
                self._stamps.end(gave_up=True)
                # Also after an error: the group itself would cancel them only once. This raises if
                # this task is cancelled again meanwhile.
                await cancel_until_done(background)

    async def _own_until_stopped(self) -> None:
        while not self._stopped.is_set():
            began = asyncio.get_running_loop().time()
            try:
                await self._own()
            except WriteRefusedError as refusal:
                await self._handle_refusal(refusal, began)
            except HistoryLostError as loss:
                self._raise_alarm(loss)
                await self._pause(self._timing.history_pause_s)
                await self._stop_if_claimed()

    def _raise_alarm(self, loss: HistoryLostError) -> None:
        self.loss = loss
        metrics.ALARMS.labels(reason="history lost").inc()
        log.error("history lost, the partition stays stale", partition=self.partition,
                  reason=str(loss), advice=HISTORY_ADVICE)  # fmt: skip

    async def _handle_refusal(self, refusal: WriteRefusedError, began: float) -> None:
        metrics.REFUSED_WRITES.inc()
        log.warning("refused", partition=self.partition, reason=str(refusal))
        await self._stop_if_claimed()
        if asyncio.get_running_loop().time() - began < self._timing.heal_pause_s:
            await self._pause(self._timing.heal_pause_s)

    async def _pause(self, seconds: float) -> None:
        """Wait for so long, or until stopped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()

    async def _own(self) -> None:
        self.waits_for = None
        # They have the time of before, which may have gone back.
        self._probes.forget()
        await self._recovery.claim()
        self._first_views.begin()
        self._probes.forget()
        self._probes.probe_at_once()
        self._instruments.record_claim()
        while not self._stopped.is_set():
            await self._wake.wait()
            self._wake.clear()
            await self._step()

    @retry_outages
    async def _stop_if_claimed(self) -> None:
        if await self._store.is_claimed_by_another():
            self.stop()

    # deliveries

    async def _step(self) -> None:
        """Take a batch, apply it, write, acknowledge, stamp, sweep; in this order."""
        # Before more is applied, which may be of another log. Without an answer no stamp follows.
        with suppress(*OUTAGES):
            await self._check_logs()
        taken = await self._queue.take(behind=self._is_behind())
        if self._queue:
            self._wake.set()
        try:
            for delivery in taken:
                await self._applier.take(delivery.record)
            await self._read_stalled()
            await self._applier.advance(self._probes.latest_t0)
            self._first_views.hold()
            arrivals = partial(self._take_arrivals, taken)
            await self._writer.flush(arrivals, self._first_views)
        finally:
            # Also of a batch that was refused: the next claim reads it from Kafka, and an event
            # without its ack would hold back Faust's commits for good.
            for delivery in taken:
                delivery.ack()
        await self._stamp()
        await self._sweep.run_portion()

    async def _check_logs(self) -> None:
        """Hold the logs against Kafka if the newest probe shows that they may be others."""
        probe = self._probes.latest
        if probe and probe.leaders is not None:
            await self._applier.logs.check_changed(
                self._next_offsets(), probe.leaders, self._timing.probe_timeout_s
            )

    def _is_behind(self) -> bool:
        probe = self._probes.latest
        return probe is not None and self._applier.progress.is_behind(probe.ends)

    async def _read_stalled(self) -> None:
        if probe := self._probes.latest:
            await self._applier.read_stalled(probe.ends, self._timing.stall_s)

    async def _take_arrivals(self, taken: list[Delivery]) -> None:
        """Apply what arrived during a long write, and add it to `taken`.

        So an event does not wait for the views of others. A batch that is too large already leaves
        arrivals in the queue.
        """
        if self._applier.projection.facts.dirty and self._queue and len(taken) < MAX_BATCH:
            with suppress(*OUTAGES):
                await self._check_logs()
            arrived = await self._queue.take()
            taken += arrived
            for delivery in arrived:
                await self._applier.take(delivery.record)
            self._first_views.hold()

    # freshness

    def _next_offsets(self) -> dict[Topic, int]:
        return self._applier.progress.next

    def _note_probe(self) -> None:
        self._sweep.tick()
        self._wake.set()

    async def _stamp(self) -> None:
        """Stamp the partition with the T0 of the latest probe that is reached.

        A source that the next one waits for alone is noted, for the API's reason.
        """
        applied = self._applier.served_offsets
        probe = self._probes.take_reached(self._applier.now, applied)
        silence = self._probes.take_silence(self._applier.now, applied)
        try:
            if probe:
                await self._stamp_as_of(probe)
            if silence:
                await self._note_silence(silence)
            if probe or silence:
                self._stamps.end()
        except OUTAGES as error:
            log.debug("no stamp", partition=self.partition, reason=repr(error))
            self._stamps.fail(error, self._timing.probe_timeout_s)

    async def _note_silence(self, silence: SilentSource) -> None:
        await self._store.note_silence(*silence)
        self._instruments.record_silence()
        self.waits_for = silence.name
        if self._sources:
            self._sources.report_silence(*silence)

    async def _stamp_as_of(self, probe: Probe) -> None:
        await self._recovery.refuse_recreated(probe.truncated)
        await self._check_logs()
        self._applier.applied_until = probe.t0
        await self._store.stamp(probe.t0)
        self._instruments.record_stamp(probe.asked_at)
        self.waits_for = None


async def cancel_until_done(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel the tasks until all are done: libraries lose a cancellation now and then.

    Also if this is cancelled meanwhile: a task that it left would hold up its group for good.
    """
    is_cancelled = False
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending, timeout=0.1)
        except asyncio.CancelledError:
            is_cancelled = True
    if is_cancelled:
        raise asyncio.CancelledError
