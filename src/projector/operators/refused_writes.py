"""Reasons why Redis answers reads and refuses writes: no memory, or no disk."""

from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from projector.clients import redis_batch

# A server frees some memory after each refused write.
FULL_SHARE: Final = 0.99


async def refused_writes(redis: Redis) -> str | None:
    """Return why a server refuses writes; None if none does, or if this user may not ask."""
    try:
        memories = await redis_batch.info(redis, "memory")
        disks = await redis_batch.info(redis, "persistence")
    except ResponseError:
        return None
    if full := next(filter(_is_full, memories), None):
        return f"its memory is full: {full['used_memory']} of {full['maxmemory']} bytes are used"
    return "it cannot save to its disk" if any(map(_cannot_save, disks)) else None


def _is_full(memory: dict[str, Any]) -> bool:
    used, most = memory.get("used_memory", 0), memory.get("maxmemory", 0)
    policy = memory.get("maxmemory_policy", "noeviction")
    return bool(most) and policy == "noeviction" and used >= FULL_SHARE * most


def _cannot_save(persistence: dict[str, Any]) -> bool:
    states = (persistence.get(f"{kind}_status") for kind in ("rdb_last_bgsave", "aof_last_write"))
    return "err" in states
