"""What the API counts, by its names in Prometheus. No label ever holds a token or a text.

With several processes, each keeps its counts in a file of the folder that prometheus_client takes
from its environment variable; whichever process is asked adds them all up.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Histogram

FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
PREFIX: Final = "projector_api_"
# A millisecond or two when all is well. 0.25 to 1: unknown tokens that wait for their proof.
LOOKUP_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
READ_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STATUSES: Final = (200, 401, 403, 503)

# Not the default registry: with one process the API shares that with the commands.
REGISTRY: Final = CollectorRegistry()
_LOOKUPS: Final = Histogram(
    "projector_api_lookup_seconds",
    "Lookups by the status of their answer, and how long each took.",
    ["status"],
    buckets=LOOKUP_BUCKETS_S,
    registry=REGISTRY,
)
_READS: Final = Histogram(
    "projector_api_read_keys",
    "Keys that were read from Redis in one call.",
    buckets=READ_BUCKETS,
    registry=REGISTRY,
)
_WAITING: Final = Gauge(
    "projector_api_misses_waiting",
    "Tokens that wait for the proof that they are not valid.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
