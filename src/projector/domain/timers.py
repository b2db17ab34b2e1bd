"""Expiry timers, at most one per key, of which only the next ones are sorted.

Most timers of a job are removed before they are due. A timer that is not sorted takes half the
memory, and none of a heap's time. A look at all timers, 40 ms for a million, sorts the next ones.
"""

import heapq
from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

# Milliseconds. A look at all timers is worth it once in so long.
SORTED_MS: Final = 10 * 60 * 1000


class Timers(Generic[K]):
    """A due time (milliseconds) for each key that has one."""

    def __init__(self) -> None:
        self._due: dict[K, int] = {}
        # The timers that are due before `_sorted_until`, and some that were replaced.
        self._heap: list[tuple[int, K]] = []
        self._sorted_until = 0

    def set(self, key: K, due: int | None) -> None:
        """Set or replace the key's timer; None removes it."""
        if due is None:
            self._due.pop(key, None)
        elif self._due.get(key) != due:
            self._due[key] = due
            if due < self._sorted_until:
                heapq.heappush(self._heap, (due, key))
                self._compact()

    def take_due(self, now: int) -> Iterator[K]:
        """Remove and yield every key that is due at `now`, earliest first."""
        if now >= self._sorted_until:
            self._sorted_until = now + SORTED_MS
            self._sort()
        while self._heap and self._heap[0][0] <= now:
            due, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                yield key

    def _compact(self) -> None:
        """Drop replaced timers once they are half of the heap; else they stay in it until due."""
        if len(self._heap) > 2 * len(self._due) + 64:
            self._sort()

    def _sort(self) -> None:
        until = self._sorted_until
        self._heap = [(due, key) for key, due in self._due.items() if due < until]
        heapq.heapify(self._heap)
