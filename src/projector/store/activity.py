"""The activity of a partition's owner in the last minutes, in Redis for operators.

Owners write it; `projector status` and the operators' page read it. Best effort: neither fenced
nor checked. No answer may depend on it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from projector.events.heartbeats import SourceName
from projector.events.model import Topic
from projector.latency_buckets import LATENCY_BUCKETS_S

MINUTES_KEPT: Final = 10
RATED_MINUTES: Final = 5
# Survives a hand-over; expires soon after the last owner is gone.
KEPT_S: Final = 300
# An owner's activity is below 4 KiB. A much larger value is another program's.
MAX_BYTES: Final = 64 * 1024

MAX_OUTAGE: Final = 300

Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0)]
Counts = Annotated[
    list[Count],
    Meta(min_length=len(LATENCY_BUCKETS_S) + 1, max_length=len(LATENCY_BUCKETS_S) + 1),
]


def _no_latencies() -> list[int]:
    return [0] * (len(LATENCY_BUCKETS_S) + 1)


class MinuteActivity(Struct):
    """One minute; `minute` counts from 1970.

    `revocations` counts revocations by the bounds of `LATENCY_BUCKETS_S`; the last count is of
    those above. `slowest` is the slowest revocation's latency in seconds.
    """

    minute: Count
    applied: dict[Topic, Count] = {}
    refused: dict[Topic, Count] = {}
    views: Count = 0
    revocations: Counts = msgspec.field(default_factory=_no_latencies)
    slowest: Seconds = 0.0


class PartitionActivity(Struct):
    """The activity of one partition's owner; `at` is its clock in milliseconds.

    `letters` counts dead letters that Kafka has not acknowledged yet. `sources` has that clock at
    the last heartbeat of each named source that counted for the partition, None before the first.
    `unstamped` is true when there was no stamp for a second. `outage` is the server that the owner
    waits for, a colon and the reason; an owner whose dead letters are refused stamps all the same.
    """

    epoch: Count
    owner: str
    at: Count
    live_tokens: Count
    facts: Count
    letters: Count
    minutes: Annotated[list[MinuteActivity], Meta(max_length=2 * MINUTES_KEPT)]
    sources: dict[SourceName, Count | None] = {}
    unstamped: bool = False
    outage: Annotated[str, Meta(max_length=MAX_OUTAGE)] | None = None


class ActivityRates(Struct, frozen=True):
    """Means over some minutes of one or more partitions: events and views per second.

    The latencies of revocations are in seconds; None without any. The JSON is public, as a part of
    `projector status --json`.
    """

    events: float
    refused: float
    views: float
    revocations: int
    revocation_p50: float | None
    revocation_p99: float | None
    revocation_max: float | None


def add_minutes(first: MinuteActivity, second: MinuteActivity) -> MinuteActivity:
    """Add the same minute of two owners, named as the first names it."""
    return MinuteActivity(
        first.minute,
        dict(Counter(first.applied) + Counter(second.applied)),
        dict(Counter(first.refused) + Counter(second.refused)),
        first.views + second.views,
        [sum(counts) for counts in zip(first.revocations, second.revocations, strict=True)],
        max(first.slowest, second.slowest),
    )


def encode_activity(activity: PartitionActivity) -> bytes:
    """Encode an activity for Redis."""
    return msgspec.json.encode(activity)


def decode_activity(raw: bytes | None) -> PartitionActivity | None:
    """Decode a stored activity; None if it is missing or malformed."""
    if raw is None or len(raw) > MAX_BYTES:
        return None
    try:
        return msgspec.json.decode(raw, type=PartitionActivity)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def activity_rates(activities: Iterable[PartitionActivity], now: int) -> ActivityRates:
    """Compute the means over the last `RATED_MINUTES`, the one of `now` (ms) included."""
    first = now // 60_000 - RATED_MINUTES + 1
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
    """Estimate the `q` quantile of the latencies in `buckets`; None if they are empty.

    Like Prometheus: evenly spread within a bucket.
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
