"""The tokens whose view may be another now, in the order in which their views are to be written."""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final, NamedTuple


class WritePriority(IntEnum):
    """What a change may do to a view: what may take something away is written first."""

    ENDS = 0
    MAY_REVOKE = 1
    ONLY_GRANTS = 2


# Of each portion this part is kept for what only grants: jobs that start need not wait for the end
# of a long revocation, which is hardly any longer for it.
GRANTING_SHARE: Final = 8


class DirtyBatch(NamedTuple):
    """Tokens whose views are written together, the most urgent first, each once.

    `named` are those of them that are new to their jobs, or expire at another time than before.
    """

    tokens: list[str]
    named: set[str]


class DirtyTokens:
    """A set of tokens (SHA-256 digests) that knows which to take out next."""

    def __init__(self) -> None:
        self._waiting: tuple[dict[str, None], ...] = tuple({} for _ in WritePriority)
        self._named: set[str] = set()

    def __bool__(self) -> bool:
        return any(self._waiting)

    def __iter__(self) -> Iterator[str]:
        """Every token that waits, the most urgent first; those touched in two ways come twice."""
        for waiting in self._waiting:
            yield from waiting

    def add(self, tokens: Iterable[str], urgency: WritePriority) -> None:
        """Let the tokens wait, if they do not yet; one that may lose something does so anyway."""
        self._waiting[urgency].update(dict.fromkeys(tokens))

    def mark_job_key(self, token: str) -> None:
        """The token is new to its job, or expires at another time than before."""
        self._named.add(token)

    def take(self, most: int) -> DirtyBatch:
        """Take out some `most` tokens, those touched last before others that are as urgent."""
        ends, may_revoke, only_grants = self._waiting
        tokens = [*self._pop(ends, most)]
        tokens += self._pop(may_revoke, most - len(tokens))
        tokens += self._pop(only_grants, max(most - len(tokens), most // GRANTING_SHARE))
        named = self._named.intersection(tokens)
        self._named -= named
        return DirtyBatch(tokens, named)

    def _pop(self, waiting: dict[str, None], most: int) -> Iterator[str]:
        for _ in range(min(most, len(waiting))):
            token, _ = waiting.popitem()
            for others in self._waiting:
                others.pop(token, None)
            yield token

    def clear(self) -> None:
        """Forget them all."""
        for waiting in self._waiting:
            waiting.clear()
        self._named.clear()
