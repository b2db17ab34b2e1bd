"""The check of due events as a worker does it: rows that it would refuse count as not there."""

import json
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog

from projector.gitlab.mapping import envelope
from projector.gitlab.mapping.due import KINDS

log = structlog.get_logger()

# Refusals of one comparison that are logged; one mistake may be in every row.
MAX_LOGGED: Final = 20


class Refusal(NamedTuple):
    """A row whose event a worker would refuse; the reason has no content of the row."""

    kind: str
    id: int
    reason: str


class Acceptance:
    """The check of the events of comparisons, as a function of SQL."""

    def __init__(self, refused: Callable[[Refusal], object]) -> None:
        self._refused = refused
        self.begin("0", None)

    def begin(self, sequence: str, time_ms: int | None) -> None:
        """Begin a comparison, whose events have this sequence and time."""
        self._sequence = sequence
        self._time = time_ms
        self._refusals = 0

    def __call__(self, kind: str, number: int, root: str, data: str | None) -> str | None:
        """Return the data as it may be sent; None if the row counts as not there."""
        reason = self._refusal(kind, root, data)
        if reason is None:
            return data
        self._report(Refusal(kind, number, reason))
        return self._block(number, root, data) if kind == "user" and data else None

    def _report(self, refusal: Refusal) -> None:
        self._refused(refusal)
        self._refusals += 1
        if self._refusals <= MAX_LOGGED:
            log.warning(
                "a row of GitLab counts as not there, since a worker would refuse its event",
                kind=refusal.kind, id=refusal.id, reason=refusal.reason,
            )  # fmt: skip

    def _refusal(self, kind: str, root: str, data: str | None) -> str | None:
        if data is None:
            return "a column that the event needs is NULL"
        return envelope.refusal(KINDS[kind].set, root, self._sequence, self._time, data)

    def _block(self, user: int, root: str, data: str) -> str | None:
        """Return the block of a user whose name or state is at fault: it must get through."""
        state = json.loads(data)["state"]
        if state == "active":
            return None
        for given in state, "blocked":
            block = json.dumps({"id": user, "username": f"user-{user}", "state": given})
            if self._refusal("user", root, block) is None:
                return block
        return None
