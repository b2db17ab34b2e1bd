"""An object that belongs to one thread, such as a connection of SQLite, for the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


class OwnThread(Generic[S]):
    """An object, and its thread, which does one piece of work after the other.

    The loop goes on meanwhile: it answers PostgreSQL and probes of its health also during a long
    batch.
    """

    def __init__(self, name: str, create: Callable[[], S]) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._object = self._executor.submit(create)

    async def created(self) -> S:
        """Return the object once it is there; raises what its creation raised."""
        return await asyncio.wrap_future(self._object)

    async def run(self, work: Callable[[S], T]) -> T:
        """Do the work in the thread; it goes on if the caller is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._do, work)

    def _do(self, work: Callable[[S], T]) -> T:
        return work(self._object.result())

    def stop(self) -> None:
        """Wait until the work under way has ended, and drop all that has not begun."""
        self._executor.shutdown(cancel_futures=True)
