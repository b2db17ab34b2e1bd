"""The mirror: the needed rows of GitLab's tables in SQLite, and the rows that a batch changed.

Changes are applied set by set. A piece is reduced to the last row of each id. These rows go into
the temporary table `incoming_<table>`, and a few statements do the rest. `changed_<table>` collects
the old and the new version of each row that differs, until the batch ends.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice

from projector.errors import SnapshotNeededError
from projector.gitlab.tables import TABLES, UNCHANGED, Change, Column, Kind, Row, Table

BUILDS = "p_ci_builds"
# The tables of a build's environment, by their column with the build's id.
ENVIRONMENT_NAMES = {"p_ci_builds_metadata": "build_id", "job_environments": "ci_job_id"}
# UNCHANGED in an incoming table. GitLab's columns of text hold no BLOB.
_UNSENT = b""
_CHUNK = 5000  # rows of a whole table at a time: bounds the memory of `replace`
# Other builds may still run, and GitLab sends no row of their metadata then.
_ENDED = "status IS NULL OR status IN ('success', 'failed', 'canceled') OR type IS NOT 'Ci::Build'"

INDEXES = (
    ("namespaces", "parent_id"),
    ("projects", "namespace_id"),
    ("routes", "source_id, source_type"),
    ("members", "source_id, source_type, user_id"),
    ("group_group_links", "shared_group_id"),
    ("group_group_links", "shared_with_group_id"),
    ("project_group_links", "project_id"),
    ("project_group_links", "group_id"),
    ("cluster_agents", "project_id"),
    ("agent_project_authorizations", "agent_id"),
    ("agent_project_authorizations", "project_id"),
    ("agent_group_authorizations", "agent_id"),
    ("agent_group_authorizations", "group_id"),
    ("agent_organization_authorizations", "agent_id"),
    ("environments", "project_id, name"),
    (BUILDS, "project_id"),
    (BUILDS, "user_id"),
    *ENVIRONMENT_NAMES.items(),
)


def _kept(table: str, column: str) -> str:
    """Return the SQL of a value that PostgreSQL did not send, from the mirror."""
    found = f"(SELECT m.{column} FROM {table} m WHERE m.id = incoming_{table}.id)"
    return f"CASE WHEN {column} = x'' THEN coalesce({found}, x'') ELSE {column} END"


def _refuse_late_rows(table: str, build: str) -> str:
    """Return the SQL against rows that GitLab updates after a build ended: they would pile up."""
    return (
        f"UPDATE incoming_{table} SET gone = 1 WHERE NOT inserted"
        f" AND id NOT IN (SELECT id FROM {table}) AND {build} NOT IN (SELECT id FROM {BUILDS})"
    )


def _forget_ended_builds(table: str, build: str) -> str:
    return f"DELETE FROM {table} WHERE {build} IN (SELECT id FROM incoming_{BUILDS} WHERE {_ENDED})"


class _Statements:
    """The SQL that applies the incoming rows of one table."""

    def __init__(self, table: Table) -> None:
        self.name = name = table.name
        columns = list(table.columns)
        names = ", ".join(columns)
        places = ", ".join("?" * len(columns))
        there = f"({', '.join(f'm.{column}' for column in columns)})"
        here = f"({', '.join(f'i.{column}' for column in columns)})"
        joined = f"incoming_{name} i LEFT JOIN {name} m ON m.id = i.id"
        assigned = ", ".join(f"{column} = excluded.{column}" for column in columns[1:])
        texts = [name for name, column in table.columns.items() if column.kind is Kind.TEXT]
        filled = ", ".join(f"{column} = {_kept(name, column)}" for column in texts)
        unsent = " OR ".join(f"{column} = x''" for column in texts) or "0"
        self.fill = f"UPDATE incoming_{name} SET {filled} WHERE {unsent}"
        self.find_unsent = f"SELECT id FROM incoming_{name} WHERE NOT gone AND ({unsent}) LIMIT 1"
        self.load = f"INSERT OR REPLACE INTO {name} ({names}) VALUES ({places})"
        self.receive = f"INSERT OR REPLACE INTO incoming_{name} VALUES ({places}, ?, ?)"
        self.filter = (
            f"UPDATE incoming_{name} SET gone = 1 WHERE NOT coalesce(({table.row_filter}), 0)"
        )
        self.prune = f"DELETE FROM {name} WHERE NOT coalesce(({table.row_filter}), 0)"
        self.note_old = (
            f"INSERT INTO changed_{name} SELECT {there[1:-1]} FROM {joined}"
            f" WHERE m.id IS NOT NULL AND (i.gone OR {there} IS NOT {here})"
        )
        self.note_new = (
            f"INSERT INTO changed_{name} SELECT {here[1:-1]} FROM {joined}"
            f" WHERE NOT i.gone AND (m.id IS NULL OR {there} IS NOT {here})"
        )
        self.delete = f"DELETE FROM {name} WHERE id IN (SELECT id FROM incoming_{name} WHERE gone)"
        self.upsert = (
            f"INSERT INTO {name} ({names}) SELECT {names} FROM incoming_{name} WHERE NOT gone"
            f" ON CONFLICT (id) DO UPDATE SET {assigned}"
            f" WHERE ({names}) IS NOT ({', '.join(f'excluded.{column}' for column in columns)})"
        )
        self.clear = f"DELETE FROM incoming_{name}"
        self.has_filter = bool(table.row_filter)


_STATEMENTS = {name: _Statements(table) for name, table in TABLES.items()}


def create(db: sqlite3.Connection) -> None:
    """Create the tables of the mirror, and the temporary ones."""
    for name, table in TABLES.items():
        columns = ", ".join(f"{name} {_type(column)}" for name, column in table.columns.items())
        columns = columns.removeprefix("id INTEGER, ")
        root = ", root TEXT" if name == "namespaces" else ""
        db.execute(f"CREATE TABLE IF NOT EXISTS {name} (id INTEGER PRIMARY KEY, {columns}{root})")
        db.execute(f"CREATE TEMP TABLE changed_{name} (id INTEGER, {columns})")
        db.execute(
            f"CREATE TEMP TABLE incoming_{name}"
            f" (id INTEGER PRIMARY KEY, {columns}, inserted INTEGER, gone INTEGER)"
        )
    create_indexes(db)
    db.execute("CREATE TEMP TABLE seen (id INTEGER PRIMARY KEY)")


def _type(column: Column) -> str:
    return "TEXT" if column.kind is Kind.TEXT else "INTEGER"


def create_indexes(db: sqlite3.Connection) -> None:
    """Create the indexes that rules and due rows use."""
    for table, columns in INDEXES:
        name = f"{table}_by_{columns.replace(', ', '_')}"
        db.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {table} ({columns})")


def drop_indexes(db: sqlite3.Connection) -> None:
    """Drop the indexes, since a snapshot loads faster without them."""
    for table, columns in INDEXES:
        db.execute(f"DROP INDEX IF EXISTS {table}_by_{columns.replace(', ', '_')}")


class Mirror:
    """The rows of GitLab's tables, within the transaction that the caller opened."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.changed: set[str] = set()  # tables with rows in `changed_<table>`

    def apply(self, changes: Iterable[Change]) -> None:
        """Apply changes in the order in which PostgreSQL sent them."""
        pieces = _last_rows(changes)
        for table in TABLES:
            if rows := pieces.get(table):
                self._receive(table, rows.incoming())
                if build := ENVIRONMENT_NAMES.get(table):
                    self._db.execute(_refuse_late_rows(table, build))
                self._take(table, unsent=rows.unsent)
        if BUILDS in pieces:
            for table, build in ENVIRONMENT_NAMES.items():
                self._db.execute(_forget_ended_builds(table, build))
        for table in pieces:
            self._db.execute(_STATEMENTS[table].clear)

    def load(self, table: str, rows: Iterable[Row]) -> int:
        """Add rows of a snapshot to an emptied table; return how many the mirror keeps."""
        statements = _STATEMENTS[table]
        loaded = self._db.executemany(statements.load, rows).rowcount
        if statements.has_filter:
            loaded -= self._db.execute(statements.prune).rowcount
        return loaded

    def replace(self, table: str, rows: Iterable[Row]) -> None:
        """Make a table what these rows are."""
        statements = _STATEMENTS[table]
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
        self._db.executemany(_STATEMENTS[table].receive, rows)

    def _take(self, table: str, *, unsent: bool = False) -> None:
        """Move incoming rows into the mirror; note the versions that differ."""
        statements = _STATEMENTS[table]
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

    def _refuse_unsent(self, statements: _Statements) -> None:
        found = self._db.execute(statements.find_unsent).fetchone()
        if found:
            raise SnapshotNeededError(
                f"PostgreSQL did not send an unchanged value of {statements.name} {found[0]},"
                " and the state does not have it"
            )


