"""Committed transactions in pieces that fit into memory."""

import asyncio
from typing import Final, NamedTuple

from projector.errors import MalformedMessageError
from projector.gitlab.mapping.tables import TABLES, Change
from projector.gitlab.postgres.database import Digests, with_digests
from projector.gitlab.postgres.pgoutput import (
    Begin,
    Commit,
    Delete,
    Insert,
    Message,
    Relation,
    Truncate,
    Unneeded,
    Update,
)
from projector.gitlab.postgres.relations import TOKEN, Relations

# The bytes of a piece: rows may have megabytes of configuration.
MAX_BYTES: Final = 1 << 24
_BUILDS: Final = "p_ci_builds"
_TOKEN_PLACE: Final = [column.source for column in TABLES[_BUILDS].columns.values()].index(TOKEN)


class Piece(NamedTuple):
    """Whole transactions with the commit of the last, or a part of one that goes on.

    Without changes a keepalive, or a transaction of other tables, has moved `delivered` on.
    """

    changes: list[Change]
    commit: Commit | None  # None beside changes: the next piece has more of the transaction
    delivered: int  # everything that was committed below is in this piece and those before
    urgent: bool  # PostgreSQL waits for what is confirmed, perhaps to shut down


class Pieces:
    """The changes that have arrived, and are not handed out yet."""

    def __init__(self, relations: Relations, digests: Digests | None) -> None:
        self.delivered = 0
        self._relations = relations
        self._digests = digests
        self._from = 0
        self._whole: list[Change] = []
        self._commit: Commit | None = None
        self._open: list[Change] = []
        self._begin: Begin | None = None
        self._bytes = 0
        self._arrived = 0
        self._urgent = False

    def start(self, lsn: int) -> None:
        """Begin at a position: transactions that were committed before it are ignored."""
        self._from = self.delivered = self._arrived = lsn

    def add(self, message: Message, size: int) -> None:
        """Add a message of the stream."""
        match message:
            case Begin():
                self._expect(is_open=False)
                self._begin = message
            case Commit():
                self._expect(is_open=True)
                self._end(message)
            case Relation():
                self._relations.describe(message)
            case Unneeded():
                pass
            case _:
                self._expect(is_open=True)
                self._change(message, size)

    def _change(self, message: Insert | Update | Delete | Truncate, size: int) -> None:
        if self._is_known:
            return
        before = len(self._open)
        self._open.extend(self._relations.changes(message))
        if len(self._open) > before:
            self._bytes += size

    @property
    def _is_known(self) -> bool:
        """Whether the state has the open transaction already."""
        return self._begin is not None and self._begin.commit_lsn < self._from

    def _expect(self, *, is_open: bool) -> None:
        if (self._begin is not None) is not is_open:
            raise MalformedMessageError("PostgreSQL sent messages outside a transaction")

    def _end(self, commit: Commit) -> None:
        if not self._is_known:
            self._whole += self._open
            self._commit = commit
        self._open, self._begin = [], None
        self._arrived = max(self._arrived, commit.end_lsn)

    def keep_alive(self, end_lsn: int, *, urgent: bool) -> None:
        """Note how far PostgreSQL has read; in a transaction its beginning is not behind that."""
        if self._begin is None:
            self._arrived = max(self._arrived, end_lsn)
        self._urgent |= urgent

    def is_full(self, limit: int) -> bool:
        """Whether there is enough for a piece."""
        return len(self._whole) + len(self._open) >= limit or self._bytes >= MAX_BYTES

    def take(self, limit: int) -> Piece | None:
        """Return the next piece: whole transactions, or a part of one where it is large."""
        if self._commit is not None or (self._begin is None and self._has_news):
            return self._take_whole()
        if self._open and self.is_full(limit):
            changes, self._open, self._bytes = self._open, [], 0
            return Piece(changes, None, self.delivered, urgent=False)
        return None

    @property
    def _has_news(self) -> bool:
        return self._urgent or self._arrived > self.delivered

    def _take_whole(self) -> Piece:
        self.delivered = self._arrived
        piece = Piece(self._whole, self._commit, self.delivered, self._urgent)
        self._whole, self._commit, self._bytes, self._urgent = [], None, 0, False
        return piece

    async def digested(self, piece: Piece) -> Piece:
        """Return the piece with digests in place of encrypted tokens."""
        if (digests := self._digests) is None:
            return piece
        places = [
            place
            for place, change in enumerate(piece.changes)
            if change.table == _BUILDS and change.row is not None
        ]
        rows = [row for place in places if (row := piece.changes[place].row) is not None]
        new = await asyncio.to_thread(lambda: list(with_digests(rows, _TOKEN_PLACE, digests)))
        for place, row in zip(places, new, strict=True):
            piece.changes[place] = piece.changes[place]._replace(row=row)
        return piece
