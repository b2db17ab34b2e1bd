"""Redis reads that share round trips: those asked for while others are under way go together."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import structlog

from api import metrics

log = structlog.get_logger()

Value = bytes | None
# What is told of a read: the value, or why there is none.
Told = Callable[[Value | Exception], None]
# Reads many keys with one call: the values, and the error in place of one that alone failed.
Fetch = Callable[[Sequence[str]], Awaitable[Sequence[Value | Exception]]]

MAX_BATCHES: Final = 2
MAX_BATCH: Final = 256
MAX_PENDING: Final = 10_000
TIMEOUT_S: Final = 2.0
# A timer for each batch would cost a third of the batch.
WATCH_INTERVAL_S: Final = 0.25


class OverloadedError(Exception):
    """More reads wait than this process may hold."""


class ReadBatcher:
    """Reads by key, many at a time."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._pending: list[tuple[str, Told]] = []
        # Tasks that read until nothing is pending, and since when each is at its batch.
        self._readers: dict[asyncio.Task[None], float] = {}
        self._watched = False

    def ask(self, key: str, tell: Told) -> None:
        """Let `tell` have the value or the error: once, and not before this returns."""
        loop = asyncio.get_running_loop()
        if len(self._pending) >= MAX_PENDING:
            loop.call_soon(tell, OverloadedError(f"{MAX_PENDING} reads are waiting already"))
            return
        self._pending.append((key, tell))
        # Whoever asks before the reader begins is in its first batch.
        if len(self._pending) == 1:
            self._start()

    async def get(self, key: str) -> Value:
        """The key's value; raises `RedisError`, `OSError` or `OverloadedError`."""
        result: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        self.ask(key, partial(_resolve, result))
        return await result

    def _start(self) -> None:
        if len(self._readers) < MAX_BATCHES:
            task = asyncio.get_running_loop().create_task(self._read())
            self._readers[task] = time.monotonic()
            task.add_done_callback(self._end)
            self._watch()

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._readers[task]
        if self._pending:
            self._start()

    async def _read(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  it is one
        while self._pending:
            batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
            if self._pending:
                self._start()
            self._readers[task] = time.monotonic()
            await self._answer(batch)

    async def _answer(self, batch: list[tuple[str, Told]]) -> None:
        metrics.record_read(len(batch))
        try:
            values = await self._fetch([key for key, _ in batch])
        except asyncio.CancelledError:
            _tell(batch, [TimeoutError(f"no answer within {TIMEOUT_S:g} s")] * len(batch))
            raise
        except Exception as error:  # whatever it is, everyone must hear of it
            _tell(batch, [error] * len(batch))
        else:
            _tell(batch, values)

    def _watch(self) -> None:
        """Look now and then whether a batch takes too long, as long as any is read."""
        if not self._watched:
            self._watched = True
            asyncio.get_running_loop().call_later(WATCH_INTERVAL_S, self._look)

    def _look(self) -> None:
        self._watched = False
        for task, since in self._readers.items():
            if time.monotonic() - since > TIMEOUT_S:
                task.cancel()
        if self._readers:
            self._watch()


def _tell(batch: list[tuple[str, Told]], values: Sequence[Value | Exception]) -> None:
    for (_, tell), value in zip(batch, values, strict=True):
        try:
            tell(value)
        except Exception as error:  # one that fails must not keep the others waiting
            # Its text may hold anything, so only its type is logged.
            log.error("a lookup failed", error=type(error).__name__)  # noqa: TRY400


def _resolve(result: asyncio.Future[Value], value: Value | Exception) -> None:
    if result.done():
        return
    if isinstance(value, Exception):
        result.set_exception(value)
    else:
        result.set_result(value)
