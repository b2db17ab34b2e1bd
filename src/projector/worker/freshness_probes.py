"""Freshness probes of one partition: Redis TIME, leaders, then their end offsets, every 250 ms.

Once everything below a probe's end offsets is applied, the partition is fresh as of its time.
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
from projector.worker.delivery_queue import DeliveryQueue
from projector.worker.known_logs import TopicLeaders
from projector.worker.timing import DEFAULT_TIMING, Timing

log = structlog.get_logger()

# Probes that are not reached yet, a bound on memory. The oldest are kept, since they are reached
# first.
MAX_PROBES: Final = 64


class Probe(NamedTuple):
    """A time, and the offsets that make the partition fresh as of then once all below is applied.

    `t0` is Redis TIME in ms, read before `ends`. `asked_at` is the same moment in seconds of the
    loop's clock. `truncated` are the topics that ended below their next offset, as the broker
    answered; `leaders` are those that enough replicas named in between.
    """

    t0: int
    ends: Offsets
    asked_at: float
    truncated: tuple[Topic, ...] = ()
    leaders: TopicLeaders | None = None

    def is_reached(self, now: int, applied: Offsets) -> bool:
        """Whether all timers due by T0 have run, and all events below its ends are applied."""
        return self.t0 <= now and all(applied[t] >= end for t, end in self.ends.items())


class FreshnessProbes:
    """One partition's probes that are not reached, oldest first."""

    def __init__(
        self,
        partition: int,
        store: PartitionStore,
        reader: RangeReader,
        queue: DeliveryQueue,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        self._partition = partition
        self._store = store
        self._reader = reader
        self._queue = queue
        self._timing = timing
        self._waiting: deque[Probe] = deque()
        self._latest: Probe | None = None
        self._call = Call(partition)
        self._asked = ""

    @property
    def latest(self) -> Probe | None:
        """The newest probe, also where too many wait to keep it."""
        return self._latest

    @property
    def latest_t0(self) -> int:
        """The highest T0 in ms, 0 without a probe; after a failover it need not be the newest's."""
        return max((probe.t0 for probe in self._waiting), default=0)

    def forget(self) -> None:
        """Drop every probe."""
        self._waiting.clear()
        self._latest = None

    def take_reached(self, now: int, applied: Offsets) -> Probe | None:
        """Take out the probes that are reached, and return the last of them."""
        reached = None
        while self._waiting and self._waiting[0].is_reached(now, applied):
            reached = self._waiting.popleft()
        return reached

    async def run(self, applied: Callable[[], Offsets], noted: Callable[[], None]) -> NoReturn:
        """Probe until cancelled; `applied` returns the next offsets, `noted` follows each probe."""
        try:
            while True:
                await self._probe(applied, noted)
                await asyncio.sleep(self._timing.probe_interval_s)
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
        leaders = await self._reader.leaders(self._partition)
        ends = await self._reader.ends(self._partition, leaders)
        # The end offsets of the embedded broker may be below what it has delivered.
        known = {topic: max(end, self._queue.arrived[topic]) for topic, end in ends.items()}
        truncated = truncated_topics(applied, ends)
        self._latest = Probe(t0, known, asked_at, truncated, leaders)
        if len(self._waiting) < MAX_PROBES:
            self._waiting.append(self._latest)


def truncated_topics(applied: Offsets, ends: Offsets) -> tuple[Topic, ...]:
    """Return the topics that end below `applied`, the next offsets before `ends` were asked."""
    return tuple(topic for topic, end in ends.items() if end < applied.get(topic, 0))
