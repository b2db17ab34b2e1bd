"""The state of the bridge: the mirror, what was told, the outbox, and the positions, in one file.

All methods run in the thread that made the state. Each batch is one transaction. It is on disk
(fsync) before its events leave, so that a killed bridge forgets no revocation.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from projector.gitlab.mapping import dirty, roots
from projector.gitlab.mapping.acceptance import Refusal
from projector.gitlab.mapping.comparison import Comparisons, facts
from projector.gitlab.mapping.dirty import RULES, Rule
from projector.gitlab.mapping.due import EVERYTHING
from projector.gitlab.mapping.envelope import OutboxRow
from projector.gitlab.mapping.mirror import Mirror
from projector.gitlab.mapping.mirror_tables import (
    ENVIRONMENT_NAMES,
    create_indexes,
    drop_indexes,
)
from projector.gitlab.mapping.state_file import StateFile, in_plain_words
from projector.gitlab.mapping.tables import TABLES, Change, Row

# Of the data of events that are read at once: agents may have megabytes of configuration.
MAX_UNSENT_CHARS = 8 << 20
_EPOCH = 10**20  # an LSN has 64 bits, so it is below this
# What was told differs then from all that is due. The blank is none of JSON's content.
_DIFFERENT = "UPDATE told SET data = data || ' ' WHERE data <> ''"


class Position(NamedTuple):
    """A place in the WAL of one database."""

    lsn: int  # of the last commit that the state has
    confirmed: int  # what PostgreSQL was told at most
    system: str
    timeline: int


class Mark(NamedTuple):
    """The end of a batch."""

    database: str  # "main" or "ci"
    lsn: int  # where the last commit ends; 0 for a poll
    time_ms: int | None  # when the last transaction committed


class Remembered(NamedTuple):
    """The outbox after a batch."""

    events: int  # of this batch
    last_number: int


class HeldJob(NamedTuple):
    """A job as workers have it."""

    id: int
    root: str
    is_finished: bool


class State:
    """The state file, open for one bridge."""

    def __init__(
        self,
        path: Path,
        *,
        by_counter: bool,
        rules: Iterable[Rule] = RULES,
        refused: Callable[[Refusal], object] = bool,
        read_only: bool = False,
    ) -> None:
        self._file = StateFile(path, read_only=read_only)
        self._db = self._file.db
        self._by_counter = by_counter
        self._rules = tuple(rules)
        self._mirror = Mirror(self._db)
        self._comparisons = Comparisons(self._db, refused)
        self._acknowledged: tuple[int, dict[tuple[str, int], int]] = (0, {})
        if by_counter and not read_only and not self.is_empty:
            self._leave_epoch()

    def close(self) -> None:
        """Drop an unfinished batch, and let another bridge have the file."""
        self._file.close()

    @property
    def is_empty(self) -> bool:
        """Return if the state has no snapshot, or waits for one that sends everything again."""
        return self._get("epoch") is None or self._get("again") is not None

    def position(self, database: str) -> Position | None:
        """Return where the state is in the WAL of a database."""
        lsn, confirmed = self._get(f"{database}.lsn"), self._get(f"{database}.confirmed")
        system, timeline = self._get(f"{database}.system"), self._get(f"{database}.timeline")
        if lsn is None:
            return None
        return Position(int(lsn), int(confirmed or 0), str(system), int(timeline or 0))

    # batches

    def apply(self, changes: Iterable[Change]) -> None:
        """Apply a piece of a batch, in the transaction that the first piece opens."""
        with self._in_batch():
            self._mirror.apply(changes)

    def replace(self, table: str, rows: Iterable[Row]) -> None:
        """Make a table what a poll has read, as a piece of a batch."""
        with self._in_batch():
            self._mirror.replace(table, rows)

    def projects_of_changed_jobs(self) -> list[int]:
        """Return the projects of the jobs that the open batch has changed."""
        with in_plain_words(self._file.path):
            rows = self._db.execute("SELECT DISTINCT project_id FROM changed_p_ci_builds")
            return [project for (project,) in rows if project is not None]

    def live_builds(self) -> list[int]:
        """Return the builds that run, as the open batch leaves them."""
        with in_plain_words(self._file.path):
            return [build for (build,) in self._db.execute("SELECT id FROM p_ci_builds")]

    def waiting_builds(self, after: int, limit: int) -> list[int]:
        """Return builds above an id that do not run, and have the name of an environment."""
        names = " UNION ".join(
            f"SELECT {build} AS build FROM {table} x WHERE {build} > ?1"
            f" AND NOT EXISTS (SELECT 1 FROM p_ci_builds b WHERE b.id = x.{build})"
            for table, build in ENVIRONMENT_NAMES.items()
        )
        with in_plain_words(self._file.path):
            found = self._db.execute(f"{names} ORDER BY build LIMIT ?2", [after, limit])
            return [build for (build,) in found]

    def forget_builds(self, ended: Iterable[int]) -> Remembered:
        """Forget the names of environments of builds that have ended, unless one runs here yet."""
        builds = [(build,) for build in ended]
        with self._transaction():
            for table, column in ENVIRONMENT_NAMES.items():
                self._db.executemany(
                    f"DELETE FROM {table} WHERE {column} = ?1"
                    " AND NOT EXISTS (SELECT 1 FROM p_ci_builds WHERE id = ?1)",
                    builds,
                )
        return Remembered(0, self.last_number)

    def has(self, table: str, rows: Iterable[Row]) -> bool:
        """Return if the mirror has all these rows as they are."""
        columns = ", ".join(TABLES[table].columns)
        statement = f"SELECT {columns} FROM {table} WHERE id = ?"
        with in_plain_words(self._file.path):
            return all(self._db.execute(statement, row[:1]).fetchone() == row for row in rows)

    def finish(self, mark: Mark) -> Remembered:
        """End a batch: work out its events, and store all of it at once."""
        with self._in_batch():
            changed = set(self._mirror.changed)
            if "namespaces" in changed:
                changed |= roots.follow_moves(self._db)
            if changed:
                dirty.mark(self._db, changed, self._rules)
            remembered = self._compare(mark.lsn, mark.time_ms)
            self._put(f"{mark.database}.lsn", mark.lsn)
            if "namespaces" in changed:
                roots.forget(self._db)
            self._mirror.forget_changes()
        self._commit()
        return remembered

    def abandon(self) -> None:
        """Roll back the pieces of a batch that has not ended."""
        with in_plain_words(self._file.path):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._mirror.changed.clear()

    def recheck(self, kind: str, mark: Mark) -> Remembered:
        """Compare everything of one kind; the position stays where it is."""
        with self._transaction():
            dirty.mark_everything(self._db, [kind])
            return self._compare(mark.lsn, None)

    def set_organization_agents(self, allowed: bool | None, mark: Mark) -> Remembered:
        """Store if grants may leave their root namespace; None: this GitLab has no settings."""
        with self._transaction():
            value = None if allowed is None else int(allowed)
            known = self._db.execute("SELECT value FROM meta WHERE name = 'organization_agents'")
            if known.fetchone() != (value,):
                self._put("organization_agents", value)
                dirty.mark_everything(self._db, ["shared_agent", "instance_agent"])
            return self._compare(mark.lsn, mark.time_ms)

    def remember_users(self, ids: Iterable[int], mark: Mark) -> Remembered:
        """Send the state of users that workers know of, though they were not told from here."""
        with self._transaction():
            rows = [(user,) for user in ids]
            self._db.executemany(
                "INSERT OR IGNORE INTO told VALUES ('user', ?, 0, '', '*', '')", rows
            )
            self._db.executemany("INSERT OR IGNORE INTO dirty VALUES ('user', ?, 0)", rows)
            return self._compare(mark.lsn, mark.time_ms)

    def leave_out_jobs(self, held: Iterable[HeldJob]) -> None:
        """Pin told jobs that workers have ended, or have under another root namespace.

        Workers end a job for good, and take it from one root namespace alone.
        """
        with self._transaction():
            self._db.executemany(
                "UPDATE told SET data = '' WHERE kind = 'job' AND a = ? AND (root <> ? OR ?)", held
            )

    def facts(self) -> list[tuple[str, str, str]]:
        """Return type, root and data of everything that was told."""
        with in_plain_words(self._file.path):
            return list(facts(self._db))

    # snapshots

    def start_snapshot(self, databases: Mapping[str, Position]) -> None:
        """Empty the mirror, and begin a new epoch at these positions. What was told is kept."""
        self.abandon()
        with self._in_batch():
            if self._get("again") is not None:
                self._db.execute(_DIFFERENT)
            drop_indexes(self._db)
            self._mirror.empty()
            self._begin_epoch()
            self._put("again", None)
            self._put("note.unfinished", None)
            for database, position in databases.items():
                self._put(f"{database}.lsn", position.lsn)
                self._put(f"{database}.confirmed", position.confirmed)
                self._put(f"{database}.system", position.system)
                self._put(f"{database}.timeline", position.timeline)

    def load(self, table: str, rows: Iterable[Row]) -> int:
        """Add rows of a snapshot; return how many of them the mirror keeps."""
        with self._in_batch():
            return self._mirror.load(table, rows)

    def finish_snapshot(self) -> Remembered:
        """Compare everything with what was told, and store it all at once."""
        with self._in_batch():
            create_indexes(self._db)
            roots.work_out_all(self._db)
            dirty.mark_everything(self._db, EVERYTHING)
            main = self.position("main")
            remembered = self._compare(main.lsn if main else 0, None)
        self._commit()
        return remembered

    # the outbox

    def unsent(self, after: int, limit: int) -> list[OutboxRow]:
        """Read events of the outbox above a number, in order; fewer where they are large."""
        statement = (
            "SELECT number, type, root, sequence, time, data FROM outbox"
            " WHERE number > ? ORDER BY number LIMIT ?"
        )
        found: list[OutboxRow] = []
        size = 0
        # Rows that are not read would hold their statement open.
        with in_plain_words(self._file.path), closing(self._db.cursor()) as cursor:
            for row in cursor.execute(statement, [after, limit]):
                found.append(OutboxRow(*row))
                size += len(found[-1].data)
                if size >= MAX_UNSENT_CHARS:
                    break
        return found

    @property
    def last_number(self) -> int:
        """Return the largest number that an event of the outbox ever had."""
        with in_plain_words(self._file.path):
            row = self._db.execute(
                "SELECT seq FROM sqlite_sequence WHERE name = 'outbox'"
            ).fetchone()
        return int(row[0]) if row else 0

    def acknowledged(self, upto: int, offsets: Mapping[str, Mapping[int, int]]) -> None:
        """Note what Kafka has acknowledged; the next commit stores it."""
        last, known = self._acknowledged
        news = {(topic, p): n for topic, ends in offsets.items() for p, n in ends.items()}
        self._acknowledged = (max(last, upto), known | news)

    def offsets(self) -> dict[str, dict[int, int]]:
        """Return the next offsets that Kafka has acknowledged, as stored."""
        found: dict[str, dict[int, int]] = {}
        with in_plain_words(self._file.path):
            for topic, partition, end in self._db.execute("SELECT * FROM offsets"):
                found.setdefault(topic, {})[partition] = end
        return found

    def settle(self) -> None:
        """Store acknowledgements while no batch comes."""
        if not self._db.in_transaction and any(self._acknowledged):
            with self._transaction():
                pass

    def confirm(self, database: str, lsn: int) -> bool:
        """Store what PostgreSQL is about to be told; return False within a batch."""
        if self._db.in_transaction:
            return False
        with self._transaction():
            self._put(f"{database}.confirmed", lsn)
        return True

    def send_all_again(self) -> None:
        """Let the next snapshot send all that is due, and remove what was told and is gone.

        Until then the state counts as empty, or a killed bridge would go on without it. The
        offsets are forgotten: Kafka may have lost what it had acknowledged.
        """
        with self._transaction():
            self._db.execute("DELETE FROM offsets")
            self._put("again", 1)

    # notes

    def note(self, name: str, value: int | str | None) -> None:
        """Store a value of the bridge's own under a name."""
        with self._transaction():
            self._put(f"note.{name}", value)

    def noted(self, name: str) -> int | str | None:
        """Return the value that was stored under a name, or None."""
        return self._get(f"note.{name}")

    # within

    @contextmanager
    def _in_batch(self) -> Iterator[None]:
        """Run in the batch's transaction; roll it back at an error."""
        with in_plain_words(self._file.path):
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.abandon()
                raise

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run in a transaction of its own."""
        if self._db.in_transaction:
            raise RuntimeError("a batch is open")
        with self._in_batch():
            yield
        self._commit()

    def _commit(self) -> None:
        with in_plain_words(self._file.path):
            try:
                self._store_acknowledged()
                self._db.execute("COMMIT")
            except BaseException:
                self.abandon()
                raise
        self._acknowledged = (0, {})

    def _store_acknowledged(self) -> None:
        upto, offsets = self._acknowledged
        self._db.execute("DELETE FROM outbox WHERE number <= ?", [upto])
        self._db.executemany(
            "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)",
            [(topic, partition, end) for (topic, partition), end in offsets.items()],
        )

    def _compare(self, lsn: int, time_ms: int | None) -> Remembered:
        """Write the events of what is dirty, with a sequence above all before."""
        if self._db.execute("SELECT 1 FROM dirty LIMIT 1").fetchone() is None:
            return Remembered(0, self.last_number)
        base = int(self._get("epoch") or 0) * _EPOCH + (0 if self._by_counter else lsn)
        sequence = max(base, int(self._get("sequence") or 0) + 1)
        events = self._comparisons.compare(sequence=f"{sequence:030d}", time_ms=time_ms)
        if events:
            self._put("sequence", str(sequence))
        return Remembered(events, self.last_number)

    def _leave_epoch(self) -> None:
        """Begin an epoch: a counter in a restored file is below what workers have seen."""
        try:
            with self._transaction():
                self._begin_epoch()
        except BaseException:
            self.close()
            raise

    def _begin_epoch(self) -> None:
        last = self._get("epoch")
        self._put("epoch", max(int(time.time()), int(last or 0) + 1))

    def _get(self, name: str) -> int | str | None:
        with in_plain_words(self._file.path):
            row = self._db.execute("SELECT value FROM meta WHERE name = ?", [name]).fetchone()
        return row[0] if row else None

    def _put(self, name: str, value: int | str | None) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [name, value])
