"""Portions of a long write or read, and their calls to Redis, two of them at a time."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

# While Redis runs one call, the next is computed and sent. More calls gain nothing.
CALLS_IN_FLIGHT: Final = 2
BYTES_PER_CALL: Final = 4 * 1024 * 1024


def chunks(items: Iterable[T], most: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield chunks of at most `most` items and, unless an item is larger, `BYTES_PER_CALL`."""
    chunk: list[T] = []
    total = 0
    for item in items:
        if chunk and (len(chunk) == most or total + size(item) > BYTES_PER_CALL):
            yield chunk
            chunk, total = [], 0
        chunk.append(item)
        total += size(item)
    if chunk:
        yield chunk


async def overlap(calls: Iterable[Awaitable[None]]) -> None:
    """Await all calls in this order, `CALLS_IN_FLIGHT` at a time; no call survives an error."""
    running: deque[asyncio.Future[None]] = deque()
    try:
        for call in calls:
            running.append(asyncio.ensure_future(call))
            # Lets the call be sent before the next one is computed. Twice, because
            # redis-py sends in a task of its own on Python 3.11.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if len(running) == CALLS_IN_FLIGHT:
                await running.popleft()
        while running:
            await running.popleft()
    finally:
        await asyncio.gather(*running, return_exceptions=True)
