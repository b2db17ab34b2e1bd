"""The source `poll`: tables that are read again and again, each time in one snapshot."""

import asyncio
import time
from collections.abc import Collection
from typing import Final, NoReturn

import psycopg

from projector.clients.retry import FIRST_PAUSE_S, LONGEST_PAUSE_S, Call
from projector.config.gitlab_settings import GitlabSettings
from projector.errors import AccessError, NotReadyError, TemporaryError
from projector.gitlab import metrics
from projector.gitlab.mapping.state import Mark, Position, Remembered, State
from projector.gitlab.mapping.tables import CI_TABLES, TABLES
from projector.gitlab.memory import Memory
from projector.gitlab.postgres.database import Connection, Digests, connect, copy_table, reading
from projector.gitlab.postgres.organization_agents import read_organization_agents
from projector.gitlab.resume import Reason, reason_to_fill
from projector.gitlab.sender import Sender
from projector.gitlab.setup.access import explained_access, in_one_line
from projector.gitlab.source import MAIN, SERVER, Database, layout, report_snapshot
from projector.gitlab.stream.batches import MAX_UNSENT

# The tables whose changes cannot wait for a round of all: who runs jobs, and whether they may.
JOB_TABLES: Final = frozenset({*CI_TABLES, "job_environments", "users"} & TABLES.keys())
OUTAGES: Final = (psycopg.Error, TemporaryError, NotReadyError, OSError)
# A poll has no position in the WAL.
MARK: Final = Mark(MAIN, 0, None)
# Time for the reading itself and for the way through Kafka.
ROUND_S: Final = 2.0


def needed_staleness(settings: GitlabSettings) -> float:
    """Return the least PROJECTOR_MAX_STALENESS, in seconds, with which polled answers stay fresh.

    A heartbeat vouches for what had happened before the one before it. So an answer is as old as
    two rounds before the next comes.
    """
    return 2 * (settings.poll_interval + ROUND_S)


