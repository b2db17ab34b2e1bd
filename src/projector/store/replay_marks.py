"""Marks of replayed dead letters, with the places of their replays.

A lost mark has one effect: commands list the letter again.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from projector.store import schema

# Clocks of workers may differ so much: the first letter need not have the lowest timestamp.
SKEW_MS: Final = 10_000
_MARK: Final = re.compile(r"(\d{1,9}):(\d{1,18})@(\d{1,18})", re.ASCII)


class FirstLetter(NamedTuple):
    """The first letter that a partition of the topic still has; `timestamp` in ms."""

    offset: int
    timestamp: int


FirstLetters = Mapping[int, FirstLetter]


def mark_of(partition: int, offset: int, timestamp: int) -> str:
    """Name a letter: another topic of the same name has other times."""
    return f"{partition}:{offset}@{timestamp}"


def is_present(mark: str, first: FirstLetters) -> bool:
    """Return whether the topic still has the letter.

    If not, it has no longer the offset, or it was created anew since.
    """
    found = _MARK.fullmatch(mark)
    if found is None or (begin := first.get(int(found[1]))) is None:
        return False
    return int(found[2]) >= begin.offset and int(found[3]) >= begin.timestamp - SKEW_MS


async def remove_marks(redis: Redis, first: FirstLetters) -> None:
    """Remove the marks of letters that the topic has no longer; raises `RedisError`."""
    if gone := [mark for mark in await read_marks(redis) if not is_present(mark, first)]:
        await redis.hdel(schema.REPLAYED, *gone)


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
