"""The source `stream`: logical replication of one database or two, and snapshots where needed."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final, NoReturn

import psycopg
import structlog

from projector.clients.retry import FIRST_PAUSE_S, LONGEST_PAUSE_S, Call
from projector.config.gitlab_settings import GitlabSettings
from projector.errors import (
    AccessError,
    MalformedMessageError,
    NotReadyError,
    SnapshotNeededError,
    StateError,
    TemporaryError,
)
from projector.gitlab import resume
from projector.gitlab.lost_state import OLD_STATE
from projector.gitlab.mapping.state import Position
from projector.gitlab.memory import Memory
from projector.gitlab.own_thread import OwnThread
from projector.gitlab.postgres.database import Digests
from projector.gitlab.postgres.pgoutput import lsn_text
from projector.gitlab.postgres.pieces import Piece
from projector.gitlab.postgres.replication import Replication
from projector.gitlab.resume import Reason
from projector.gitlab.sender import Sender
from projector.gitlab.setup.access import explained_access, in_one_line
from projector.gitlab.source import BUILDS, CI, MAIN, SERVER, Database, layout
from projector.gitlab.stream.batches import OutboxFullError, Stream
from projector.gitlab.stream.live_settings import LiveSettings
from projector.gitlab.stream.look import Looker, Sight
from projector.gitlab.stream.snapshot import take_snapshot
from projector.process import refuse_stray_cancellation

log = structlog.get_logger()

# PostgreSQL is made to write its WAL, and asked again, where it has not reached a position so soon.
PUSH_S: Final = 0.1
ASK_AGAIN_S: Final = 1.0
LOOK_AGAIN_S: Final = 0.25
READ_SETTINGS_S: Final = 10.0
OUTAGES: Final = (psycopg.Error, TemporaryError, NotReadyError, OSError, MalformedMessageError)


class RepublishedError(Exception):
    """The publication is not as it was when the tables were read."""


class StreamSource:
    """Follows the databases through their slots."""

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
        self._publication = settings.publication
        self._memory = memory
        self._sender = sender
        self._layout = layout(databases, settings)
        self._digests = digests
        self._streams: dict[str, Stream] = {}
        self._moved = asyncio.Condition()
        self._reason: Reason | None = None
        self._call = Call(None)
        dsns = {database.name: database.dsn for database in databases}
        self._looker = OwnThread("look", lambda: Looker(settings, dsns))
        self._other_server = asyncio.Event()
        self._republished = asyncio.Event()
        self._settings = LiveSettings(self._looker, memory)

    async def run(self) -> NoReturn:
        """Follow the databases until cancelled; raises `OperatorError`."""
        pause = FIRST_PAUSE_S
        try:
            while True:
                began = time.monotonic()
                try:
                    await self._run_session()
                except SnapshotNeededError as error:
                    self._reason = Reason(resume.STREAM, str(error))
                except RepublishedError:
                    log.info("publication changed", publication=self._publication)
                except OutboxFullError:
                    await self._sender.until(lambda: self._sender.unsent == 0)
                except (AccessError, *OUTAGES) as error:
                    if isinstance(error, AccessError) and not self.ready.is_set():
                        raise
                    lasted = time.monotonic() - began
                    pause = FIRST_PAUSE_S if lasted > LONGEST_PAUSE_S else pause
                    self._call.fail(in_one_line(error), pause, SERVER)
                    await self._looker.run(Looker.close)
                    await asyncio.sleep(pause)
                    pause = min(LONGEST_PAUSE_S, 2 * pause)
        finally:
            self._call.end(gave_up=True)

    async def _run_session(self) -> None:
        """Connect, take a snapshot if one is needed, and follow the streams to their end."""
        async with AsyncExitStack() as stack:
            replications: dict[str, Replication] = {}
            for database in self._databases:
                with explained_access(database.dsn):
                    replication = await Replication.connect(database.dsn, self._digests)
                stack.push_async_callback(replication.close)
                replications[database.name] = replication
            await self._settings.require_followed()
            if reason := self._reason or await self._reason_for_snapshot(replications):
                self._reason = reason
                await self._take_snapshot(reason)
                self._reason = None
                # A table may have been left out between the first answer and the snapshot.
                await self._settings.require_followed()
            await self._settings.follow()
            self._streams = {d.name: await self._start(d, replications) for d in self._databases}
            stack.callback(self._streams.clear)
            self._call.end()
            self.ready.set()
            self._other_server.clear()
            self._republished.clear()
            streams = [stream.follow(self._notify) for stream in self._streams.values()]
            ends = [self._until_other_server(), self._until_republished(), self._read_settings()]
            await _first_failure([*streams, *ends])

    async def _reason_for_snapshot(self, replications: Mapping[str, Replication]) -> Reason | None:
        empty, unfinished, layout = await self._memory.state.run(
            lambda state: (state.is_empty, state.noted("unfinished"), state.noted("layout"))
        )
        if empty:
            return resume.NO_STATE
        if unfinished:
            return resume.UNFINISHED
        found = [await self._compare(d, replications[d.name]) for d in self._databases]
        if resume.BEHIND in found:
            raise StateError(OLD_STATE)
        if layout != self._layout:
            return resume.OTHER_SETTINGS
        if reason := next((reason for reason in found if reason), None):
            return reason
        return resume.REPUBLISHED if await self._is_republished() else None

    async def _compare(self, database: Database, replication: Replication) -> Reason | None:
        slot = await replication.slot(database.slot)
        position = await self._position(database)
        return resume.reason_for_snapshot(position, replication.identity, slot)

    async def _position(self, database: Database) -> Position | None:
        return await self._memory.state.run(lambda state: state.position(database.name))

    async def _start(self, database: Database, replications: Mapping[str, Replication]) -> Stream:
        replication, position = replications[database.name], await self._position(database)
        assert position is not None  # noqa: S101  a snapshot has stored it
        if position.system != str(replication.identity.system):
            raise psycopg.OperationalError("the snapshot was taken from another server")
        lsn = max(position.lsn, position.confirmed)
        await replication.start(database.slot, self._publication, lsn)
        log.info("streaming", database=database.name, since=lsn_text(lsn), slot=database.slot)
        before = self._follow_homes if database.name == CI else None
        return Stream(database.name, replication, self._memory, self._sender, before)

    async def _follow_homes(self, piece: Piece) -> None:
        """Let the main database's stream come first, up to where it is now.

        A job belongs to the root of its project. A project that moved before the job was created
        would still be at its former root, where the job would stay for ever.
        """
        if may_have_builds(piece):
            sight = await self._looker.run(lambda looker: looker.look_at(MAIN))
            await self._until_passed(MAIN, sight)

    async def _until_other_server(self) -> NoReturn:
        await self._other_server.wait()
        raise psycopg.OperationalError("GitLab's primary is another server than the stream's")

    async def _until_republished(self) -> NoReturn:
        await self._republished.wait()
        raise RepublishedError("the publication has changed")

    async def _require_unchanged(self) -> None:
        """Raise `RepublishedError`, and end the session, unless the publication is as it was."""
        if await self._is_republished():
            self._republished.set()
            raise RepublishedError("the publication has changed")

    async def _is_republished(self) -> bool:
        """Whether PostgreSQL may have left out changes since the tables were read."""
        published = await self._looker.run(Looker.published)
        return published != await self._memory.state.run(lambda state: state.noted("published"))

    # snapshots

    async def _take_snapshot(self, reason: Reason) -> None:
        # Without this a state that is killed now would be taken for one that was put back.
        await self._memory.state.run(lambda state: state.note("unfinished", 1))
        published = await take_snapshot(
            self._memory, self._databases, self._publication, reason, self._digests
        )
        await self._memory.state.run(lambda state: state.note("published", published))
        await self._memory.state.run(lambda state: state.note("layout", self._layout))

    # looks

    async def look(self) -> int:
        """Wait until all that has happened by now is remembered; return the last event's number."""
        while True:
            try:
                return await self._look()
            except (RepublishedError, *OUTAGES) as error:
                # The streams meet it too, and log it.
                log.debug("no look", reason=repr(error))
                await self._looker.run(Looker.close)
                await asyncio.sleep(LOOK_AGAIN_S)

    async def _look(self) -> int:
        await self.ready.wait()
        sights = await self._looker.run(Looker.look)
        await self._settings.follow()
        for name, sight in sights.items():
            await self._until_passed(name, sight)
        # Only now: as it is after the position, it has been all the way up to there.
        await self._require_unchanged()
        return await self._memory.last_number()

    async def _read_settings(self) -> NoReturn:
        """Read GitLab's settings also where no heartbeats are sent, and nobody looks."""
        while True:
            await asyncio.sleep(READ_SETTINGS_S)
            try:
                await self._settings.follow()
                await self._require_unchanged()
            except OUTAGES as error:
                log.debug("settings not read", reason=repr(error))
                await self._looker.run(Looker.close)

    async def _until_passed(self, name: str, sight: Sight) -> None:
        """Wait until the state has everything below the position, and PostgreSQL is asked for it.

        Raises `psycopg.OperationalError` where the look was at another server than the stream.
        """
        waited = 0.0
        while not self._has_passed(name, sight):
            if stream := self._streams.get(name):
                stream.replication.ask()
            pause = ASK_AGAIN_S if waited else PUSH_S
            try:
                async with asyncio.timeout(pause), self._moved:
                    await self._moved.wait_for(lambda: self._has_passed(name, sight))
            except TimeoutError:
                if not waited:
                    await self._looker.run(lambda looker: looker.push_wal(name))
                waited += pause

    def _has_passed(self, name: str, sight: Sight) -> bool:
        stream = self._streams.get(name)
        if stream is None:
            return False
        identity = stream.identity
        if (identity.system, identity.timeline) != (sight.system, sight.timeline):
            self._other_server.set()
            raise psycopg.OperationalError("the look was at another server than the stream's")
        return stream.passed >= sight.lsn

    async def _notify(self) -> None:
        async with self._moved:
            self._moved.notify_all()


def may_have_builds(piece: Piece) -> bool:
    """Whether there are builds in the piece, or perhaps in those after it.

    The later pieces of a large transaction are committed with the first: one look is enough.
    """
    return piece.commit is None or any(
        change.table == BUILDS and change.row is not None for change in piece.changes
    )


async def _first_failure(works: list[Any]) -> NoReturn:
    """Run the works at once until one raises; raise its exception once all have ended."""
    tasks = [asyncio.create_task(refuse_stray_cancellation(work)) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
    raise RuntimeError("a stream has ended without an exception")
