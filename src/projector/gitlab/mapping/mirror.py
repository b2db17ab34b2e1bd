"""The mirror: the needed rows of GitLab's tables in SQLite, and the rows that a batch changed.

Changes are applied set by set. A piece is reduced to the last row of each id. These rows go into
the temporary table `incoming_<table>`, and a few statements do the rest. `changed_<table>` collects
the old and the new version of each row that differs, until the batch ends.
"""

import sqlite3
from collections.abc import Iterable
from itertools import islice

from projector.errors import SnapshotNeededError
from projector.gitlab.mapping.last_rows import last_rows
from projector.gitlab.mapping.mirror_tables import (
    BUILDS,
    ENVIRONMENT_NAMES,
    STATEMENTS,
    Statements,
    forget_ended_builds,
    refuse_late_rows,
)
from projector.gitlab.mapping.tables import TABLES, Change, Row

_CHUNK = 5000  # rows of a whole table at a time: bounds the memory of `replace`


class Mirror:
    """The rows of GitLab's tables, within the transaction that the caller opened."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.changed: set[str] = set()  # tables with rows in `changed_<table>`

    def apply(self, changes: Iterable[Change]) -> None:
        """Apply changes in the order in which PostgreSQL sent them."""
        pieces = last_rows(changes)
        for table in TABLES:
            if rows := pieces.get(table):
                self._receive(table, rows.incoming())
                if build := ENVIRONMENT_NAMES.get(table):
                    self._db.execute(refuse_late_rows(table, build))
                self._take(table, unsent=rows.unsent)
        if BUILDS in pieces:
            for table, build in ENVIRONMENT_NAMES.items():
                self._db.execute(forget_ended_builds(table, build))
        for table in pieces:
            self._db.execute(STATEMENTS[table].clear)

    def load(self, table: str, rows: Iterable[Row]) -> int:
        """Add rows of a snapshot to an emptied table; return how many the mirror keeps."""
        statements = STATEMENTS[table]
        loaded = self._db.executemany(statements.load, rows).rowcount
        if statements.has_filter:
            loaded -= self._db.execute(statements.prune).rowcount
        return loaded

    def replace(self, table: str, rows: Iterable[Row]) -> None:
        """Make a table what these rows are."""
        statements = STATEMENTS[table]
        remaining = iter(rows)
        while chunk := list(islice(remaining, _CHUNK)):
            self._receive(table, ((*row, 1, 0) for row in chunk))
            self._db.execute(f"INSERT OR IGNORE INTO seen SELECT id FROM incoming_{table}")
            self._take(table)
            self._db.execute(statements.clear)
        self._db.execute(
            f"INSERT INTO incoming_{table} (id, gone)"
            f" SELECT id, 1 FROM {table} WHERE id NOT IN (SELECT id FROM seen)"
        )
        self._take(table)
        self._db.execute(statements.clear)
        self._db.execute("DELETE FROM seen")

    def empty(self) -> None:
        """Delete all rows of all tables."""
        for table in TABLES:
            self._db.execute(f"DELETE FROM {table}")

    def forget_changes(self) -> None:
        """Empty the tables of changed rows."""
        for table in self.changed:
            self._db.execute(f"DELETE FROM changed_{table}")
        self.changed.clear()

    def _receive(self, table: str, rows: Iterable[tuple[object, ...]]) -> None:
        self._db.executemany(STATEMENTS[table].receive, rows)

    def _take(self, table: str, *, unsent: bool = False) -> None:
        """Move incoming rows into the mirror; note the versions that differ."""
        statements = STATEMENTS[table]
        if unsent:
            self._db.execute(statements.fill)
        if statements.has_filter:
            self._db.execute(statements.filter)
        if unsent:
            self._refuse_unsent(statements)
        old = self._db.execute(statements.note_old).rowcount
        new = self._db.execute(statements.note_new).rowcount
        if old:
            self._db.execute(statements.delete)
        if new:
            self._db.execute(statements.upsert)
        if old or new:
            self.changed.add(table)

    def _refuse_unsent(self, statements: Statements) -> None:
        found = self._db.execute(statements.find_unsent).fetchone()
        if found:
            raise SnapshotNeededError(
                f"PostgreSQL did not send an unchanged value of {statements.name} {found[0]},"
                " and the state does not have it"
            )
