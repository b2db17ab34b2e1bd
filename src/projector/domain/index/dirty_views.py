"""Views that may be outdated, ordered so that revocations are written first.

A view that is not in Redis yet may be held back until it is complete.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from projector.domain.views import ViewId


class WritePriority(IntEnum):
    """The effect of a change on a view; what may take something away is written first."""

    ENDS = 0
    MAY_REVOKE = 1
    ONLY_GRANTS = 2


# This fraction of each batch is kept for what only grants. Jobs that start then do not wait for the
# end of a long revocation, which it hardly delays.
GRANTING_SHARE: Final = 8


class DirtyBatch(NamedTuple):
    """Views that are written together, the most urgent first, each once.

    `pointers` are those whose job needs a new pointer: with another digest or expiry than before.
    """

    ids: list[ViewId]
    pointers: set[ViewId]


class DirtyViews:
    """A set of views, by their ids, to be taken by priority."""

    def __init__(self) -> None:
        self._waiting: tuple[dict[ViewId, None], ...] = tuple({} for _ in WritePriority)
        self._pointers: set[ViewId] = set()
        # Views that are not in Redis yet: to be written like all others, or held back.
        self._new: set[ViewId] = set()
        # Views that are held back, by rising positions.
        self._held: dict[ViewId, int] = {}
        # The names, by `AffectedJobs.names`, of changes that may revoke very many views.
        self.bulk_names: set[str] = set()

    def __bool__(self) -> bool:
        return any(self._waiting)

    @property
    def count(self) -> int:
        """The number of views; a view with two priorities counts twice."""
        return sum(map(len, self._waiting))

    def __iter__(self) -> Iterator[ViewId]:
        """Yield every view, the most urgent first; a view with two priorities comes twice."""
        for waiting in self._waiting:
            yield from waiting

    def add(self, ids: Iterable[ViewId], priority: WritePriority) -> None:
        """Add the views with this priority, also those that wait with another one.

        A view that is held back stays so, unless it ends.
        """
        added = dict.fromkeys(ids)
        if priority is WritePriority.ENDS:
            if self._new:
                self._new.difference_update(added)
            for id_ in added.keys() & self._held.keys():
                del self._held[id_]
        elif self._held:
            for id_ in added.keys() & self._held.keys():
                del added[id_]
        self._waiting[priority].update(added)

    def mark_pointer(self, id_: ViewId) -> None:
        """Mark a view whose job has another digest or expiry than before."""
        self._pointers.add(id_)

    def mark_new(self, id_: ViewId) -> None:
        """Mark a live view that is not in Redis yet."""
        self._new.add(id_)

    def hold_new(self, position: int) -> list[ViewId]:
        """Hold back the views that are not in Redis yet; return them; `release` ends it.

        `position` orders the calls, and must not fall.
        """
        new, self._new = list(self._new), set()
        for id_ in new:
            self._held.setdefault(id_, position)
        for waiting in self._waiting:
            for id_ in new:
                waiting.pop(id_, None)
        return new

    def release(self, ids: Iterable[ViewId]) -> None:
        """Let those of the views be taken that are still held back."""
        released = [id_ for id_ in ids if self._held.pop(id_, None) is not None]
        self.add(released, WritePriority.ONLY_GRANTS)

    @property
    def held_since(self) -> int | None:
        """The lowest position of a view that is held back; None if none is."""
        return next(iter(self._held.values()), None)

    def is_unwritten(self, id_: ViewId) -> bool:
        """Return whether the view is not in Redis yet, held back or not."""
        return id_ in self._new or id_ in self._held

    def is_held(self, id_: ViewId) -> bool:
        """Return whether the view is held back."""
        return id_ in self._held

    def take(self, most: int) -> DirtyBatch:
        """Remove and return about `most` views; of equal priority, the last added come first."""
        ends, may_revoke, only_grants = self._waiting
        ids = [*self._pop(ends, most)]
        ids += self._pop(may_revoke, most - len(ids))
        ids += self._pop(only_grants, max(most - len(ids), most // GRANTING_SHARE))
        pointers = self._pointers.intersection(ids)
        self._pointers -= pointers
        self._new.difference_update(ids)
        return DirtyBatch(ids, pointers)

    def _pop(self, waiting: dict[ViewId, None], most: int) -> Iterator[ViewId]:
        for _ in range(min(most, len(waiting))):
            id_, _ = waiting.popitem()
            for others in self._waiting:
                others.pop(id_, None)
            yield id_

    def clear(self) -> None:
        """Remove all views and marks."""
        for waiting in self._waiting:
            waiting.clear()
        for marked in (self._pointers, self._new, self.bulk_names):
            marked.clear()
        self._held.clear()
