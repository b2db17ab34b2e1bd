"""What a partition's owner did in the last minutes, as it stands in Redis for operators.

Owners write it, `projector status` and the API's pages read it. No answer depends on it: it is
neither fenced nor checked, and whoever reads it takes it for hearsay.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from projector.events.model import Topic
from projector.metrics import LATENCY_BUCKETS_S

MINUTES_KEPT: Final = 10
# Ours are below 4 KiB; what is much larger, somebody else wrote.
MAX_BYTES: Final = 64 * 1024

Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0)]
Counts = Annotated[
    list[Count],
    Meta(min_length=len(LATENCY_BUCKETS_S) + 1, max_length=len(LATENCY_BUCKETS_S) + 1),
]


def _no_latencies() -> list[int]:
    return [0] * (len(LATENCY_BUCKETS_S) + 1)


class MinuteActivity(Struct):
    """One minute, numbered from 1970. `slowest` is the slowest revocation's latency in seconds.

    `revocations` counts them by `LATENCY_BUCKETS_S`, the last are those beyond.
    """

    minute: Count
    applied: dict[Topic, Count] = {}
    refused: dict[Topic, Count] = {}
    views: Count = 0
    revocations: Counts = msgspec.field(default_factory=_no_latencies)
    slowest: Seconds = 0.0


class PartitionActivity(Struct):
    """What the owner of one partition holds and did; `at` is its clock in milliseconds.

    `letters` are dead letters that Kafka has not acknowledged yet.
    """

    epoch: Count
    owner: str
    at: Count
    live_tokens: Count
    facts: Count
    letters: Count
    minutes: Annotated[list[MinuteActivity], Meta(max_length=2 * MINUTES_KEPT)]


class ActivityRates(Struct, frozen=True):
    """Events and views per second in some minutes, of one partition or of several.

    The latencies of revocations are in seconds, None where there were none. The JSON is public, as
    a part of `projector status --json`.
    """

    events: float
    refused: float
    views: float
    revocations: int
    revocation_p50: float | None
    revocation_p99: float | None
    revocation_max: float | None


def encode_activity(activity: PartitionActivity) -> bytes:
    """The stored bytes."""
    return msgspec.json.encode(activity)


def decode_activity(raw: bytes | None) -> PartitionActivity | None:
    """Read the stored bytes; None where there are none, or they are no activity."""
    if raw is None or len(raw) > MAX_BYTES:
        return None
    try:
        return msgspec.json.decode(raw, type=PartitionActivity)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def activity_rates(
    activities: Iterable[PartitionActivity], now: int, minutes: int = 5
) -> ActivityRates:
    """The means of the minute that `now` (ms) is in and of those before it, `minutes` in all."""
    first = now // 60_000 - minutes + 1
    seconds = max(1.0, now / 1000 - first * 60)
    taken = [m for a in activities for m in a.minutes if first <= m.minute <= now // 60_000]
    buckets = [sum(counts) for counts in zip(*(m.revocations for m in taken), strict=True)]
    slowest = max((minute.slowest for minute in taken), default=0.0)
    p50, p99 = (quantile(buckets, q, slowest) for q in (0.5, 0.99))
    return ActivityRates(
        sum(sum(minute.applied.values()) for minute in taken) / seconds,
        sum(sum(minute.refused.values()) for minute in taken) / seconds,
        sum(minute.views for minute in taken) / seconds,
        sum(buckets),
        p50,
        p99,
        slowest if sum(buckets) else None,
    )


def quantile(buckets: Sequence[int], q: float, slowest: float) -> float | None:
    """The latency that a share `q` of those counted in `buckets` does not exceed.

    As Prometheus estimates it: evenly spread within a bucket. None where nothing is counted.
    """
    rank = q * sum(buckets)
    if not rank:
        return None
    below, lower = 0, 0.0
    for count, upper in zip(buckets, LATENCY_BUCKETS_S, strict=False):
        if below + count >= rank:
            return min(slowest, lower + (upper - lower) * (rank - below) / count)
        below, lower = below + count, upper
    return slowest
