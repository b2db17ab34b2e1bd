"""A new replication slot, and the snapshot of the moment from which it streams."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

import psycopg
import structlog
from psycopg import errors, sql

from projector.errors import OpenTransactionsError, SlotBusyError, SlotError, StandbyError
from projector.gitlab.postgres import pgoutput
from projector.gitlab.postgres.copy_both import Connection
from projector.gitlab.postgres.replication import Identity, connect_to_primary, read_slot

log = structlog.get_logger()

# A new slot waits for every transaction that has written and is still open.
TIMEOUT_S: Final = 120.0
FIRST_REPORT_S: Final = 1.0
REPORT_S: Final = 10.0
# The version whose CREATE_REPLICATION_SLOT has options in parentheses.
_OPTIONS_SINCE: Final = 150000

# The start of other users' transactions is for members of pg_read_all_stats alone. A prepared
# transaction has the process 0.
_BLOCKERS: Final = """
    SELECT format('process %%s, %%s, open since %%s', blocker.pid,
                  coalesce(activity.state, 'state unknown'),
                  coalesce(activity.xact_start::timestamptz(0)::text, 'unknown'))
    FROM unnest(pg_catalog.pg_blocking_pids(%s)) AS blocker (pid)
    LEFT JOIN pg_catalog.pg_stat_activity AS activity USING (pid)
"""


class SlotSnapshot(NamedTuple):
    """The snapshot that a new slot streams from."""

    lsn: int  # what was committed before is in the snapshot, the rest is streamed
    name: str  # for SET TRANSACTION SNAPSHOT, while the block lasts
    identity: Identity


@asynccontextmanager
async def slot_snapshot(
    dsn: str, slot: str, publication: str, timeout_s: float = TIMEOUT_S
) -> AsyncIterator[SlotSnapshot]:
    """Create the slot and hold its snapshot for the block; drop the slot if the block fails.

    An idle slot of that name is dropped first. Raises `SlotBusyError`, `OpenTransactionsError`,
    `SlotError`, `StandbyError`.
    """
    connection, identity = await connect_to_primary(dsn)
    try:
        await _require_publication(connection, publication)
        await _drop_former(connection, slot)
        created = await _create(connection, dsn, slot, identity, timeout_s)
        try:
            yield created
        except BaseException:
            await connection.close()
            await _drop_unused(dsn, slot)
            raise
    finally:
        await connection.close()


async def _require_publication(connection: Connection, publication: str) -> None:
    """Refuse to create a slot without its publication: it would never find one made later."""
    cursor = await connection.execute(
        sql.SQL("SELECT pubviaroot FROM pg_catalog.pg_publication WHERE pubname = {}").format(
            publication
        )
    )
    row = await cursor.fetchone()
    if row is None:
        raise SlotError(
            f"GitLab's database has no publication {publication}; "
            "`projector gitlab check` prints the SQL that creates it"
        )
    if not row[0]:
        raise SlotError(
            f"the publication {publication} names each partition of a table; let its owner run: "
            f"ALTER PUBLICATION {publication} SET (publish_via_partition_root = true);"
        )


async def _drop_former(connection: Connection, slot: str) -> None:
    former = await read_slot(connection, slot)
    if former is None:
        return
    if not former.ours:
        raise SlotError(
            f"the replication slot {slot} belongs to something else: choose another name for "
            "PROJECTOR_GITLAB_SLOT"
        )
    if former.active_pid is not None:
        raise SlotBusyError(f"the process {former.active_pid} reads the replication slot {slot}")
    try:
        await connection.execute(_drop_statement(slot))
    except errors.ObjectInUse as error:
        raise SlotBusyError(str(error.diag.message_primary)) from error
    log.info("slot-dropped", slot=slot)


async def _create(
    connection: Connection, dsn: str, slot: str, identity: Identity, timeout_s: float
) -> SlotSnapshot:
    blockers: list[str] = []
    reporting = asyncio.create_task(_report(dsn, connection.info.backend_pid, blockers))
    try:
        # psycopg cancels the statement in PostgreSQL as well, which then removes the slot.
        async with asyncio.timeout(timeout_s):
            cursor = await connection.execute(_create_statement(slot, identity.version))
    except TimeoutError:
        raise OpenTransactionsError(
            f"no replication slot within {timeout_s:g} s: it waits for transactions that are open "
            f"in GitLab's database ({'; '.join(blockers) or 'none is known'})"
        ) from None
    except errors.DuplicateObject as error:
        raise SlotBusyError(str(error.diag.message_primary)) from error
    finally:
        reporting.cancel()
        await asyncio.wait([reporting])
    [(_, lsn, name, _)] = await cursor.fetchall()
    return SlotSnapshot(pgoutput.lsn_number(lsn), name, identity)


def _create_statement(slot: str, version: int) -> sql.Composed:
    option = "(SNAPSHOT 'export')" if version >= _OPTIONS_SINCE else "EXPORT_SNAPSHOT"
    return sql.SQL(f"CREATE_REPLICATION_SLOT {{}} LOGICAL pgoutput {option}").format(
        sql.Identifier(slot)
    )


def _drop_statement(slot: str) -> sql.Composed:
    return sql.SQL("DROP_REPLICATION_SLOT {}").format(sql.Identifier(slot))


async def _report(dsn: str, pid: int, blockers: list[str]) -> None:
    """Log the transactions that a process waits for, now and then; keep the last in `blockers`."""
    with suppress(psycopg.OperationalError):
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            wait_s = FIRST_REPORT_S
            while True:
                await asyncio.sleep(wait_s)
                cursor = await connection.execute(_BLOCKERS, [pid])
                blockers[:] = [text async for (text,) in cursor]
                log.warning("slot-waits", transactions=blockers)
                wait_s = REPORT_S


async def _drop_unused(dsn: str, slot: str) -> None:
    """Drop a slot whose snapshot failed; the next start does it where this fails."""
    try:
        connection, _ = await connect_to_primary(dsn)
        async with connection:
            await connection.execute(_drop_statement(slot))
    except (psycopg.Error, StandbyError) as error:
        log.warning("slot-left-behind", slot=slot, error=str(error).strip())
