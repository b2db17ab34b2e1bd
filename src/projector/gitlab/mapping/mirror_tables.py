"""The mirror's tables in SQLite, and the SQL that brings incoming rows into them."""

import sqlite3

from projector.gitlab.mapping.tables import TABLES, Column, Kind, Table

BUILDS = "p_ci_builds"
# The tables of a build's environment, by their column with the build's id.
ENVIRONMENT_NAMES = {name: table.build for name, table in TABLES.items() if table.build}
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


def refuse_late_rows(table: str, build: str) -> str:
    """Return the SQL against rows that GitLab updates after a build ended: they would pile up."""
    return (
        f"UPDATE incoming_{table} SET gone = 1 WHERE NOT inserted"
        f" AND id NOT IN (SELECT id FROM {table}) AND {build} NOT IN (SELECT id FROM {BUILDS})"
    )


def forget_ended_builds(table: str, build: str) -> str:
    """Return the SQL that deletes what builds had that ended, which would pile up too."""
    return f"DELETE FROM {table} WHERE {build} IN (SELECT id FROM incoming_{BUILDS} WHERE {_ENDED})"


class Statements:
    """The SQL that applies the incoming rows of one table."""

    def __init__(self, table: Table) -> None:
        self.name = name = table.name
        columns = list(table.columns)
        names = ", ".join(columns)
        places = ", ".join("?" * len(columns))
        there = f"({', '.join(f'm.{column}' for column in columns)})"
        here = f"({', '.join(f'i.{column}' for column in columns)})"
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
        # CROSS JOIN: without it SQLite may read the whole mirror for one incoming row.
        self.note_old = (
            f"INSERT INTO changed_{name} SELECT {there[1:-1]}"
            f" FROM incoming_{name} i CROSS JOIN {name} m ON m.id = i.id"
            f" WHERE i.gone OR {there} IS NOT {here}"
        )
        self.note_new = (
            f"INSERT INTO changed_{name} SELECT {here[1:-1]}"
            f" FROM incoming_{name} i LEFT JOIN {name} m ON m.id = i.id"
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


STATEMENTS = {name: Statements(table) for name, table in TABLES.items()}


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
