"""The facts of one partition's checkpoint, read in parts by its new owner."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from projector.errors import IncompleteCheckpointError

# Larger parts take fewer round trips. One of these blocks Redis, and so lookups, for some 1 ms.
FIELDS_PER_READ: Final = 4000


async def scan_facts(
    redis: Redis, facts: str, refuse: Callable[[], None]
) -> AsyncGenerator[dict[bytes, bytes], None]:
    """Yield the facts of the hash in parts; parts may repeat facts. Calls `refuse` for each part.

    Redis reads the next part while the caller uses this one. Raises `IncompleteCheckpointError` if
    the key is not a hash.
    """
    reading: asyncio.Task[Any] | None = _start_read(redis, facts, 0)
    try:
        while reading:
            cursor, fields = await _part(reading, facts)
            refuse()
            reading = _start_read(redis, facts, cursor) if cursor else None
            # Lets the request leave before the caller uses the part. Twice, because redis-py
            # sends in a task of its own on Python 3.11.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            yield fields
    finally:
        if reading:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def _start_read(redis: Redis, facts: str, cursor: int) -> asyncio.Task[Any]:
    scan: Any = redis.hscan(facts, cursor, count=FIELDS_PER_READ)
    return asyncio.create_task(scan)


async def _part(reading: asyncio.Task[Any], facts: str) -> Any:
    try:
        return await reading
    except ResponseError as error:
        if is_malformed(error):
            raise IncompleteCheckpointError(f"{facts} is not a hash") from None
        raise


def is_malformed(error: Exception) -> bool:
    """Whether a key is of another type than it must be, or holds another text than a number."""
    return isinstance(error, ValueError) or str(error).startswith("WRONGTYPE")
