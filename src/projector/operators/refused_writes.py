"""Reasons why Redis answers reads and refuses writes: no memory, or no disk."""

from contextlib import suppress
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from projector.clients import redis_batch

# A server frees some memory after each refused write.
FULL_SHARE: Final = 0.99


async def refused_writes(redis: Redis) -> str | None:
    """Return why all servers of Redis refuse writes; None if one may accept them.

    A reason needs a sign of refused writes: else a nearly full server that nobody writes to would
    be blamed. It is None too if this user may not ask, or a server of a cluster is away.
    """
    with suppress(RedisError):
        reasons = [_reason(server) for server in await redis_batch.info(redis, "default")]
        return reasons[0] if all(reasons) else None
    return None


def _reason(server: dict[str, Any]) -> str | None:
    if "errorstat_MISCONF" in server and "err" in (
        server.get("rdb_last_bgsave_status"), server.get("aof_last_write_status"),
    ):  # fmt: skip
        return "it cannot save to its disk"
    if _is_full(server):
        return f"its memory is full: {server['used_memory']} of {server['maxmemory']} bytes"
    return None


def _is_full(server: dict[str, Any]) -> bool:
    used, most = server.get("used_memory", 0), server.get("maxmemory", 0)
    enough = FULL_SHARE * most if "errorstat_OOM" in server else most
    policy = server.get("maxmemory_policy", "noeviction")
    return bool(most) and policy == "noeviction" and used >= enough
