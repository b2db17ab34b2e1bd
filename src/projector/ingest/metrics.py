"""Metrics of the ingest for Prometheus. No label holds a token or free text."""

from functools import cache
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Metric = TypeVar("Metric", Counter, Histogram)

PREFIX: Final = "projector_ingest_"
# Of a token that is missing or unknown.
NO_FEEDER: Final = "-"
# Some milliseconds when all is well; from 0.1 on requests that wait for the views.
BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

# Not the default registry: it also has the worker's metrics, all zero here.
REGISTRY: Final = CollectorRegistry()
REQUESTS: Final = Histogram(
    f"{PREFIX}request_seconds",
    "How long requests with events took, by the name of their token and the status of the answer; "
    "the count of each is that of requests.",
    ["token", "status"],
    buckets=BUCKETS_S,
    registry=REGISTRY,
)
EVENTS: Final = Counter(
    f"{PREFIX}events",
    "Events that Kafka has acknowledged, by the name of their token and their type.",
    ["token", "type"],
    registry=REGISTRY,
)
BYTES: Final = Counter(
    f"{PREFIX}bytes",
    "Bytes of the bodies of requests, by the name of their token.",
    ["token"],
    registry=REGISTRY,
)
REFUSED: Final = Counter(
    f"{PREFIX}refused_events",
    "Events that were refused, by the name of their token; `bad`: the worker would refuse them, "
    "`forbidden`: their token has no right to send them.",
    ["token", "reason"],
    registry=REGISTRY,
)
REQUESTS_IN_FLIGHT: Final = Gauge(
    f"{PREFIX}requests_in_flight", "Requests that are not answered yet.", registry=REGISTRY
)
BYTES_IN_FLIGHT: Final = Gauge(
    f"{PREFIX}bytes_in_flight",
    "Bytes that are reserved for the bodies of these requests.",
    registry=REGISTRY,
)
TOKENS_UNUSABLE: Final = Gauge(
    f"{PREFIX}tokens_unusable",
    "1 while PROJECTOR_INGEST_TOKENS_FILE cannot be used: every request gets 503.",
    registry=REGISTRY,
)
READY: Final = Gauge(
    f"{PREFIX}ready", "1 while Kafka answers and its topics can be used.", registry=REGISTRY
)


# `labels` takes as long as the decoding of an event, several times a request.
@cache
def labelled(metric: Metric, *labels: str) -> Metric:
    """Return the part of a metric with these labels."""
    return metric.labels(*labels)
