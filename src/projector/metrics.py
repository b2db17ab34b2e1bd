"""What the worker counts, by its names in Prometheus. No label ever holds a token or a text."""

from typing import Final

from prometheus_client import Counter

EVENTS: Final = Counter(
    "projector_events", "Records taken from Kafka, by what became of them.", ["topic", "outcome"]
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
DRIFT_REPAIRED: Final = Counter(
    "projector_drift_repaired", "Records that the sweep found wrong and wrote anew.", ["what"]
)
FOREIGN_TOKENS: Final = Counter(
    "projector_foreign_tokens", "Views not written: their token belongs to another partition."
)
DEAD_LETTERS: Final = Counter("projector_dead_letters", "Dead letters that Kafka has.")
ALARMS: Final = Counter(
    "projector_alarms", "Findings that keep a partition stale until a person acts.", ["reason"]
)
