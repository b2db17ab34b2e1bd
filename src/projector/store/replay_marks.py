"""Marks of replayed dead letters, with the places of their replays.

A lost mark has one effect: commands list the letter again.
"""

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from projector.store import schema


async def write_marks(redis: Redis, places: Mapping[str, str]) -> None:
    """Store the place of each letter's replay, by the letter's mark; raises `RedisError`."""
    fields: dict[Any, Any] = dict(places)
    await redis.hset(schema.REPLAYED, mapping=fields)


async def read_marks(redis: Redis) -> dict[str, str]:
    """Read the places of all replays, by the letters' marks; raises `RedisError`."""
    found: dict[Any, Any] = await redis.hgetall(schema.REPLAYED)
    return {
        mark.decode(errors="replace"): at.decode(errors="replace") for mark, at in found.items()
    }
