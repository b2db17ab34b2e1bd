"""A thread with an event loop that runs traffic, observer and proxies while a test runs."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

T = TypeVar("T")

END_S = 10.0


class BackgroundLoop:
    """Runs coroutines for tests that are not coroutines themselves."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="background")
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.run(self._cancel_all(), END_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_S)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        """Run a coroutine to its end; raise `TimeoutError` after `timeout` seconds."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a coroutine as a task that runs until the block ends."""
        return self.run(self._start(work), END_S)

    def wait(self, task: asyncio.Task[None], timeout: float) -> None:
        """Wait until a task has ended by itself."""
        self.run(_outcome(task), timeout)

    def raise_failures(self) -> None:
        """Raise the error of a task that has failed."""
        for task in list(self._tasks):
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    async def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        return task

    async def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _outcome(task: asyncio.Task[None]) -> None:
    await task
