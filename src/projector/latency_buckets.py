"""The bounds of the buckets in which latencies are counted."""

from typing import Final

# About 10 ms when all is well. 0.25: one probe interval; 2.5: a delivery that stalled and was read
# without Faust; 10: the default bound on staleness; more: outages.
LATENCY_BUCKETS_S: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
