"""The snapshot of all tables from which the streams go on."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack

from projector.gitlab.mapping.state import Position, Remembered, State
from projector.gitlab.memory import Memory
from projector.gitlab.postgres.database import Digests, copy_table, reading
from projector.gitlab.postgres.published import read_published
from projector.gitlab.postgres.snapshot import SlotSnapshot, slot_snapshot
from projector.gitlab.resume import Reason
from projector.gitlab.source import Database, report_snapshot


async def take_snapshot(
    memory: Memory,
    databases: tuple[Database, ...],
    publication: str,
    reason: Reason,
    digests: Digests | None,
) -> str:
    """Make new slots, and read all tables as of their beginnings into the state.

    Returns what the databases published then, as `Looker.published` does later.
    """
    began = time.perf_counter()
    async with AsyncExitStack() as stack:
        # Jobs first: their projects are then known as they are now, or later.
        slots = {
            database.name: await stack.enter_async_context(
                slot_snapshot(database.dsn, database.slot, publication)
            )
            for database in reversed(databases)
        }
        rows = 0
        published = await asyncio.to_thread(_published, databases, slots, publication)

        def load(state: State) -> Remembered:
            nonlocal rows
            rows, remembered = _load(state, databases, slots, digests)
            return remembered

        remembered = await memory.change(load)
    report_snapshot(reason, rows, remembered.events, time.perf_counter() - began)
    return published


def _published(
    databases: tuple[Database, ...], slots: Mapping[str, SlotSnapshot], publication: str
) -> str:
    """Read the publication in PostgreSQL's catalogs as of the slots' beginnings."""
    found = []
    for database in databases:
        with reading(database.dsn, slots[database.name].name) as connection:
            found.append(read_published(connection, publication, database.tables))
    return "; ".join(found)


def _load(
    state: State,
    databases: tuple[Database, ...],
    slots: Mapping[str, SlotSnapshot],
    digests: Digests | None,
) -> tuple[int, Remembered]:
    """Read all tables as of the slots' beginnings into the state, in one transaction."""
    rows = 0
    try:
        state.start_snapshot({name: _beginning(slot) for name, slot in slots.items()})
        for database in databases:
            with reading(database.dsn, slots[database.name].name) as connection:
                for table in database.tables:
                    where = table.read_by_snapshot(separate_ci=len(databases) > 1)
                    rows += state.load(table.name, copy_table(connection, table, where, digests))
        return rows, state.finish_snapshot()
    except BaseException:
        state.abandon()
        raise


def _beginning(slot: SlotSnapshot) -> Position:
    return Position(slot.lsn, 0, str(slot.identity.system), slot.identity.timeline)
