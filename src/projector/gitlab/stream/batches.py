"""The replication stream of one database, taken into the state batch by batch."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, NoReturn, cast

from projector.gitlab.mapping.state import Mark
from projector.gitlab.memory import Memory
from projector.gitlab.postgres.pieces import Piece
from projector.gitlab.postgres.replication import Replication
from projector.gitlab.sender import Sender

# Changes. What has arrived goes into one batch, up to so many.
LIMIT: Final = 5000
# Events that Kafka has not acknowledged. Beyond it PostgreSQL holds what comes: it has a disk.
MAX_UNSENT: Final = 50_000
# PostgreSQL cannot shut down while a reader stands still for longer.
FULL_S: Final = 5.0
# A position without changes is stored this seldom: each time is a write to the disk.
PROGRESS_S: Final = 5.0
PROGRESS_BYTES: Final = 1 << 20


class OutboxFullError(Exception):
    """Kafka is away for long: the stream is read again once the outbox has room."""


class Stream:
    """One connection's stream; `passed` is up to where the state has everything."""

    def __init__(
        self,
        name: str,
        replication: Replication,
        memory: Memory,
        sender: Sender,
        before: Callable[[Piece], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.replication = replication
        self.identity = replication.identity
        self.passed = replication.delivered
        self._memory = memory
        self._sender = sender
        self._before = before
        self._confirmed = self.passed
        self._confirmed_at = time.monotonic()

    async def follow(self, moved: Callable[[], Awaitable[None]]) -> NoReturn:
        """Take what arrives, until the stream ends with an exception; call `moved` each time.

        Raises as `Replication.pieces` does, and `OutboxFullError`.
        """
        pieces = cast(AsyncGenerator[Piece], self.replication.pieces(LIMIT))
        async with aclosing(pieces):
            async for piece in pieces:
                last = await self._take(piece, pieces) if piece.changes else piece
                self.passed = max(self.passed, last.delivered)
                await self._confirm_progress(last)
                await moved()
                await self._wait_for_room()
        raise RuntimeError("the stream has ended without an exception")

    async def _take(self, piece: Piece, pieces: AsyncGenerator[Piece]) -> Piece:
        """Remember a piece, and those that follow up to the end of its transaction."""
        if self._before:
            await self._before(piece)
        async with self._memory.batch() as batch:
            while piece.commit is None:
                await batch.apply(piece.changes)
                piece = await anext(pieces)
            mark = Mark(self.name, piece.commit.end_lsn, piece.commit.time_ms)
            await batch.finish(piece.changes, mark)
        # Not what was delivered behind it: the state has no position there.
        self._confirm(piece.commit.end_lsn)
        return piece

    def _confirm(self, lsn: int) -> None:
        self.replication.confirm(lsn)
        self._confirmed, self._confirmed_at = lsn, time.monotonic()

    async def _confirm_progress(self, piece: Piece) -> None:
        """Store a position behind the last change, then confirm it, where it is time to."""
        ahead = self.passed - self._confirmed
        late = time.monotonic() - self._confirmed_at > PROGRESS_S
        if ahead > 0 and (piece.urgent or late or ahead > PROGRESS_BYTES):
            lsn = self.passed
            if await self._memory.state.run(lambda state: state.confirm(self.name, lsn)):
                self._confirm(lsn)

    async def _wait_for_room(self) -> None:
        if self._sender.unsent <= MAX_UNSENT:
            return
        try:
            async with asyncio.timeout(FULL_S):
                await self._sender.until(lambda: self._sender.unsent <= MAX_UNSENT)
        except TimeoutError:
            raise OutboxFullError from None
