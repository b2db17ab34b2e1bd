"""One thread with an event loop, where traffic and observer go on while a test does its story."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

T = TypeVar("T")

END_S = 10.0


class BackgroundLoop:
    """Runs coroutines for tests that are plain functions."""

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
        """Do the work there; its result, or `TimeoutError` after so many seconds."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let the work go on until the end."""
        return self.run(self._start(work), END_S)

    def wait(self, task: asyncio.Task[None], timeout: float) -> None:
        """Wait until work that goes on has ended by itself."""
        self.run(_outcome(task), timeout)

    def raise_failures(self) -> None:
        """Raise what any of the work that goes on has failed with."""
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
