"""An event loop in a thread of its own, for work that must not delay lookups; cached calls."""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from projector.process import refuse_stray_cancellation

T = TypeVar("T")

# The share of one core that a repeated computation may take. A result is kept longer for it, but
# not for longer than `most`: a computation may only have waited for a server.
SHARE: Final = 0.2
# A server that was away may be back.
FAILED_KEPT_S: Final = 0.5
# Bounds the wait for Kafka's client, which a hanging broker would otherwise delay for minutes.
CLOSE_S: Final = 1.0


class BackgroundLoop:
    """Runs coroutines in its thread. What they share, a Redis client, must be created there."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """Return the coroutine's result; raises `TimeoutError` after so many seconds."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._serve, args=(self._loop,), daemon=True).start()
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(_within(work, seconds), self._loop)
        )

    async def close(self, last: Coroutine[Any, Any, None], seconds: float) -> None:
        """Run the last coroutine, if any ran before, and end the thread."""
        if self._loop is None:
            last.close()
            return
        try:
            await self.run(last, seconds)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()
        if tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks, timeout=CLOSE_S))
        loop.close()


async def _within(work: Awaitable[T], seconds: float) -> T:
    async with asyncio.timeout(seconds):
        return await refuse_stray_cancellation(work)


class CachedCall(Generic[T]):
    """A result that is computed once for all callers, and kept for some seconds.

    One that took long to compute is kept for longer, up to `most` seconds; an error is not.
    """

    def __init__(
        self,
        compute: Callable[[], Coroutine[Any, Any, T]],
        seconds: float,
        most: float = math.inf,
    ) -> None:
        self._compute = compute
        self._seconds = seconds
        self._most = most
        self._task: asyncio.Task[T] | None = None
        self._good_until = 0.0

    async def get(self) -> T:
        """Return the latest result; raises the errors of the computation."""
        if self._task is None or (self._task.done() and time.monotonic() > self._good_until):
            self._task = asyncio.create_task(self._compute_once())
        # The first caller may be cancelled; others still wait for the result.
        return await asyncio.shield(self._task)

    async def _compute_once(self) -> T:
        began = time.monotonic()
        kept = FAILED_KEPT_S
        try:
            found = await self._compute()
            kept = max(self._seconds, min((time.monotonic() - began) / SHARE, self._most))
            return found
        finally:
            self._good_until = time.monotonic() + kept
