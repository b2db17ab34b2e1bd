"""Measures what one partition's owner does: for Prometheus, and for operators in Redis."""

import asyncio
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn, Self

import structlog

from projector import metrics
from projector.clients.retry import OUTAGES
from projector.events.model import Event, KafkaRecord, Topic
from projector.metrics import LATENCY_BUCKETS_S
from projector.store import activity
from projector.store.activity import MINUTES_KEPT, MinuteActivity, PartitionActivity
from projector.store.partition_store import PartitionStore

log = structlog.get_logger()

PUBLISH_INTERVAL_S: Final = 5.0
# What is read straight after a long pause comes as one batch; a sample of it will do.
MAX_MEASURED: Final = 100_000

# A label's child costs more to find than to count.
_APPLIED: Final = {t: metrics.EVENTS.labels(topic=t, outcome="applied") for t in Topic}
_REFUSED: Final = {t: metrics.EVENTS.labels(topic=t, outcome="refused") for t in Topic}
_REPEATED: Final = {t: metrics.EVENTS.labels(topic=t, outcome="repeated") for t in Topic}


class Sizes(NamedTuple):
    """What an owner holds: tokens of running jobs, facts, letters that Kafka does not have yet."""

    live_tokens: int
    facts: int
    letters: int


class OwnerInstruments:
    """One partition's measurements; the gauges are there from `with` to its end."""

    def __init__(self, partition: int, sizes: Callable[[], Sizes]) -> None:
        self._partition = partition
        self._sizes = sizes
        self._claimed = False
        self._fresh_at = time.monotonic()
        self._stamped = asyncio.Event()
        # How many records of each topic were good or refused, since Prometheus last heard of it.
        self._taken: Counter[tuple[Topic, bool]] = Counter()
        # Timestamps (ms) of what is applied and not yet acknowledged by Redis.
        self._events: list[int] = []
        self._revocations: list[int] = []
        self._minutes: deque[MinuteActivity] = deque(maxlen=MINUTES_KEPT + 1)

    def __enter__(self) -> Self:
        label = str(self._partition)
        metrics.STALENESS.labels(label).set_function(lambda: time.monotonic() - self._fresh_at)
        metrics.LIVE_TOKENS.labels(label).set_function(lambda: self._sizes().live_tokens)
        metrics.FACTS.labels(label).set_function(lambda: self._sizes().facts)
        return self

    def __exit__(self, *_: object) -> None:
        metrics.OWNED_PARTITIONS.dec(self._claimed)
        for gauge in (metrics.STALENESS, metrics.LIVE_TOKENS, metrics.FACTS):
            gauge.remove(str(self._partition))

    def record_claim(self) -> None:
        """The partition is this owner's, perhaps once more."""
        metrics.OWNED_PARTITIONS.inc(not self._claimed)
        self._claimed = True

    def record_repeated(self, record: KafkaRecord) -> None:
        """A delivery that had been applied before."""
        _REPEATED[record.topic].inc()

    def record_applied(
        self, record: KafkaRecord, event: Event | None, *, good: bool, live: bool
    ) -> None:
        """A record was taken; `event` is what was applied of it, `live` whether it is no history.

        A new owner's history would say how long nobody looked, and not how long a view takes.
        """
        self._taken[record.topic, good] += 1
        if live and event and len(self._events) < MAX_MEASURED:
            self._events.append(record.timestamp)
            if event.revokes:
                self._revocations.append(record.timestamp)

    def record_written(self, statuses: Counter[int]) -> None:
        """Redis has acknowledged so many views of each status, and so all that was taken so far."""
        self._count_taken()
        for status, count in statuses.items():
            metrics.VIEW_WRITES.labels(status=int(status)).inc(count)
        if views := statuses.total():
            self._minute().views += views
        if self._events:
            metrics.BATCH_EVENTS.observe(len(self._events))
            self._observe_latencies(time.time() * 1000)

    def _count_taken(self) -> None:
        """Once a batch: to count each record by itself costs more than to decode it."""
        for (topic, good), count in self._taken.items():
            (_APPLIED if good else _REFUSED)[topic].inc(count)
            counts = self._minute().applied if good else self._minute().refused
            counts[topic] = counts.get(topic, 0) + count
        self._taken.clear()

    def _observe_latencies(self, now: float) -> None:
        """The broker's clock began them and this worker's ends them: never below zero."""
        for timestamp in self._events:
            metrics.EVENT_TO_VIEW.observe(max(0.0, now - timestamp) / 1000)
        if self._revocations:
            self._observe_revocations([max(0.0, now - t) / 1000 for t in self._revocations])
        self._events.clear()
        self._revocations.clear()

    def _observe_revocations(self, latencies: list[float]) -> None:
        minute = self._minute()
        for seconds in latencies:
            metrics.REVOCATION.observe(seconds)
            minute.revocations[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1
        minute.slowest = max(minute.slowest, round(max(latencies), 3))

    def _minute(self) -> MinuteActivity:
        number = int(time.time()) // 60
        if not self._minutes or self._minutes[-1].minute < number:
            self._minutes.append(MinuteActivity(number))
        return self._minutes[-1]

    def record_stamp(self, asked: float) -> None:
        """The partition was stamped fresh as of what was asked then (seconds of the loop)."""
        self._fresh_at = time.monotonic() - (asyncio.get_running_loop().time() - asked)
        self._stamped.set()

    async def publish(self, store: PartitionStore) -> NoReturn:
        """Write the activity to Redis after a stamp, every five seconds at most, for ever.

        Beside the owner's loop and without a second attempt: it must not cost a stamp.
        """
        while True:
            await self._stamped.wait()
            self._stamped.clear()
            try:
                await store.publish(
                    activity.encode_activity(self._activity(store.version.epoch, store.owner))
                )
            except OUTAGES as error:
                log.debug("no activity", partition=self._partition, reason=repr(error))
            await asyncio.sleep(PUBLISH_INTERVAL_S)

    def _activity(self, epoch: int, owner: str) -> PartitionActivity:
        live_tokens, facts, letters = self._sizes()
        now = int(time.time() * 1000)
        recent = [m for m in self._minutes if m.minute >= now // 60_000 - MINUTES_KEPT]
        return PartitionActivity(epoch, owner, now, live_tokens, facts, letters, recent)
