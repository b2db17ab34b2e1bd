"""Sets of values by key, without empty sets."""

from collections import defaultdict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Multimap(defaultdict[K, set[V]]):
    """A mapping from keys to sets that drops a key with its last value.

    Read with `get`: subscripting a missing key adds an empty set.
    """

    def __init__(self) -> None:
        super().__init__(set)

    def discard(self, key: K, value: V) -> None:
        """Remove a value, and the key with its last value; indexes must not grow."""
        values = self.get(key)
        if values is not None:
            values.discard(value)
            if not values:
                del self[key]
