"""Metrics of the GitLab bridge for Prometheus. No label holds content of a row."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

# One small transaction takes some milliseconds, a snapshot of a million rows a minute.
STEP_BUCKETS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip

LAG: Final = Gauge(
    "projector_gitlab_lag_seconds",
    "Since the last look at GitLab's database that a heartbeat vouched for, or since the start.",
)
EVENTS: Final = Counter(
    "projector_gitlab_events", "Events that Kafka has acknowledged, by their type.", ["type"]
)
CHANGES: Final = Counter(
    "projector_gitlab_changes", "Rows that were read from GitLab's database.", ["table"]
)
SNAPSHOTS: Final = Counter(
    "projector_gitlab_snapshots", "Times that all tables were read anew, by why.", ["reason"]
)
MISSED: Final = Counter(
    "projector_gitlab_missed",
    "Events that only the self-check found. Each one is an error of the bridge.",
    ["kind"],
)
REFUSED_ROWS: Final = Counter(
    "projector_gitlab_refused_rows",
    "Rows that count as not there, since workers would refuse their event.",
    ["kind"],
)
UNSENT: Final = Gauge(
    "projector_gitlab_unsent_events", "Events that are remembered, and not acknowledged by Kafka."
)
BATCH: Final = Histogram(
    "projector_gitlab_batch_seconds",
    "Time that a step took: apply, finish, send, snapshot, check, poll_all, poll_jobs.",
    ["step"],
    buckets=STEP_BUCKETS_S,
)
UNREADABLE_TOKENS: Final = Counter(
    "projector_gitlab_unreadable_tokens",
    "Tokens of jobs that the key in PROJECTOR_GITLAB_DB_KEY_FILE does not decrypt.",
)