class _LastRows:
    """The last row of each id in a piece, for one table."""

    def __init__(self, width: int) -> None:
        self.unsent = False
        self._nothing = (None,) * (width - 1)
        self._rows: dict[int, Row | None] = {}
        self._inserted: dict[int, bool] = {}

    def add(self, change: Change) -> None:
        """Note a change; values that it leaves out come from the row before."""
        row = change.row
        if row is not None and UNCHANGED in row:
            row = _filled(row, self._rows.get(change.id))
            self.unsent = self.unsent or UNCHANGED in row
        self._rows[change.id] = row
        self._inserted[change.id] = change.inserted or self._inserted.get(change.id, False)

    def incoming(self) -> Iterator[tuple[object, ...]]:
        """Iterate over rows as the incoming table has them."""
        for row_id, row in self._rows.items():
            if row is None:
                yield (row_id, *self._nothing, 0, 1)
            else:
                values: tuple[object, ...] = row
                if self.unsent:
                    values = tuple(_UNSENT if value is UNCHANGED else value for value in row)
                yield (*values, self._inserted[row_id], 0)


def _filled(row: Row, before: Row | None) -> Row:
    if before is None:
        return row
    return tuple(
        old if value is UNCHANGED else value for value, old in zip(row, before, strict=True)
    )


def _last_rows(changes: Iterable[Change]) -> dict[str, _LastRows]:
    pieces: dict[str, _LastRows] = {}
    for change in changes:
        rows = pieces.get(change.table)
        if rows is None:
            rows = pieces[change.table] = _LastRows(len(TABLES[change.table].columns))
        rows.add(change)
    return pieces
