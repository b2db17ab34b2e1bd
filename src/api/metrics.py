"""Metrics of the API for Prometheus. No label holds a token or free text.

The processes of one `projector api` share a folder in which each keeps a file of its counts. The
process that is scraped adds them up (prometheus_client's multiprocess mode).
"""

import asyncio
import os
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Final, NoReturn

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from api.freshness import Freshness

PREFIX: Final = "projector_api_"
# prometheus_client reads the folder from it; the command that starts the processes sets it.
FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
# Some milliseconds when all is well; from 0.25 on unknown tokens that wait for their proof.
LOOKUP_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
# Up to the most keys of one call.
READ_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STATUSES: Final = (200, 401, 403, 503)
FLUSH_INTERVAL_S: Final = 0.25
_LIVE: Final = re.compile(r"gauge_live[a-z]+_(\d+)\.db")

# Not the default registry: it also has the worker's metrics, all zero here.
REGISTRY: Final = CollectorRegistry()
LOOKUPS: Final = Histogram(
    f"{PREFIX}lookup_seconds",
    "How long lookups took, by the status of the answer; the count of each is that of lookups.",
    ["status"],
    buckets=LOOKUP_BUCKETS_S,
    registry=REGISTRY,
)
READS: Final = Histogram(
    f"{PREFIX}read_keys",
    "Keys that one call to Redis read: lookups that arrive together share their reads.",
    buckets=READ_BUCKETS,
    registry=REGISTRY,
)
MISSES_WAITING: Final = Gauge(
    f"{PREFIX}misses_waiting",
    "Tokens that wait for the proof that they are not valid.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
# The results of signed job tokens. All but `known` and `verified` are refused; those of
# `UNVERIFIED_RESULTS` with 503, the others with 401.
UNVERIFIED_RESULTS: Final = ("unknown key", "keys unreadable", "no clock")
SIGNED_RESULTS: Final = (
    "known", "verified", "bad signature", "expired", "not yet valid", "wrong audience",
    "wrong issuer", "wrong algorithm", "no key id", "malformed", "malformed claims",
    "malformed subject", *UNVERIFIED_RESULTS,
)  # fmt: skip
SIGNED_TOKENS: Final = Counter(
    f"{PREFIX}signed_tokens",
    "Lookups by a signed job token, by the result of its check; `known`: verified before.",
    ["result"],
    registry=REGISTRY,
)
KEYS_UNREADABLE: Final = Gauge(
    f"{PREFIX}job_token_keys_unreadable",
    "1 while a file of PROJECTOR_JOB_TOKEN_KEYS cannot be used: signed job tokens get 503.",
    registry=REGISTRY,
    multiprocess_mode="livemax",
)


class HistogramBuffer:
    """Counts values for a histogram until `flush` adds them.

    `Histogram.observe` costs up to 2 us. Twice a lookup, that is 5 % of the lookups at 64
    connections, and 12 % more CPU at half of saturation.
    """

    def __init__(self, histogram: Histogram, bounds: Sequence[float]) -> None:
        self._histogram = histogram
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def flush(self) -> None:
        """Add the counts to the histogram, which itself takes one value at a time."""
        for bucket, count in zip(self._histogram._buckets, self._counts, strict=True):
            if count:
                bucket.inc(count)
        self._histogram._sum.inc(self._sum)
        self._counts, self._sum = [0] * len(self._counts), 0.0


_LOOKUPS: Final = {s: HistogramBuffer(LOOKUPS.labels(status=s), LOOKUP_BUCKETS_S) for s in STATUSES}
_READS: Final = HistogramBuffer(READS, READ_BUCKETS)
# Present from the start: Prometheus counts no increase in a counter's first sample.
_SIGNED_LABELS: Final = {result: SIGNED_TOKENS.labels(result) for result in SIGNED_RESULTS}
# Checks since the last flush; a call for each would cost a lookup more than the check.
signed: Final = dict.fromkeys(SIGNED_RESULTS, 0)


def record_lookup(status: int, seconds: float) -> None:
    """Count an answered lookup."""
    _LOOKUPS[status].observe(seconds)


def record_read(keys: int) -> None:
    """Count one call to Redis and the keys that it read."""
    _READS.observe(keys)


def flush() -> None:
    """Add all counts to their metrics; in the event loop, like the counting."""
    for result, count in signed.items():
        if count:
            _SIGNED_LABELS[result].inc(count)
            signed[result] = 0
    for buffer in (*_LOOKUPS.values(), _READS):
        buffer.flush()


async def flush_regularly() -> NoReturn:
    """Flush every 250 ms, so that other processes and the operators' page see recent counts."""
    while True:
        await asyncio.sleep(FLUSH_INTERVAL_S)
        flush()


class FreshnessCollector(Collector):
    """Collects the state of Redis and of the partitions as of the scrape."""

    def __init__(self, freshness: Freshness) -> None:
        self._freshness = freshness

    def collect(self) -> Iterator[Metric]:
        """Yield whether Redis answers, and each partition's age; +Inf if it never was fresh."""
        yield GaugeMetricFamily(
            f"{PREFIX}redis_reachable",
            "1 if the latest poll of Redis succeeded, else 0.",
            value=int(self._freshness.reachable),
        )
        staleness = GaugeMetricFamily(
            f"{PREFIX}staleness_seconds",
            "Since the partition was last known fresh; +Inf if it never was.",
            labels=["partition"],
        )
        for partition, age in enumerate(self._freshness.ages()):
            staleness.add_metric([str(partition)], inf if age is None else age)
        yield staleness


class MultiprocessCollector(Collector):
    """Adds up the counts of all processes that share a folder, and drops those that ended."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._all = MultiProcessCollector(None, folder)  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        """Yield the sums of the API's metrics alone; these processes import the worker's too."""
        for path in Path(self._folder).iterdir():
            live = _LIVE.fullmatch(path.name)
            if live and not _is_running(int(live[1])):
                mark_process_dead(int(live[1]), self._folder)  # type: ignore[no-untyped-call]
        families = self._all.collect()  # type: ignore[no-untyped-call]
        yield from (family for family in families if family.name.startswith(PREFIX))


def exposition(freshness: Freshness) -> bytes:
    """Return all flushed metrics in Prometheus' format; slow, so not for the event loop."""
    seen = CollectorRegistry()
    seen.register(FreshnessCollector(freshness))
    return generate_latest(seen) + generate_latest(_counted())


def lookups() -> dict[str, int]:
    """Return the number of flushed lookups by status; slow, so not for the event loop."""
    samples = (sample for family in _counted().collect() for sample in family.samples)
    name = f"{PREFIX}lookup_seconds_count"
    return {s.labels["status"]: int(s.value) for s in samples if s.name == name}


def _counted() -> CollectorRegistry:
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return REGISTRY
    together = CollectorRegistry()
    together.register(MultiprocessCollector(folder))
    return together


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
