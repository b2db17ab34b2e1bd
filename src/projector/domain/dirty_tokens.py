"""Tokens whose view may be outdated, ordered so that revocations are written first.

A token that has no view yet may be held back until its first view is complete.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final, NamedTuple


class WritePriority(IntEnum):
    """The effect of a change on a view; what may take something away is written first."""

    ENDS = 0
    MAY_REVOKE = 1
    ONLY_GRANTS = 2


# This fraction of each batch is kept for what only grants. Jobs that start then do not wait for the
# end of a long revocation, which it hardly delays.
GRANTING_SHARE: Final = 8


class DirtyBatch(NamedTuple):
    """Tokens whose views are written together, the most urgent first, each once.

    `named` are the tokens that need a new job key: new to their jobs, or with another expiry.
    """

    tokens: list[str]
    named: set[str]


class DirtyTokens:
    """A set of tokens (SHA-256 digests), to be taken by priority."""

    def __init__(self) -> None:
        self._waiting: tuple[dict[str, None], ...] = tuple({} for _ in WritePriority)
        self._named: set[str] = set()
        # Tokens without a view: to be written like all others, or held back.
        self._new: set[str] = set()
        self._held: set[str] = set()

    def __bool__(self) -> bool:
        return any(self._waiting)

    def __iter__(self) -> Iterator[str]:
        """Yield every token, the most urgent first; a token with two priorities comes twice."""
        for waiting in self._waiting:
            yield from waiting

    def add(self, tokens: Iterable[str], priority: WritePriority) -> None:
        """Add the tokens with this priority, also those that wait with another one.

        A token that is held back stays so, unless it ends.
        """
        added = dict.fromkeys(tokens)
        if priority is WritePriority.ENDS:
            for waiting in (self._new, self._held):
                if waiting:
                    waiting.difference_update(added)
        elif self._held:
            for token in added.keys() & self._held:
                del added[token]
        self._waiting[priority].update(added)

    def mark_job_key(self, token: str) -> None:
        """Mark a token that is new to its job, or expires at another time than before."""
        self._named.add(token)

    def mark_new(self, token: str) -> None:
        """Mark a live token that has no view yet."""
        self._new.add(token)

    def hold_new(self) -> list[str]:
        """Hold back the tokens that have no view yet, and return them; `release` ends it."""
        new, self._new = list(self._new), set()
        self._held.update(new)
        for waiting in self._waiting:
            for token in new:
                waiting.pop(token, None)
        return new

    def release(self, tokens: Iterable[str]) -> None:
        """Let those of the tokens be taken that are still held back."""
        released = self._held.intersection(tokens)
        self._held -= released
        self.add(released, WritePriority.ONLY_GRANTS)

    def is_held(self, token: str) -> bool:
        """Return whether the token is held back."""
        return token in self._held

    def take(self, most: int) -> DirtyBatch:
        """Remove and return about `most` tokens; of equal priority, the last added come first."""
        ends, may_revoke, only_grants = self._waiting
        tokens = [*self._pop(ends, most)]
        tokens += self._pop(may_revoke, most - len(tokens))
        tokens += self._pop(only_grants, max(most - len(tokens), most // GRANTING_SHARE))
        named = self._named.intersection(tokens)
        self._named -= named
        self._new.difference_update(named)
        return DirtyBatch(tokens, named)

    def _pop(self, waiting: dict[str, None], most: int) -> Iterator[str]:
        for _ in range(min(most, len(waiting))):
            token, _ = waiting.popitem()
            for others in self._waiting:
                others.pop(token, None)
            yield token

    def clear(self) -> None:
        """Remove all tokens and marks."""
        for waiting in self._waiting:
            waiting.clear()
        for marked in (self._named, self._new, self._held):
            marked.clear()
