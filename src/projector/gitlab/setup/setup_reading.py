"""The setup of a database as PostgreSQL's catalogs show it to the bridge's own role."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from psycopg import Connection
from psycopg.rows import namedtuple_row

from projector.gitlab.mapping.tables import Kind, Table

SCHEMA = "public"
# GitLab locks the tables of another database with triggers on this function (its
# LockWritesManager).
LOCKING_FUNCTION = "gitlab_schema_prevent_write"
OLDEST_VERSION = 14_00_00


class Wanted(NamedTuple):
    """The needs of the bridge in one database."""

    tables: Mapping[str, Table]
    streams: bool
    slot: str
    publication: str
    decrypts: bool

    def columns(self, table: Table) -> dict[str, Kind]:
        """Return the names in PostgreSQL of the columns that are read, with their kinds."""
        return {
            column.source: column.kind
            for column in table.columns.values()
            if column.source != "token_encrypted" or self.decrypts
        }


class ServerSetup(NamedTuple):
    """Facts of the server and the role, readable in every version of PostgreSQL."""

    version: int
    version_name: str
    database: str
    user: str
    backend_pid: int
    standby: bool
    encoding: str
    superuser: bool
    replication: bool
    may_use_schema: bool


class ColumnSetup(NamedTuple):
    """The type of a column, and whether the role may read it."""

    type: str
    readable: bool


class Part(NamedTuple):
    """A table that holds rows: the table itself, or a partition of it."""

    schema: str
    name: str
    has_key: bool
    identity: tuple[str, ...]  # columns of the replica identity; () without one


class TableSetup(NamedTuple):
    """A table that exists."""

    kind: str
    is_logged: bool
    is_locked: bool
    columns: Mapping[str, ColumnSetup]
    parts: tuple[Part, ...]


class PublishedTable(NamedTuple):
    """A table in the publication."""

    schema: str
    name: str
    has_columns: bool
    has_filter: bool


class Publication(NamedTuple):
    """The publication."""

    all_tables: bool
    actions: frozenset[str]
    via_root: bool
    schemas: tuple[str, ...]
    tables: tuple[PublishedTable, ...]
    without_identity: tuple[Part, ...]


class Slot(NamedTuple):
    """A replication slot of the server."""

    slot_name: str
    plugin: str | None
    database: str | None
    active_pid: int | None
    wal_status: str | None


class Setup(NamedTuple):
    """All that the catalogs show, beside what is wanted."""

    wanted: Wanted
    server: ServerSetup
    settings: Mapping[str, str]
    tables: Mapping[str, TableSetup]
    publication: Publication | None
    slots: tuple[Slot, ...]
    senders: int
    blockers: tuple[str, ...]  # what holds up a new slot: SQL that ends it
    setting_readable: bool | None  # application_settings; None: there is no such column


SERVER = f"""
SELECT current_setting('server_version_num')::int AS version,
  current_setting('server_version') AS version_name,
  current_database()::text AS database, current_user::text AS user,
  pg_backend_pid() AS backend_pid, pg_is_in_recovery() AS standby,
  current_setting('server_encoding') AS encoding,
  r.rolsuper AS superuser, r.rolreplication OR r.rolsuper AS replication,
  has_schema_privilege(to_regnamespace('{SCHEMA}'), 'USAGE') AS may_use_schema
FROM pg_roles r WHERE r.rolname = current_user
"""
SETTINGS = """
SELECT name, setting FROM pg_settings WHERE name IN
  ('wal_level', 'max_replication_slots', 'max_wal_senders', 'max_slot_wal_keep_size')
"""
TABLES = f"""
SELECT c.relname::text AS name, c.relkind::text AS kind, c.relpersistence = 'p' AS is_logged,
  EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE t.tgrelid = c.oid AND p.proname = '{LOCKING_FUNCTION}') AS is_locked
FROM pg_class c WHERE c.relnamespace = to_regnamespace('{SCHEMA}') AND c.relname = ANY (%s)
  AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
