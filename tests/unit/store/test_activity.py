"""The activity that owners publish in Redis: small, mergeable, and never trusted."""

import pytest
from msgspec.structs import astuple

from projector.events.model import Topic
from projector.latency_buckets import LATENCY_BUCKETS_S
from projector.store import activity
from projector.store.activity import (
    MAX_BYTES,
    ActivityRates,
    MinuteActivity,
    PartitionActivity,
)

NOW = 1_800_000_030_000
MINUTE = NOW // 60_000


def counted(*seconds: float) -> list[int]:
    counts = [0] * (len(LATENCY_BUCKETS_S) + 1)
    for latency in seconds:
        counts[sum(bound < latency for bound in LATENCY_BUCKETS_S)] += 1
    return counts


def doing(*minutes: MinuteActivity) -> PartitionActivity:
    return PartitionActivity(1, "me", NOW, 2, 3, 0, list(minutes))


def test_what_is_written_is_read() -> None:
    written = doing(MinuteActivity(MINUTE, {Topic.MEMBERSHIP: 3}, {}, 2, counted(0.02), 0.02))
    assert activity.decode_activity(activity.encode_activity(written)) == written


def test_the_busiest_ten_minutes_fit_into_4_kib() -> None:
    busy = dict.fromkeys(Topic, 10**6)
    minutes = [
        MinuteActivity(MINUTE + n, busy, busy, 10**7, [10**6] * 14, 123.456) for n in range(11)
    ]
    said = PartitionActivity(
        2**48, "a-rather-long-host-name-12345-0123abcd", NOW, 10**7, 10**8, 0, minutes
    )
    assert len(activity.encode_activity(said)) < 4096


@pytest.mark.parametrize(
    "raw",
    [
        None, b"", b"{}", b"\xff", b"[1]", b"[" * 100_000,
        b" " * MAX_BYTES + activity.encode_activity(doing()),
        activity.encode_activity(doing()).replace(b'"at":', b'"at":-'),
        activity.encode_activity(doing(MinuteActivity(MINUTE, revocations=[1]))),
        activity.encode_activity(doing()).replace(b'"facts":3', b'"facts":"3"'),
    ],
)  # fmt: skip
def test_what_is_no_activity_counts_as_none(raw: bytes | None) -> None:
    assert activity.decode_activity(raw) is None


def test_rates_are_those_of_the_last_minutes_of_all() -> None:
    old = MinuteActivity(MINUTE - 5, {Topic.MEMBERSHIP: 1000}, {}, 1000, counted(50.0), 50.0)
    one = doing(old, MinuteActivity(MINUTE, {Topic.MEMBERSHIP: 200}, {Topic.MEMBERSHIP: 27}, 54))
    two = doing(MinuteActivity(MINUTE - 4, {Topic.MEMBERSHIP: 300, Topic.JOB_LIFECYCLE: 40}))
    # Half of the minute at hand, and four before it.
    assert astuple(activity.activity_rates([one, two], NOW))[:4] == (2.0, 0.1, 0.2, 0)


def test_minutes_of_a_clock_that_is_ahead_do_not_count() -> None:
    ahead = doing(MinuteActivity(MINUTE + 1, {Topic.MEMBERSHIP: 270}))
    assert activity.activity_rates([ahead], NOW).events == 0.0


def test_nothing_has_no_latency() -> None:
    nothing = ActivityRates(0.0, 0.0, 0.0, 0, None, None, None)
    assert activity.activity_rates([], NOW) == nothing


def test_latencies_of_several_partitions_are_merged() -> None:
    fast = doing(MinuteActivity(MINUTE, revocations=counted(*[0.02] * 98), slowest=0.02))
    slow = doing(MinuteActivity(MINUTE, revocations=counted(4.0, 4.0), slowest=4.0))
    found = activity.activity_rates([fast, slow], NOW)
    assert (found.revocations, found.revocation_max) == (100, 4.0)
    assert found.revocation_p50 is not None
    assert 0.01 < found.revocation_p50 <= 0.025
    assert found.revocation_p99 is not None
    assert 2.5 < found.revocation_p99 <= 4.0


def test_a_quantile_beyond_all_bounds_is_the_slowest() -> None:
    assert activity.quantile(counted(500.0), 0.99, 500.0) == 500.0
