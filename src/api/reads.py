"""Redis reads that share round trips: gets that arrive while others are under way go together."""

import asyncio
from typing import Final

from redis.asyncio import Redis

from api import metrics
from projector.environment import calls

Value = bytes | None

MAX_BATCHES: Final = 2
MAX_BATCH: Final = 256
MAX_PENDING: Final = 10_000


class OverloadedError(Exception):
    """More reads wait than this process may hold."""


class Reads:
    """`get` by key, many at a time."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._pending: list[tuple[str, asyncio.Future[Value]]] = []
        self._batches: set[asyncio.Task[None]] = set()

    async def get(self, key: str) -> Value:
        """The key's value; raises `RedisError`, `OSError` or `OverloadedError`."""
        if len(self._pending) >= MAX_PENDING:
            raise OverloadedError(f"{MAX_PENDING} reads are waiting already")
        result: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        self._pending.append((key, result))
        self._start()
        return await result

    def _start(self) -> None:
        while self._pending and len(self._batches) < MAX_BATCHES:
            batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
            task = asyncio.create_task(self._read(batch))
            self._batches.add(task)
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        self._start()

    async def _read(self, batch: list[tuple[str, asyncio.Future[Value]]]) -> None:
        metrics.read(len(batch))
        try:
            values = await calls.get_many(self._redis, [key for key, _ in batch])
        except Exception as error:  # whatever it is, every waiter must hear of it
            for _, result in batch:
                if not result.done():
                    result.set_exception(error)
            return
        for (_, result), value in zip(batch, values, strict=True):
            if result.done():
                continue
            if isinstance(value, Exception):
                result.set_exception(value)
            else:
                result.set_result(value)
