"""Measurements of one partition's owner: Prometheus, traces, and activity for operators."""

import asyncio
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Final, NamedTuple, NoReturn, Self

import structlog
from prometheus_client import Counter as PrometheusCounter

from projector import metrics
from projector.clients.retry import OUTAGES, outage_of
from projector.events.model import Event, KafkaRecord, Topic
from projector.latency_buckets import LATENCY_BUCKETS_S
from projector.store import activity
from projector.store.activity import (
    MAX_OUTAGE,
    MINUTES_KEPT,
    MinuteActivity,
    PartitionActivity,
    add_minutes,
)
from projector.store.partition_store import PartitionStore
from projector.tracing import EventSpans
from projector.worker.timing import Timing

log = structlog.get_logger()

# After a long pause one batch may be larger; a sample of its latencies is enough.
MAX_MEASURED: Final = 100_000

# Seconds. Each event or sweep finds the same lists too large again.
REPORT_LARGE_AGAIN_S: Final = 60.0

# To find a label's child costs more than to count.
_APPLIED: Final = {t: metrics.EVENTS.labels(topic=t, outcome="applied") for t in Topic}
_REFUSED: Final = {t: metrics.EVENTS.labels(topic=t, outcome="refused") for t in Topic}
_REPEATED: Final = {t: metrics.EVENTS.labels(topic=t, outcome="repeated") for t in Topic}


@cache
def _writes(status: int) -> PrometheusCounter:
    return metrics.VIEW_WRITES.labels(status=int(status))


class Sizes(NamedTuple):
    """Numbers of what an owner has in memory: live tokens, facts, dead letters not in Kafka."""

    live_tokens: int
    facts: int
    letters: int


class OwnerInstruments:
    """One partition's measurements; Prometheus has its gauges while `with` lasts."""

    def __init__(
        self,
        partition: int,
        sizes: Callable[[], Sizes],
        sources: Mapping[str, int | None] = MappingProxyType({}),
    ) -> None:
        self._partition = partition
        self._sizes = sizes
        self._sources = sources
        self._spans = EventSpans()
        self._claimed = False
        self._fresh_at = time.monotonic()
        self._report_large_at = 0.0
        # Whether there was a stamp, or silence, since the activity was last looked at.
        self._is_stamped = False
        self._report_at = 0.0
        # Records by topic and whether they were good, not yet added to the counters.
        self._taken: Counter[tuple[Topic, bool]] = Counter()
        # Timestamps (ms) of events that are applied and whose views Redis has not acknowledged.
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
        """Count the partition as owned, once."""
        metrics.OWNED_PARTITIONS.inc(not self._claimed)
        self._claimed = True

    def record_repeated(self, record: KafkaRecord) -> None:
        """Count a delivery that was applied before."""
        _REPEATED[record.topic].inc()

    def record_applied(
        self, record: KafkaRecord, event: Event | None, *, good: bool, live: bool
    ) -> None:
        """Measure one record; `event` was applied if it is `good`.

        Latencies count only if it is `live`: events from before the claim would measure how long
        the partition had no owner.
        """
        self._spans.applied(record, refused=not good)
        self._taken[record.topic, good] += 1
        if live and event and len(self._events) < MAX_MEASURED:
            self._events.append(record.timestamp)
            if event.revokes:
                self._revocations.append(record.timestamp)

    def record_written(self, statuses: Counter[int]) -> None:
        """Count written views by status; Redis has now the views of all records so far."""
        self._spans.written()
        self._count_taken()
        for status, count in statuses.items():
            _writes(status).inc(count)
        if views := statuses.total():
            self._minute().views += views
        if self._events:
            metrics.BATCH_EVENTS.observe(len(self._events))
            self._observe_latencies(time.time() * 1000)

    def record_too_large(self, count: int, project: int) -> None:
        """Count views that are refused as too large; log it once a minute, with one project."""
        if not count:
            return
        metrics.TOO_LARGE_VIEWS.inc(count)
        if time.monotonic() >= self._report_large_at:
            self._report_large_at = time.monotonic() + REPORT_LARGE_AGAIN_S
            log.warning(
                "lists of agents are too large, their tokens get 503", partition=self._partition,
                views=count, project=project, setting="PROJECTOR_MAX_VIEW_BYTES",
                advice="see `projector explain` for a job of the project",
            )  # fmt: skip

    def _count_taken(self) -> None:
        """Count once a batch: to count each record costs more than to decode it."""
        for (topic, good), count in self._taken.items():
            (_APPLIED if good else _REFUSED)[topic].inc(count)
            counts = self._minute().applied if good else self._minute().refused
            counts[topic] = counts.get(topic, 0) + count
        self._taken.clear()

    def _observe_latencies(self, now: float) -> None:
        """Observe latencies from the broker's clock to this worker's, which may be behind."""
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

    def record_stamp(self, asked_at: float) -> None:
        """Note a stamp; `asked_at` is the time of its probe in seconds of the loop's clock."""
        self._fresh_at = time.monotonic() - (asyncio.get_running_loop().time() - asked_at)
        self._is_stamped = True

    def record_silence(self) -> None:
        """Note that a stamp waits for a source: operators see for how long."""
        self._is_stamped = True

    async def publish(self, store: PartitionStore, timing: Timing) -> NoReturn:
        """Write the activity to Redis until cancelled: once an interval, and when stamps stay away.

        It is not retried, and does not run in the owner's loop, so it never delays a stamp.
        """
        is_first = True
        while True:
            is_stamped = await self._next_report(timing)
            if not store.version.epoch:
                continue  # Another owner's report would be overwritten.
            try:
                # A deposed owner stamps no more; its successor's report would be overwritten.
                if not is_stamped and await store.is_claimed_by_another():
                    continue
                if is_first:
                    self._take_over(activity.decode_activity(await store.read_activity()))
                    is_first = False
                found = self._activity(store.version.epoch, store.owner, unstamped=not is_stamped)
                await store.publish(activity.encode_activity(found))
            except OUTAGES as error:
                log.debug("no activity", partition=self._partition, reason=repr(error))

    async def _next_report(self, timing: Timing) -> bool:
        """Wait until a report is due; return whether there was a stamp or silence in time."""
        while True:
            await asyncio.sleep(timing.unstamped_s)
            is_stamped, self._is_stamped = self._is_stamped, False
            now = time.monotonic()
            if not is_stamped or now >= self._report_at:
                self._report_at = now + timing.publish_interval_s
                return is_stamped

    def _outage(self) -> str | None:
        found = outage_of(self._partition)
        return found and found[:MAX_OUTAGE]

    def _take_over(self, former: PartitionActivity | None) -> None:
        """Continue the former owner's minutes, or the rates would fall when owners change."""
        own = list(self._minutes)
        self._minutes.clear()
        self._minutes.extend(former.minutes if former else ())
        for minute in own:
            if self._minutes and self._minutes[-1].minute >= minute.minute:
                self._minutes.append(add_minutes(self._minutes.pop(), minute))
            else:
                self._minutes.append(minute)

    def _activity(self, epoch: int, owner: str, *, unstamped: bool) -> PartitionActivity:
        live_tokens, facts, letters = self._sizes()
        now = int(time.time() * 1000)
        recent = [m for m in self._minutes if m.minute >= now // 60_000 - MINUTES_KEPT]
        return PartitionActivity(
            epoch, owner, now, live_tokens, facts, letters, recent, dict(self._sources), unstamped,
            self._outage(),
        )  # fmt: skip
