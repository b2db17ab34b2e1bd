"""Freshness probes of one partition: Redis TIME, leaders, then their end offsets, every 250 ms.

Once everything below a probe's end offsets is applied, the partition is fresh as of its time. Where
sources are named, each must have vouched for that time too.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

import structlog

from projector.clients.retry import OUTAGES, Call
from projector.events.model import Topic
from projector.kafka.range_reader import Offsets, RangeReader
from projector.store.partition_store import PartitionStore
from projector.store.silent_source import SilentSource
from projector.worker.delivery_queue import DeliveryQueue
from projector.worker.known_logs import TopicLeaders
from projector.worker.sources import Sources
from projector.worker.timing import DEFAULT_TIMING, Moments, Timing
from projector.worker.vouchers import SourceMark, Vouchers

log = structlog.get_logger()

# Probes that are not reached yet, a bound on memory. Beyond it every second one is dropped: the
# oldest is reached first, and the newest once all is applied, however long that took.
MAX_PROBES: Final = 64
# Seconds. The heartbeat that answers a probe comes within two rounds of its sender, 0.5 s, and the
# time that Kafka and a busy machine take. Too early a note is only a reason: no stamp waits for it.
SILENT_AFTER_S: Final = 1.0


class Probe(NamedTuple):
    """A time, and the offsets that make the partition fresh as of then once all below is applied.

    `t0` is Redis TIME in ms, read before `ends`. `asked_at` is the same moment in seconds of the
    loop's clock. `truncated` are the topics that ended below their next offset, as the broker
    answered; `leaders` are those that enough replicas named in between. `source` is the end of the
    topic `sources`, if sources are named.
    """

    t0: int
    ends: Offsets
    asked_at: float
    truncated: tuple[Topic, ...] = ()
    leaders: TopicLeaders | None = None
    source: SourceMark | None = None

    def is_reached(self, now: int, applied: Offsets) -> bool:
        """Whether all timers due by T0 have run, and all events below its ends are applied."""
        return self.t0 <= now and all(applied[t] >= end for t, end in self.ends.items())


class FreshnessProbes:
    """One partition's probes that are not reached, oldest first."""

    def __init__(  # noqa: PLR0913  one for each server, and what differs in tests
        self,
        partition: int,
        store: PartitionStore,
        reader: RangeReader,
        queue: DeliveryQueue,
        timing: Timing = DEFAULT_TIMING,
        *,
        moments: Moments | None = None,
        sources: Sources | None = None,
    ) -> None:
        self._partition = partition
        self._moments = moments or Moments(timing.probe_interval_s)
        self._sources = sources
        self.vouchers = Vouchers(partition, sources.names if sources else ())
        self._store = store
        self._reader = reader
        self._queue = queue
        self._timing = timing
        self._waiting: deque[Probe] = deque()
        # The next probe begins at once, also if it was wanted during this one.
        self._wanted = False
        self._latest: Probe | None = None
        self._reached_t0 = 0
        # The newest probe when silence was last looked for.
        self._looked: Probe | None = None
        self._call = Call(partition)
        self._asked = ""

    @property
    def latest(self) -> Probe | None:
        """The newest probe."""
        return self._latest

    @property
    def may_be_reached(self) -> bool:
        """Whether all sources have sent heartbeats that answer the oldest probe, applied or not."""
        oldest = self._waiting[0].source if self._waiting else None
        return oldest is not None and self.vouchers.may_vouch(oldest)

    @property
    def latest_t0(self) -> int:
        """The highest T0 in ms, 0 without a probe; after a failover it need not be the newest's."""
        return max((probe.t0 for probe in self._waiting), default=0)

    def forget(self) -> None:
        """Drop every probe."""
        self._waiting.clear()
        self._latest = None

    def probe_at_once(self) -> None:
        """End the pause before the next probe: the first stamp after a claim waits for it."""
        self._wanted = True
        self._moments.hurry()

    def take_reached(self, now: int, applied: Offsets) -> Probe | None:
        """Take out the probes that are reached, and return the last of them."""
        if self._sources:
            for name in self.vouchers.apply(applied):
                self._sources.count(name)
        reached = None
        while self._waiting and self._is_reached(self._waiting[0], now, applied):
            reached = self._waiting.popleft()
            self._reached_t0 = reached.t0
        return reached

    def _is_reached(self, probe: Probe, now: int, applied: Offsets) -> bool:
        if not probe.is_reached(now, applied):
            return False
        return probe.source is None or not self.vouchers.missing(probe.source)

    def take_silence(self, now: int, applied: Offsets) -> SilentSource | None:
        """Return the source that the oldest probe waits for alone, if any; once a probe."""
        if self._looked is self._latest or not self._waiting:
            return None
        self._looked, oldest = self._latest, self._waiting[0]
        waited = asyncio.get_running_loop().time() - oldest.asked_at
        if oldest.source is None or waited < SILENT_AFTER_S or not oldest.is_reached(now, applied):
            return None
        silent = self.vouchers.silent(oldest.source)
        found = [SilentSource(name, self._vouched_until(name)) for name in silent]
        return min(found, key=lambda source: source.vouched_ms, default=None)

    def _vouched_until(self, name: str) -> int:
        """Return the last T0 that the source vouched for."""
        vouched = (p.t0 for p in self._waiting if p.source and name not in
                   self.vouchers.missing(p.source))  # fmt: skip
        return max(vouched, default=self._reached_t0)

    async def run(self, applied: Callable[[], Offsets], noted: Callable[[], None]) -> NoReturn:
        """Probe until cancelled; `applied` returns the next offsets, `noted` follows each probe."""
        try:
            while True:
                self._wanted = False
                await self._probe(applied, noted)
                # At the same moments as all owners of this worker, which then share the questions.
                if not self._wanted:
                    await self._moments.wait()
        finally:
            self._call.end(gave_up=True)

    async def _probe(self, applied: Callable[[], Offsets], noted: Callable[[], None]) -> None:
        """Probe once; a failure is part of an outage, also while the worker has nothing to do."""
        timeout_s = self._timing.probe_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._ask(dict(applied()))
        except OUTAGES as error:
            log.debug("no probe", partition=self._partition, reason=repr(error))
            self._call.fail(error, timeout_s, self._asked)
        else:
            self._call.end()
            noted()

    async def _ask(self, applied: Offsets) -> None:
        asked_at = asyncio.get_running_loop().time()
        self._asked = "Redis"
        t0 = await self._store.now()
        self._asked = "Kafka"
        leaders, ends, mark = await self._ask_kafka()
        # The end offsets of the embedded broker may be below what it has delivered.
        known = {topic: max(end, self._queue.arrived[topic]) for topic, end in ends.items()}
        truncated = truncated_topics(applied, ends)
        self._latest = Probe(t0, known, asked_at, truncated, leaders, mark)
        self._report_untrue(known, asked_at)
        self._keep(self._latest)

    async def _ask_kafka(self) -> tuple[TopicLeaders, Offsets, SourceMark | None]:
        """Ask for the leaders, and then these for the ends, that of `sources` among them."""
        if self._sources is None:
            leaders = await self._reader.leaders(self._partition)
            return leaders, await self._reader.ends(self._partition, leaders), None
        leaders, source = await asyncio.gather(
            self._reader.leaders(self._partition), self._reader.source_leader()
        )
        ends, end = await self._reader.ends_with_source(self._partition, leaders, source)
        return leaders, ends, self._sources.mark(source, end)

    def _report_untrue(self, ends: Offsets, asked_at: float) -> None:
        if self._sources:
            for name, voucher in self.vouchers.take_untrue(ends, asked_at):
                self._sources.report_untrue(name, voucher.offset, self._partition)

    def _keep(self, probe: Probe) -> None:
        last = self._waiting[-1] if self._waiting else probe
        if last.source and probe.source and last.source.reading != probe.source.reading:
            # Of another log of `sources`: no heartbeat from here on answers them.
            self._waiting.clear()
        if len(self._waiting) >= MAX_PROBES:
            self._waiting = deque(list(self._waiting)[::2])
        self._waiting.append(probe)


def truncated_topics(applied: Offsets, ends: Offsets) -> tuple[Topic, ...]:
    """Return the topics that end below `applied`, the next offsets before `ends` were asked."""
    return tuple(topic for topic, end in ends.items() if end < applied.get(topic, 0))
