"""A reader of the stream for tests: it collects what arrives, and confirms it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from projector.gitlab.mapping.tables import Change
from projector.gitlab.postgres.database import connect, insert_lsn, push_wal
from projector.gitlab.postgres.pgoutput import lsn_number
from projector.gitlab.postgres.pieces import Piece
from projector.gitlab.postgres.replication import Replication
from projector.gitlab.postgres.snapshot import slot_snapshot
from tests.integration.gitlab.gitlab_database import GitlabDatabase

PUBLICATION = "projector"
ADD_USERS = (
    "INSERT INTO users (id, email, username, state) SELECT number, number, 'u' || number, 'active'"
    " FROM generate_series(%s::int, %s) AS number"
)


def slot_of(gitlab: GitlabDatabase) -> str:
    return f"slot_{gitlab.name}"


class Follower:
    """One connection, read in the background."""

    def __init__(self, replication: Replication, limit: int) -> None:
        self.replication = replication
        self.pieces: list[Piece] = []
        self.changes: list[Change] = []
        self.confirming = True
        self._task = asyncio.create_task(self._read(limit))

    async def _read(self, limit: int) -> None:
        async for piece in self.replication.pieces(limit):
            self.pieces.append(piece)
            self.changes += piece.changes
            if self.confirming and (piece.commit or not piece.changes):
                self.replication.confirm(piece.delivered)

    async def until(self, holds: Callable[[], bool], within_s: float = 20) -> None:
        """Read until `holds` returns true; raises what reading raises."""
        async with asyncio.timeout(within_s):
            while not holds():
                if self._task.done():
                    self._task.result()
                await asyncio.sleep(0.01)

    async def end(self, within_s: float = 20) -> None:
        """Wait for the end of the stream; raises its error."""
        await asyncio.wait_for(asyncio.shield(self._task), within_s)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await self.replication.close()


async def new_slot(gitlab: GitlabDatabase) -> int:
    """Create the slot; return the position that it streams from."""
    async with slot_snapshot(gitlab.bridge_dsn, slot_of(gitlab), PUBLICATION) as snapshot:
        return snapshot.lsn


async def follow(
    gitlab: GitlabDatabase, lsn: int = 0, limit: int = 5000, **options: Any
) -> Follower:
    replication = await Replication.connect(gitlab.bridge_dsn, **options)
    try:
        await replication.start(slot_of(gitlab), PUBLICATION, lsn)
    except BaseException:
        await replication.close()
        raise
    return Follower(replication, limit)


@asynccontextmanager
async def following(
    gitlab: GitlabDatabase, limit: int = 5000, **options: Any
) -> AsyncIterator[Follower]:
    """Create a slot, and read it until the block ends."""
    follower = await follow(gitlab, await new_slot(gitlab), limit, **options)
    try:
        yield follower
    finally:
        await follower.close()


def position(gitlab: GitlabDatabase) -> int:
    with connect(gitlab.bridge_dsn) as connection:
        return insert_lsn(connection)


def confirmed(gitlab: GitlabDatabase) -> int:
    [(lsn,)] = gitlab.server.execute(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s",
        slot_of(gitlab),
    )
    return lsn_number(lsn)


async def reached(follower: Follower, target: int) -> None:
    while follower.replication.delivered < target:
        follower.replication.ask()
        await follower.until(lambda: True)
        await asyncio.sleep(0.02)


async def caught_up(follower: Follower, gitlab: GitlabDatabase) -> None:
    """Wait until everything that was committed before the call has been handed out."""
    with connect(gitlab.bridge_dsn) as connection:
        target = insert_lsn(connection)
        push_wal(connection)
    await reached(follower, target)