COLUMNS = f"""
SELECT c.relname::text AS table, a.attname::text AS name, t.typname::text AS type,
  has_column_privilege(c.oid, a.attnum, 'SELECT') AS readable
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relnamespace = to_regnamespace('{SCHEMA}') AND c.relname = ANY (%s)
  AND a.attnum > 0 AND NOT a.attisdropped
"""
# A replica identity as PostgreSQL itself chooses it: RelationGetIndexList in relcache.c.
IDENTITY = """
WITH keys AS (
  SELECT i.indrelid, i.indisprimary, i.indisreplident,
    ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = i.indrelid
      AND a.attnum = ANY (i.indkey)) AS columns
  FROM pg_index i WHERE i.indisvalid AND i.indisunique AND i.indimmediate AND i.indpred IS NULL)
SELECT n.nspname::text AS schema, c.relname::text AS name,
  EXISTS (SELECT FROM keys WHERE indrelid = c.oid AND indisprimary) AS has_key,
  CASE c.relreplident
    WHEN 'f' THEN ARRAY(SELECT a.attname::text FROM pg_attribute a
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
    WHEN 'd' THEN (SELECT columns FROM keys WHERE indrelid = c.oid AND indisprimary)
    WHEN 'i' THEN (SELECT columns FROM keys WHERE indrelid = c.oid AND indisreplident)
  END AS identity
"""
PARTS = f"""
SELECT root.relname::text AS table, part.* FROM pg_class root, LATERAL (
  {IDENTITY} FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.oid = root.oid AND c.relkind = 'r'
    OR c.oid IN (SELECT relid FROM pg_partition_tree(root.oid) WHERE isleaf)) part
WHERE root.relnamespace = to_regnamespace('{SCHEMA}') AND root.relname = ANY (%s)
ORDER BY part.schema, part.name
"""
PUBLICATION = """
SELECT puballtables AS all_tables, pubviaroot AS via_root, ARRAY_REMOVE(ARRAY[
  CASE WHEN pubinsert THEN 'insert' END, CASE WHEN pubupdate THEN 'update' END,
  CASE WHEN pubdelete THEN 'delete' END, CASE WHEN pubtruncate THEN 'truncate' END], NULL)
  AS actions
FROM pg_publication WHERE pubname = %s
"""
# Column lists and row filters are new in 15; a column that is not there is NULL in JSON.
PUBLISHED = """
SELECT n.nspname::text AS schema, c.relname::text AS name,
  to_jsonb(r) ->> 'prattrs' IS NOT NULL AS has_columns,
  to_jsonb(r) ->> 'prqual' IS NOT NULL AS has_filter
FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
  JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.pubname = %s ORDER BY 1, 2
"""
PUBLISHED_SCHEMAS = """
SELECT n.nspname::text AS schema FROM pg_publication p
  JOIN pg_publication_namespace m ON m.pnpubid = p.oid JOIN pg_namespace n ON n.oid = m.pnnspid
WHERE p.pubname = %s
"""
# Of everything that the publication covers: GitLab's UPDATE and DELETE fail on these tables.
COVERED = f"""
WITH published AS (
  SELECT c.oid FROM pg_publication_tables p JOIN pg_namespace n ON n.nspname = p.schemaname
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
  WHERE p.pubname = %s)
SELECT * FROM ({IDENTITY} FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind = 'r' AND c.oid IN (
    SELECT oid FROM published
    UNION SELECT t.relid FROM published, LATERAL pg_partition_tree(oid) t)) covered
WHERE identity IS NULL ORDER BY schema, name
"""
SLOTS = """
SELECT slot_name::text, plugin::text, database::text, active_pid, wal_status
FROM pg_replication_slots
"""
# A new slot waits for every transaction that has an id: SnapBuildFindSnapshot in snapbuild.c.
BLOCKERS = """
SELECT format('SELECT pg_terminate_backend(%s);  -- or let it end', pid) AS mend
FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted
  AND pid IS NOT NULL AND pid <> pg_backend_pid()
UNION SELECT format('ROLLBACK PREPARED %L;  -- or COMMIT PREPARED', gid) FROM pg_prepared_xacts
ORDER BY 1
"""
SETTING = f"""
SELECT bool_and(has_column_privilege(c.oid, a.attnum, 'SELECT')) AS readable
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = to_regnamespace('{SCHEMA}') AND c.relname = 'application_settings'
  AND a.attname IN ('id', 'cluster_agents') HAVING count(*) = 2
"""


def read_server(connection: Connection[Any]) -> ServerSetup:
    """Read the facts of server and role."""
    return ServerSetup(*_one(connection, SERVER))


def read_setup(connection: Connection[Any], server: ServerSetup, wanted: Wanted) -> Setup:
    """Read everything; the server is a primary, and new enough."""
    listed = list(wanted.tables)
    return Setup(
        wanted,
        server,
        {row.name: row.setting for row in rows(connection, SETTINGS)},
        _tables(connection, listed),
        _publication(connection, wanted.publication) if wanted.streams else None,
        tuple(Slot(*row) for row in rows(connection, SLOTS)),
        _one(connection, "SELECT count(*) FROM pg_stat_replication")[0],
        tuple(row.mend for row in rows(connection, BLOCKERS)) if wanted.streams else (),
        next((row.readable for row in rows(connection, SETTING)), None),
    )


def _tables(connection: Connection[Any], listed: list[str]) -> dict[str, TableSetup]:
    columns: dict[str, dict[str, ColumnSetup]] = {name: {} for name in listed}
    for row in rows(connection, COLUMNS, listed):
        columns[row.table][row.name] = ColumnSetup(row.type, row.readable)
    parts: dict[str, list[Part]] = {name: [] for name in listed}
    for row in rows(connection, PARTS, listed):
        parts[row.table].append(_part(row))
    found = {row.name: row for row in rows(connection, TABLES, listed)}
    return {
        name: TableSetup(
            found[name].kind,
            found[name].is_logged,
            found[name].is_locked,
            columns[name],
            tuple(parts[name]),
        )
        for name in listed
        if name in found
    }


def _part(row: Any) -> Part:
    return Part(row.schema, row.name, row.has_key, tuple(row.identity or ()))


def _publication(connection: Connection[Any], name: str) -> Publication | None:
    found = rows(connection, PUBLICATION, name)
    if not found:
        return None
    has_schemas = _one(connection, "SELECT to_regclass('pg_publication_namespace')")[0]
    return Publication(
        found[0].all_tables,
        frozenset(found[0].actions),
        found[0].via_root,
        tuple(row.schema for row in rows(connection, PUBLISHED_SCHEMAS, name))
        if has_schemas
        else (),
        tuple(PublishedTable(*row) for row in rows(connection, PUBLISHED, name)),
        tuple(_part(row) for row in rows(connection, COVERED, name)),
    )


def _one(connection: Connection[Any], query: str) -> Any:
    return rows(connection, query)[0]


def rows(connection: Connection[Any], query: str, *values: Any) -> list[Any]:
    """Run a query; return its rows with names."""
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(query.encode(), values or None).fetchall()
