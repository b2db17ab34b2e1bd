"""What all owners together did in each of the last minutes, for the page's two curves."""

from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.store import activity, schema
from projector.store.activity import PartitionActivity

KEYS_PER_CALL: Final = 500


async def read(redis: Redis, partitions: int, now: int) -> list[dict[str, Any]]:
    """The minutes that owners keep, the oldest first; the last one, of `now` (ms), still runs.

    Raises `RedisError`.
    """
    known: list[PartitionActivity] = []
    for start in range(0, partitions, KEYS_PER_CALL):
        chunk = range(start, min(partitions, start + KEYS_PER_CALL))
        found = await redis_batch.execute(
            redis, [("GET", schema.activity_key(each)) for each in chunk]
        )
        raws = (each.value for each in found)
        decoded = (
            activity.decode_activity(raw if isinstance(raw, bytes) else None) for raw in raws
        )
        known += [one for one in decoded if one]
    running = now // 60_000
    return [_minute(known, n) for n in range(running - activity.MINUTES_KEPT, running + 1)]


def _minute(known: Sequence[PartitionActivity], number: int) -> dict[str, Any]:
    """`p50`, `p99` and `slowest` are revocations' latencies in seconds, None if there were none."""
    found = [minute for one in known for minute in one.minutes if minute.minute == number]
    buckets = [sum(counts) for counts in zip(*(m.revocations for m in found), strict=True)]
    slowest = max((minute.slowest for minute in found), default=0.0)
    return {
        "minute": number,
        "events": sum(sum(minute.applied.values()) for minute in found),
        "revocations": sum(buckets),
        "p50": activity.quantile(buckets, 0.5, slowest),
        "p99": activity.quantile(buckets, 0.99, slowest),
        "slowest": slowest if sum(buckets) else None,
    }
