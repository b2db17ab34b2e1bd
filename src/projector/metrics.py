"""Metrics of the worker for Prometheus. No label holds a token or free text."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from projector.latency_buckets import LATENCY_BUCKETS_S

# A batch takes up to 500 deliveries, and in addition records that were read without Faust.
BATCH_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)

EVENTS: Final = Counter(
    "projector_events", "Records taken from Kafka, by what became of them.", ["topic", "outcome"]
)
VIEW_WRITES: Final = Counter(
    "projector_view_writes", "Views that Redis has acknowledged, by their status.", ["status"]
)
TOO_LARGE_VIEWS: Final = Counter(
    "projector_too_large_views",
    "Views that are a 503, as their list of agents takes more than PROJECTOR_MAX_VIEW_BYTES. The "
    "sweep counts each again.",
)
EVENT_TO_VIEW: Final = Histogram(
    "projector_event_to_view_seconds",
    "From a record's timestamp in Kafka until Redis has acknowledged its views. What a new owner "
    "reads before its first stamp is history and does not count.",
    buckets=LATENCY_BUCKETS_S,
)
REVOCATION: Final = Histogram(
    "projector_revocation_seconds",
    "The same of revocations alone: *.removed, job.finished, users who are not active.",
    buckets=LATENCY_BUCKETS_S,
)
BATCH_EVENTS: Final = Histogram(
    "projector_batch_events", "Events that were written together.", buckets=BATCH_BUCKETS
)
OWNED_PARTITIONS: Final = Gauge(
    "projector_owned_partitions", "Partitions that this worker has claimed and not given up."
)
LIVE_TOKENS: Final = Gauge(
    "projector_live_tokens",
    "Jobs that have started and neither finished nor expired, in a partition owned here.",
    ["partition"],
)
FACTS: Final = Gauge("projector_facts", "Facts of a partition owned here.", ["partition"])
STALENESS: Final = Gauge(
    "projector_staleness_seconds",
    "Since the time as of which this worker last stamped the partition fresh, or since it began.",
    ["partition"],
)
DISPUTED_LEADERS: Final = Gauge(
    "projector_disputed_leaders", "Partitions of topics whose leader brokers name differently."
)
GAPS_READ: Final = Counter(
    "projector_gaps_read", "Ranges that Faust skipped and that were read straight from Kafka."
)
STALLS_READ: Final = Counter(
    "projector_stalls_read", "Ranges that Faust did not bring in time, read straight from Kafka."
)
CLAIMS: Final = Counter(
    "projector_claims", "Partitions claimed, by where the facts came from.", ["facts"]
)
REFUSED_WRITES: Final = Counter(
    "projector_refused_writes", "Writes refused since Redis held another claim or revision."
)
CLOCK_JUMPS: Final = Counter(
    "projector_clock_jumps", "Jumps of a Redis server's clock, not believed until they have stood."
)
BULK_CHANGES: Final = Counter(
    "projector_bulk_changes",
    "Names in the overlay: what changes that may revoke more than 1,000 views are about.",
)
DRIFT_REPAIRED: Final = Counter(
    "projector_drift_repaired", "Records that the sweep found wrong and rewrote.", ["what"]
)
FOREIGN_TOKENS: Final = Counter(
    "projector_foreign_tokens",
    "Values not written: their token or job belongs to another partition.",
)
SOURCE_AGE: Final = Gauge(
    "projector_source_age_seconds",
    "Since the last heartbeat that counted of a source in PROJECTOR_SOURCES; +Inf before it.",
    ["source"],
)
HEARTBEATS_REFUSED: Final = Counter(
    "projector_heartbeats_refused",
    "Heartbeats that do not count, by why: unknown (a source that is not in PROJECTOR_SOURCES; its "
    "label is `other`), invalid, untrue (`after` names no earlier heartbeat of the source, or "
    "offsets are beyond the ends).",
    ["source", "reason"],
)
DEAD_LETTERS: Final = Counter("projector_dead_letters", "Dead letters that Kafka has.")
ALARMS: Final = Counter(
    "projector_alarms", "Findings that keep a partition stale until a person acts.", ["reason"]
)

# Present from the start: Prometheus counts no increase in a counter's first sample.
for _what in ("view", "orphan"):
    DRIFT_REPAIRED.labels(what=_what)
ALARMS.labels(reason="history lost")
