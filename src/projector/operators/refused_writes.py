"""Reasons why Redis answers reads and refuses writes: no memory, or no disk."""

from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from projector.clients import redis_batch

# A server frees some memory after each refused write.
FULL_SHARE: Final = 0.99


async def refused_writes(redis: Redis) -> str | None:
    """Return why a server refuses writes; None if none does, or if this user may not ask.

    A server may be nearly full and accept writes, so ask only where none come through.
    """
    try:
        await redis_batch.ping(redis)
        full = next(filter(_is_full, await redis_batch.info(redis, "memory")), None)
    except ResponseError as error:
        return "it cannot save to its disk" if str(error).startswith("MISCONF") else None
    if full is None:
        return None
    return f"its memory is full: {full['used_memory']} of {full['maxmemory']} bytes"


def _is_full(memory: dict[str, Any]) -> bool:
    used, most = memory.get("used_memory", 0), memory.get("maxmemory", 0)
    policy = memory.get("maxmemory_policy", "noeviction")
    return bool(most) and policy == "noeviction" and used >= FULL_SHARE * most
