"""The reader of a replication slot: changes in pieces, and the status that PostgreSQL wants."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final, NamedTuple, Self

import psycopg
from psycopg import errors, sql

from projector.errors import MalformedMessageError, SlotBusyError, SnapshotNeededError
from projector.gitlab.postgres import database, pgoutput
from projector.gitlab.postgres.copy_both import LOST, Connection, CopyBoth
from projector.gitlab.postgres.database import Digests
from projector.gitlab.postgres.pieces import Piece, Pieces
from projector.gitlab.postgres.relations import Relations

STATUS_S: Final = 1.0
_EPOCH_US: Final = 946_684_800_000_000  # 2000-01-01
_STATUS: Final = struct.Struct("!cQQQqB")
_KEEPALIVE: Final = struct.Struct("!QqB")
# Reads before other tasks have their turn, each some 64 KiB.
_READS: Final = 32
_EMPTY_READS: Final = 2
_DATA_HEADER: Final = 25  # bytes: kind, two positions, a time


class Identity(NamedTuple):
    """One history of one database cluster."""

    system: int
    timeline: int
    version: int  # of the server, such as 150018


class SlotStatus(NamedTuple):
    """A replication slot as PostgreSQL has it."""

    confirmed: int | None  # what its reader has confirmed
    wal_status: str | None  # `lost`: PostgreSQL has removed WAL that its reader needs
    active_pid: int | None
    ours: bool  # it is for pgoutput, and in this database


class Replication:
    """A replication connection to the primary."""

    def __init__(self, connection: Connection, identity: Identity, digests: Digests | None) -> None:
        self.identity = identity
        self._connection = connection
        self._stream = CopyBoth(connection)
        self._pieces = Pieces(Relations(tokens=digests is not None), digests)
        self._confirmed = 0
        self._status: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, dsn: str, digests: Digests | None = None) -> Self:
        """Connect to the primary; raises `StandbyError`."""
        return cls(*await connect_to_primary(dsn), digests)

    @property
    def delivered(self) -> int:
        """Up to where everything that was committed has been handed out."""
        return self._pieces.delivered

    async def slot(self, name: str) -> SlotStatus | None:
        """Return the state of a slot, or None where there is none."""
        return await read_slot(self._connection, name)

    async def start(self, slot: str, publication: str, lsn: int) -> None:
        """Begin to stream the transactions that were committed at a position or after it.

        Raises `SlotBusyError`, or `SnapshotNeededError` where the slot does not lead on from there.
        """
        require_continuation(await self.slot(slot), lsn, await _written(self._connection))
        self._confirmed = lsn
        self._pieces.start(lsn)
        try:
            await self._connection.execute(_start_statement(slot, publication, lsn))
        except errors.ObjectInUse as error:
            raise SlotBusyError(str(error.diag.message_primary)) from error
        except LOST as error:
            raise SnapshotNeededError(str(error.diag.message_primary)) from error
        self._send_status()
        self._status = asyncio.create_task(self._repeat_status())

    async def pieces(self, limit: int = 5000) -> AsyncIterator[Piece]:
        """Yield what arrives, in pieces of some `limit` changes; it never ends by itself.

        Raises `psycopg.OperationalError` where the connection ended, `SnapshotNeededError` after a
        TRUNCATE, `GitlabTablesError` where a needed column is gone.
        """
        while True:
            has_more = self._read_arrived(limit)
            if piece := self._pieces.take(limit):
                yield await self._pieces.digested(piece)
            elif has_more:
                await asyncio.sleep(0)
            else:
                await self._stream.readable()

    def confirm(self, lsn: int) -> None:
        """Send PostgreSQL a position up to which the state holds everything: it may forget it."""
        self._confirmed = max(self._confirmed, lsn)
        self._send_status()

    def ask(self) -> None:
        """Ask PostgreSQL for its position; `delivered` follows."""
        self._send_status(reply=True)

    async def close(self) -> None:
        """End the connection; the slot stays."""
        if self._status:
            self._status.cancel()
            await asyncio.wait([self._status])
        await self._connection.close()

    def _read_arrived(self, limit: int) -> bool:
        """Read what has arrived; return whether there may be more that waits for no socket."""
        empty = 0
        for _ in range(_READS):
            empty += 1
            for message in self._stream.messages():
                empty = 0
                self._receive(message)
                if self._pieces.is_full(limit):
                    return True
            # With TLS one read may leave a rest for which the socket is not readable.
            if empty > _EMPTY_READS:
                return False
            self._stream.read()
        # What the last read has brought is not received yet.
        return True

    def _receive(self, message: bytes) -> None:
        kind = message[:1]
        if kind == b"w" and len(message) > _DATA_HEADER:
            self._pieces.add(pgoutput.decode(message[_DATA_HEADER:]), len(message))
        elif kind == b"k" and len(message) == _KEEPALIVE.size + 1:
            end_lsn, _, reply = _KEEPALIVE.unpack_from(message, 1)
            self._pieces.keep_alive(end_lsn, urgent=bool(reply))
            if reply:
                self._send_status()
        else:
            raise MalformedMessageError("PostgreSQL sent an unknown kind of replication message")

    async def _repeat_status(self) -> None:
        """Send a status every second, or PostgreSQL would end a stream that is not read."""
        # The reader meets the error of a connection that is gone.
        with suppress(psycopg.OperationalError):
            while True:
                await asyncio.sleep(STATUS_S)
                self._send_status()

    def _send_status(self, *, reply: bool = False) -> None:
        now = time.time_ns() // 1000 - _EPOCH_US
        lsn = self._confirmed
        self._stream.send(_STATUS.pack(b"r", lsn, lsn, lsn, now, reply))


def require_continuation(slot: SlotStatus | None, lsn: int, written: int) -> None:
    """Refuse a slot from which PostgreSQL would silently leave changes out."""
    if slot is None:
        raise SnapshotNeededError("the replication slot does not exist")
    if slot.active_pid is not None:
        raise SlotBusyError(f"the replication slot is active for PID {slot.active_pid}")
    if slot.confirmed is None or slot.wal_status == "lost":
        raise SnapshotNeededError("PostgreSQL has removed WAL that the replication slot needs")
    if slot.confirmed > lsn:
        raise SnapshotNeededError("the replication slot is ahead of the state")
    if lsn > written:
        raise SnapshotNeededError("the state is ahead of PostgreSQL, which was set back")


async def connect_to_primary(dsn: str) -> tuple[Connection, Identity]:
    """Open a replication connection; raises `StandbyError`."""
    connection = await psycopg.AsyncConnection.connect(dsn, replication="database", autocommit=True)
    try:
        return connection, await _identify(connection)
    except BaseException:
        await connection.close()
        raise


async def _identify(connection: Connection) -> Identity:
    # A snapshot that was exported is idle in a transaction while other tables are copied.
    names, values = database.session_settings(idle_in_transaction_session_timeout="0")
    # The replication protocol has no parameters.
    await connection.execute(sql.SQL(database.SESSION.replace("%s", "{}")).format(names, values))
    cursor = await connection.execute("SELECT pg_catalog.pg_is_in_recovery()")
    [(is_standby,)] = await cursor.fetchall()
    database.refuse_standby(is_standby)
    system, timeline, *_ = await _identify_system(connection)
    return Identity(int(system), int(timeline), connection.info.server_version)


async def _written(connection: Connection) -> int:
    """Return up to where the WAL is on PostgreSQL's disk."""
    _, _, lsn, *_ = await _identify_system(connection)
    return pgoutput.lsn_number(lsn)


