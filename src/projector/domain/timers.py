"""Expiry timers, at most one per key, of which only the next ones are sorted.

Most timers of a job are removed before they are due. A timer that is not sorted takes half the
memory, and none of a heap's time. A look at all timers, in steps, sorts the next ones.
"""

import heapq
from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

# Milliseconds. A look at all timers is worth it once in so long.
SORTED_MS: Final = 10 * 60 * 1000
# Timers of one step, which takes up to 5 ms.
STEP: Final = 10_000


class Timers(Generic[K]):
    """A due time (milliseconds) for each key that has one."""

    def __init__(self) -> None:
        self._due: dict[K, int] = {}
        # The timers that are due before `_sorted_until`, and some that were replaced.
        self._heap: list[tuple[int, K]] = []
        self._replaced = 0
        self._sorted_until = 0

    def set(self, key: K, due: int | None) -> None:
        """Set or replace the key's timer; None removes it."""
        known = self._due.get(key)
        if due == known:
            return
        if known is not None and known < self._sorted_until:
            self._replaced += 1
        if due is None:
            del self._due[key]
            return
        self._due[key] = due
        if due < self._sorted_until:
            heapq.heappush(self._heap, (due, key))

    def take_due(self, now: int) -> Iterator[K]:
        """Remove and yield every key that is due at `now`, earliest first."""
        for _ in self.sort_in_steps(now):
            pass
        while self._heap and self._heap[0][0] <= now:
            due, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                yield key
            else:
                self._replaced -= 1

    def sort_in_steps(self, now: int) -> Iterator[None]:
        """Sort the timers that `take_due` asks for next, in steps; set none between them."""
        if now >= self._sorted_until:
            yield from self._sort(now + SORTED_MS)
        # A look at all timers is not worth it for a few that were replaced. They go when due.
        elif self._replaced > len(self._due) // 4 + 64:
            yield from self._sort(self._sorted_until)

    def _sort(self, until: int) -> Iterator[None]:
        heap: list[tuple[int, K]] = []
        timers = iter(self._due.items())
        while step := list(islice(timers, STEP)):
            for key, due in step:
                if due < until:
                    heapq.heappush(heap, (due, key))
            yield
        self._heap, self._replaced, self._sorted_until = heap, 0, until
