"""Joined calls: questions of several owners in the same turn of the loop, asked once for all.

Owners probe and stamp at common moments. A question costs a process some 100 us and its server as
much, however many partitions it is about.

A shared answer is as good as an own one, because no question begins before all calls that it
answers. So the order of a probe holds for each owner: the next question begins after its answer.
A later call begins a question of its own, and does not wait for the one before.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

Waiting = Mapping[K, asyncio.Future[V]]


class JoinedCalls(Generic[K, V]):
    """Collects keys until the loop has turned, then asks about all of them.

    `question` sets the result or the exception of each key's future, in any order. Its own error
    is that of the keys that are left.
    """

    def __init__(self, question: Callable[[Waiting[K, V]], Awaitable[None]]) -> None:
        self._question = question
        self._waiting: dict[K, asyncio.Future[V]] = {}
        self._asking: set[asyncio.Task[None]] = set()

    def ask(self, key: K) -> asyncio.Future[V]:
        """Return the answer to a question that begins after this call."""
        answer = self._waiting.get(key)
        if answer is None:
            loop = asyncio.get_running_loop()
            if not self._waiting:
                loop.call_soon(self._begin)
            answer = self._waiting[key] = loop.create_future()
        # A caller that gives up must not take the answer from the others.
        return asyncio.shield(answer)

    def _begin(self) -> None:
        waiting, self._waiting = self._waiting, {}
        task = asyncio.create_task(self._answer(waiting))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _answer(self, waiting: Waiting[K, V]) -> None:
        try:
            await self._question(waiting)
        except Exception as error:
            for answer in unanswered(waiting).values():
                answer.set_exception(error)
        finally:
            for answer in unanswered(waiting).values():
                answer.cancel()


def unanswered(waiting: Waiting[K, V]) -> dict[K, asyncio.Future[V]]:
    """Return the futures that have neither result nor exception yet."""
    return {key: answer for key, answer in waiting.items() if not answer.done()}