async def _identify_system(connection: Connection) -> tuple[Any, ...]:
    cursor = await connection.execute("IDENTIFY_SYSTEM")
    [row] = await cursor.fetchall()
    return row


async def read_slot(connection: Connection, name: str) -> SlotStatus | None:
    """Return the state of a slot, or None where there is none."""
    cursor = await connection.execute(
        sql.SQL(
            "SELECT confirmed_flush_lsn::text, wal_status, active_pid, coalesce(plugin ="
            " 'pgoutput' AND database = pg_catalog.current_database() AND NOT temporary, false)"
            " FROM pg_catalog.pg_replication_slots WHERE slot_name = {}"
        ).format(name)
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    confirmed, wal_status, active_pid, ours = row
    return SlotStatus(confirmed and pgoutput.lsn_number(confirmed), wal_status, active_pid, ours)


def _start_statement(slot: str, publication: str, lsn: int) -> sql.Composed:
    quoted = '"{}"'.format(publication.replace('"', '""'))
    return sql.SQL(
        "START_REPLICATION SLOT {slot} LOGICAL {lsn}"
        " (proto_version '1', publication_names {publications})"
    ).format(
        slot=sql.Identifier(slot),
        lsn=sql.SQL(pgoutput.lsn_text(lsn)),
        publications=quoted,
    )
