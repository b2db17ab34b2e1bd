"""The one thread that works with the state's file."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


class StateThread(Generic[S]):
    """A state, and the thread that it belongs to, which does one piece of work after the other.

    The loop goes on meanwhile: it answers PostgreSQL and probes of its health also during a long
    batch.
    """

    def __init__(self, open_state: Callable[[], S]) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="state")
        # SQLite's connection may be used in the thread alone that opened it.
        self._state = self._executor.submit(open_state)

    async def opened(self) -> S:
        """Return the state once it is open; raises what opening it raised."""
        return await asyncio.wrap_future(self._state)

    async def run(self, work: Callable[[S], T]) -> T:
        """Do the work in the thread; it goes on if the caller is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._do, work)

    def _do(self, work: Callable[[S], T]) -> T:
        return work(self._state.result())

    def stop(self) -> None:
        """Wait until the work under way has ended, and drop all that has not begun."""
        self._executor.shutdown(cancel_futures=True)
