"""Joined calls: questions of several owners in the same turn of the loop, asked once for all.

Owners probe and stamp at common moments. A question costs a process some 100 us and its server as
much, however many partitions it is about.

A shared answer is as good as an own one, because no question begins before all calls that it
answers. So the order of a probe holds for each owner: the next question begins after its answer.
A later call begins a question of its own, and does not wait for the one before.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Calls(Generic[K, V]):
    """Calls that wait for one question, by their keys; `answer` and `fail` take a key out."""

    def __init__(self) -> None:
        self._waiting: dict[K, list[asyncio.Future[V]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._waiting))

    def add(self, key: K) -> asyncio.Future[V]:
        """Add a call; its future is its own, so that a caller that gives up harms no other."""
        call: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(call)
        return call

    def answer(self, key: K, value: V) -> None:
        """Return the value from the key's calls."""
        for call in self._waiting.pop(key):
            if not call.done():
                call.set_result(value)

    def fail(self, key: K, error: Exception) -> None:
        """Raise the error from the key's calls."""
        for call in self._waiting.pop(key):
            if not call.done():
                call.set_exception(error)

    def cancel(self) -> None:
        """Cancel all calls that are left."""
        for calls in self._waiting.values():
            for call in calls:
                call.cancel()


class JoinedCalls(Generic[K, V]):
    """Collects keys until the loop has turned, then asks about all of them.

    `question` answers or fails each key, in any order. Its own error fails those that are left.
    """

    def __init__(self, question: Callable[[Calls[K, V]], Awaitable[None]]) -> None:
        self._question = question
        self._next: Calls[K, V] = Calls()
        self._asking: set[asyncio.Task[None]] = set()

    def ask(self, key: K) -> asyncio.Future[V]:
        """Return the answer to a question that begins after this call."""
        if not self._next:
            asyncio.get_running_loop().call_soon(self._begin)
        return self._next.add(key)

    def _begin(self) -> None:
        calls, self._next = self._next, Calls()
        task = asyncio.create_task(self._ask(calls))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, calls: Calls[K, V]) -> None:
        try:
            await self._question(calls)
        except Exception as error:
            for key in calls:
                calls.fail(key, error)
        finally:
            calls.cancel()
