"""What would make a partition fresh: asked four times a second, and kept until it has come true."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

import structlog

from projector.clients.retry import OUTAGES
from projector.events.model import Topic
from projector.kafka.range_reader import Offsets, RangeReader
from projector.store.partition_store import PartitionStore
from projector.worker.delivery_queue import DeliveryQueue

log = structlog.get_logger()

PROBE_INTERVAL_S: Final = 0.25
PROBE_TIMEOUT_S: Final = 2.0
# Freshness probes whose end offsets are not reached yet. The oldest are kept: they come true first.
MAX_PROBES: Final = 64


class Probe(NamedTuple):
    """When everything below `ends` is applied, the partition is fresh as of `moment`.

    `moment` is in ms of Redis TIME; it was asked for at `asked`, in seconds of the loop's clock.
    `receded` are the topics that the broker said end below what was applied when it was asked.
    """

    moment: int
    ends: Offsets
    asked: float
    receded: tuple[Topic, ...] = ()

    def is_reached(self, now: int, applied: Offsets) -> bool:
        """Whether all timers due by its moment have run, and all events below its ends."""
        return self.moment <= now and all(applied[t] >= end for t, end in self.ends.items())


class FreshnessProbes:
    """One partition's probes that have not come true, oldest first."""

    def __init__(
        self, partition: int, store: PartitionStore, source: RangeReader, inbox: DeliveryQueue
    ) -> None:
        self._partition = partition
        self._store = store
        self._source = source
        self._inbox = inbox
        self._waiting: deque[Probe] = deque()

    @property
    def latest(self) -> Probe | None:
        """The newest."""
        return self._waiting[-1] if self._waiting else None

    @property
    def moments(self) -> list[int]:
        """The moments of all."""
        return [probe.moment for probe in self._waiting]

    def take_reached(self, now: int, applied: Offsets) -> Probe | None:
        """The latest that has come true; it and those before it are done with."""
        reached = None
        while self._waiting and self._waiting[0].is_reached(now, applied):
            reached = self._waiting.popleft()
        return reached

    async def run(self, applied: Callable[[], Offsets], noted: Callable[[], None]) -> NoReturn:
        """Ask for ever; `applied` are the owner's next offsets, `noted` hears of each probe."""
        while True:
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await self._ask(dict(applied()))
                noted()
            except OUTAGES as error:
                log.debug("no probe", partition=self._partition, reason=repr(error))
            await asyncio.sleep(PROBE_INTERVAL_S)

    async def _ask(self, applied: Offsets) -> None:
        asked = asyncio.get_running_loop().time()
        moment = await self._store.now()
        ends = await self._source.ends(self._partition)
        # A broker may know less than it has delivered (embedded ones do).
        known = {topic: max(end, self._inbox.arrived[topic]) for topic, end in ends.items()}
        if len(self._waiting) < MAX_PROBES:
            self._waiting.append(Probe(moment, known, asked, truncated_topics(applied, ends)))


def truncated_topics(applied: Offsets, ends: Offsets) -> tuple[Topic, ...]:
    """The topics that the broker says end below what was applied before it was asked."""
    return tuple(topic for topic, end in ends.items() if end < applied.get(topic, 0))
