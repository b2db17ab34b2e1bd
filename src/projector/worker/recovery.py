"""Recovery of one partition: claim, facts, catching up with Kafka, and a rewrite of every view.

A new owner begins with the facts of the checkpoint. An owner whose write Redis refused, and whose
partition no other worker claimed, has complete facts in memory: it heals Redis from these.
"""

import asyncio

import structlog
from structlog.contextvars import bind_contextvars

from projector import metrics
from projector.clients.retry import retry_outages
from projector.domain.projection import Policy
from projector.errors import HistoryLostError
from projector.events.model import Topic
from projector.kafka.range_reader import Offsets, RangeReader, refuse_lost_history
from projector.store.partition_store import PartitionStore
from projector.worker.event_applier import EventApplier
from projector.worker.first_views import OTHER_TOPICS
from projector.worker.freshness_probes import truncated_topics
from projector.worker.initial_facts import InitialFacts
from projector.worker.view_writer import ViewWriter

log = structlog.get_logger()


class Recovery:
    """Claims one partition, and brings facts, views and checkpoint up to date."""

    def __init__(  # noqa: PLR0913  one for each part that recovery brings up to date
        self,
        *,
        policy: Policy,
        store: PartitionStore,
        reader: RangeReader,
        applier: EventApplier,
        writer: ViewWriter,
        initial_facts: InitialFacts,
        open_pause_s: float,
        sources: tuple[str, ...] = (),
    ) -> None:
        self.partition = applier.partition
        self._policy = policy
        self._store = store
        self._reader = reader
        self._applier = applier
        self._writer = writer
        self._initial_facts = initial_facts
        self._open_pause_s = open_pause_s
        self._sources = sources

    @retry_outages
    async def claim(self) -> None:
        """Take the partition, catch up with Kafka, then write every view and the checkpoint.

        Raises `WriteRefusedError` and `HistoryLostError`.
        """
        # Before the claim: a worker that cannot reach Kafka must not take the partition away.
        beginnings = await self._reader.beginnings(self.partition)
        checkpoint = await self._store.claim(
            self._policy.partitions, self._policy.rules, self._sources
        )
        # For every log entry of this task from here on.
        bind_contextvars(epoch=self._store.version.epoch)
        from_memory = self._applier.is_complete
        if from_memory:
            refuse_lost_history(self._applier.progress.next, beginnings)
        else:
            await self._initial_facts.load(self._applier, checkpoint, beginnings)
        await self._catch_up()
        await self._applier.settle()
        await (self._heal() if from_memory else self._reconcile())
        self._applier.is_complete = True
        self._report("memory" if from_memory else "checkpoint")

    async def _catch_up(self) -> None:
        """Apply everything that Kafka has: T0 first, then the end offsets.

        Those of the other topics are asked once more, so that all jobs that start have complete
        views: one answer need not be of one moment.
        """
        t0 = await self._store.now()
        # The facts may have come from two servers.
        self._store.refuse_changed_server()
        ends = await self._reader.ends(self.partition)
        applied = self._applier.progress.next
        await self.refuse_recreated(truncated_topics(applied, ends))
        await self._applier.logs.check(applied)
        later = await self._reader.ends(self.partition)
        ends |= {topic: max(ends[topic], later[topic]) for topic in OTHER_TOPICS}
        await self._applier.catch_up(ends)
        await self._wait_for_transactions({topic: ends[topic] for topic in OTHER_TOPICS})
        # An open transaction ends the reading early.
        if self._applier.progress.has_reached(ends):
            self._applier.applied_until = t0

    async def _wait_for_transactions(self, ends: Offsets) -> None:
        """Read on until everything below `ends` is applied.

        An open transaction holds back what was acknowledged behind it. A job's first view that is
        written without that would be short.
        """
        while not self._applier.progress.has_reached(ends):
            await self._applier.read_up_to_transactions(ends)
            await asyncio.sleep(self._open_pause_s)

    async def refuse_recreated(self, truncated: tuple[Topic, ...]) -> None:
        """Raise `HistoryLostError` if one of these topics really ends below its next offset.

        A topic that is deleted and created again begins at offset 0. Its events up to the next
        offset would be skipped.
        """
        progress = self._applier.progress
        for topic in progress.unconfirmed(truncated):
            offset = progress.next[topic]
            if not await self._reader.has_reached(self.partition, topic, offset):
                raise HistoryLostError(f"{topic} was recreated: it ends before offset {offset}")
            progress.confirm(topic)

    async def _reconcile(self) -> None:
        """Rewrite every view: the former owner's last writes may be newer than its checkpoint."""
        applier = self._applier
        await self._advance()
        unknown = list(self._initial_facts.unknown_views(applier))
        await self._writer.write_all(await self._writer.end_orphans(unknown))
        fields = await self._initial_facts.changed_fields(applier)
        if fields is None:
            await self._replace_checkpoint()
        else:
            await self._writer.checkpoint(fields, applier.field_count)

    async def _heal(self) -> None:
        """Write everything from memory, since Redis was emptied, went back, or was claimed.

        After a jump of its clock too, by which it has expired keys too early.
        """
        await self._advance()
        await self._writer.write_all()
        await self._replace_checkpoint()

    async def _advance(self) -> None:
        """Run the timers that are due; if time went back, judge everything again before."""
        now = await self._store.now()
        if now < self._applier.now:
            await self._applier.take_back(now)
        await self._applier.advance(now)

    async def _replace_checkpoint(self) -> None:
        await self._store.forget_checkpoint()
        fields = await self._applier.take_all_fields()
        await self._writer.checkpoint(fields, self._applier.field_count)

    def _report(self, source: str) -> None:
        metrics.CLAIMS.labels(facts=source).inc()
        offsets = {str(topic): offset for topic, offset in self._applier.progress.next.items()}
        log.info(
            "claimed", partition=self.partition, epoch=self._store.version.epoch, source=source,
            facts=len(self._applier.projection.facts), **offsets,
        )  # fmt: skip
