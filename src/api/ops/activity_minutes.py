"""Activity of all owners in each of the last minutes, for the page's two curves."""

from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.store import activity, schema
from projector.store.activity import PartitionActivity

KEYS_PER_CALL: Final = 500


async def read_minutes(redis: Redis, partitions: int, now_ms: int) -> list[dict[str, Any]]:
    """Sum up the minutes that owners publish, oldest first; the last one is not over yet.

    Raises `RedisError`.
    """
    owners: list[PartitionActivity] = []
    for start in range(0, partitions, KEYS_PER_CALL):
        chunk = range(start, min(partitions, start + KEYS_PER_CALL))
        results = await redis_batch.execute(
            redis, [("GET", schema.activity_key(partition)) for partition in chunk]
        )
        for result in results:
            raw = result.value if isinstance(result.value, bytes) else None
            if decoded := activity.decode_activity(raw):
                owners.append(decoded)
    running = now_ms // 60_000
    return [_minute(owners, n) for n in range(running - activity.MINUTES_KEPT, running + 1)]


def _minute(owners: Sequence[PartitionActivity], number: int) -> dict[str, Any]:
    """Sum up one minute; `p50`, `p99` and `slowest` are seconds, None without revocations."""
    found = [minute for owner in owners for minute in owner.minutes if minute.minute == number]
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
