"""What becomes due with time alone."""

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Timers(Generic[K]):
    """At most one due time (milliseconds) per key."""

    def __init__(self) -> None:
        self._due: dict[K, int] = {}
        self._heap: list[tuple[int, K]] = []

    def set(self, key: K, due: int | None) -> None:
        """Replace the key's timer; None leaves it without one."""
        if due is None:
            self._due.pop(key, None)
        elif self._due.get(key) != due:
            self._due[key] = due
            heapq.heappush(self._heap, (due, key))
            self._compact()

    def take_due(self, now: int) -> Iterator[K]:
        """Take out every key that is due at `now`, earliest first."""
        while self._heap and self._heap[0][0] <= now:
            due, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                yield key

    def _compact(self) -> None:
        """Replaced timers stay in the heap until they are due; twice the live ones bounds them."""
        if len(self._heap) > 2 * len(self._due) + 64:
            self._heap = [(due, key) for key, due in self._due.items()]
            heapq.heapify(self._heap)