class PollSource:
    """Reads all tables every interval, and those of jobs more often."""

    def __init__(
        self,
        databases: tuple[Database, ...],
        settings: GitlabSettings,
        memory: Memory,
        sender: Sender,
        digests: Digests | None = None,
    ) -> None:
        self.ready = asyncio.Event()
        self._databases = databases
        self._settings = settings
        self._memory = memory
        self._sender = sender
        self._digests = digests
        self._call = Call(None)
        self._begun = self._ended = 0
        self._progress = asyncio.Condition()

    async def look(self) -> int:
        """Wait for a full round that begins from now on; return the last event's number."""
        wanted = self._begun + 1
        async with self._progress:
            await self._progress.wait_for(lambda: self._ended >= wanted)
        return await self._memory.last_number()

    async def run(self) -> NoReturn:
        """Read until cancelled; raises `OperatorError`."""
        pause = FIRST_PAUSE_S
        all_at = 0.0
        try:
            while True:
                began = time.monotonic()
                try:
                    if began >= all_at:
                        all_at = began + self._settings.poll_interval
                        await self._full_round()
                    else:
                        await self._read(JOB_TABLES)
                except (AccessError, *OUTAGES) as error:
                    if isinstance(error, AccessError) and not self.ready.is_set():
                        raise
                    all_at = 0.0
                    self._call.fail(in_one_line(error), pause, SERVER)
                    await asyncio.sleep(pause)
                    pause = min(LONGEST_PAUSE_S, 2 * pause)
                    continue
                self._call.end()
                pause = FIRST_PAUSE_S
                await self._sender.until(lambda: self._sender.unsent <= MAX_UNSENT)
                next_at = min(all_at, began + self._settings.poll_jobs_interval)
                await asyncio.sleep(max(0.0, next_at - time.monotonic()))
        finally:
            self._call.end(gave_up=True)

    async def _full_round(self) -> None:
        self._begun += 1
        number = self._begun
        kept = layout(self._databases, self._settings)
        reason = await self._memory.state.run(lambda state: reason_to_fill(state, kept))
        if reason:
            await self._fill(reason)
        else:
            await self._read(TABLES)
        self.ready.set()
        async with self._progress:
            self._ended = number
            self._progress.notify_all()

    async def _fill(self, reason: Reason) -> None:
        """Read all tables into a state that has none, or was filled under other settings."""
        began = time.perf_counter()
        allowed: bool | None = None
        rows = 0

        def work(state: State) -> Remembered:
            nonlocal allowed, rows
            try:
                state.start_snapshot({d.name: Position(0, 0, "", 0) for d in self._databases})
                allowed, rows = self._copy(state, TABLES, fill=True)
                return state.finish_snapshot()
            except BaseException:
                state.abandon()
                raise

        remembered = await self._memory.change(work)
        await self._memory.change(lambda state: state.set_organization_agents(allowed, MARK))
        kept = layout(self._databases, self._settings)
        await self._memory.state.run(lambda state: state.note("layout", kept))
        report_snapshot(reason, rows, remembered.events, time.perf_counter() - began)

    async def _read(self, names: Collection[str]) -> None:
        """Read tables in one snapshot of each database, and remember what has changed."""
        step = "poll_all" if len(names) == len(TABLES) else "poll_jobs"
        allowed: bool | None = None

        def work(state: State) -> Remembered:
            nonlocal allowed
            try:
                allowed, _ = self._copy(state, names, fill=False)
                return state.finish(MARK)
            except BaseException:
                state.abandon()
                raise

        with metrics.BATCH.labels(step).time():
            await self._memory.change(work)
            if step == "poll_all":
                await self._memory.change(
                    lambda state: state.set_organization_agents(allowed, MARK)
                )

    def _copy(self, state: State, names: Collection[str], *, fill: bool) -> tuple[bool | None, int]:
        """Copy the tables into the state; return GitLab's setting, and the number of rows.

        Jobs are read first, so that their projects are known as they are then, or later.
        """
        allowed: bool | None = None
        rows = 0
        is_full = len(names) == len(TABLES)
        for database in reversed(self._databases):
            with explained_access(database.dsn), reading(database.dsn) as connection:
                rows += self._copy_tables(state, connection, database, names, fill=fill)
                if database.name == MAIN and not is_full and not _are_known(state, connection):
                    others = TABLES.keys() - names
                    self._copy_tables(state, connection, database, others, fill=False)
            if database.name == MAIN and is_full:
                # Not in the snapshot: a table that is missing would end its transaction.
                with connect(database.dsn) as connection:
                    allowed = read_organization_agents(connection)
        return allowed, rows

    def _copy_tables(
        self, state: State, connection: Connection, database: Database, names: Collection[str],
        *, fill: bool,
    ) -> int:  # fmt: skip
        rows = 0
        builds = state.live_builds() if len(self._databases) > 1 else None
        for table in database.tables:
            if table.name in names:
                where = table.read_by_poll(builds)
                read = copy_table(connection, table, where, self._digests)
                if fill:
                    rows += state.load(table.name, read)
                else:
                    state.replace(table.name, read)
        return rows


def _are_known(state: State, connection: Connection) -> bool:
    """Whether the projects of changed jobs, and all above them, are in the mirror as they are.

    A job that started in a project that has just moved would else belong to its former root.
    """
    projects = ", ".join(map(str, state.projects_of_changed_jobs()))
    if not projects:
        return True
    above = (
        f"WITH RECURSIVE above (id) AS (SELECT namespace_id FROM public.projects"
        f" WHERE id IN ({projects}) UNION SELECT n.parent_id FROM public.namespaces n"
        " JOIN above ON n.id = above.id WHERE n.parent_id IS NOT NULL) SELECT id FROM above"
    )
    homes = {
        "projects": f"id IN ({projects})",
        "namespaces": f"{TABLES['namespaces'].row_filter} AND id IN ({above})",
    }
    return all(
        state.has(name, copy_table(connection, TABLES[name], where))
        for name, where in homes.items()
    )
