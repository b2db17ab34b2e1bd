"""Connections to GitLab's database: its tables in one snapshot, and its position in the WAL."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import errors, sql

from projector.errors import GitlabTablesError, StandbyError
from projector.gitlab.mapping.tables import Row, Table
from projector.gitlab.postgres.pgoutput import lsn_number
from projector.gitlab.postgres.relations import SCHEMA, TOKEN, parse

Connection = psycopg.Connection[tuple[Any, ...]]
# From encrypted tokens to the digests of the tokens.
Digests = Callable[[list[str]], list[str | None]]

# Values travel as text. A subscriber sets the same formats: they depend on no server's settings.
# The filters of rows name other tables of GitLab without their schema.
_FORMATS: Final = {
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "timezone": "UTC",
    "client_encoding": "UTF8",
    "search_path": SCHEMA,
}
# PostgreSQL notices a bridge that vanished: its snapshot would hold back VACUUM for two hours.
TIMEOUTS: Final = {
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "10min",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
# A question that takes longer means that PostgreSQL does not answer.
_QUESTION_TIMEOUT: Final = "15s"
# Tokens that are decrypted at once.
_DIGESTS: Final = 500
_LONG_PAGE_HEADER: Final = 40  # bytes, on the first page of a WAL segment
_PAGE_HEADER: Final = 24

# Names that a version of PostgreSQL does not have are left out.
SESSION: Final = """
    SELECT pg_catalog.set_config(known.name, wanted.setting, false)
    FROM unnest(%s::text[], %s::text[]) AS wanted (name, setting)
    JOIN pg_catalog.pg_settings AS known ON lower(known.name) = wanted.name
"""


def session_settings(**further: str) -> tuple[list[str], list[str]]:
    """Return names and values for the statement `SESSION`."""
    settings = {**_FORMATS, **TIMEOUTS, **further}
    return list(settings), list(settings.values())


def refuse_standby(is_standby: object) -> None:
    """Raise `StandbyError` for a true answer of `pg_is_in_recovery()`."""
    if is_standby:
        raise StandbyError(
            "GitLab's database is a standby, and lags behind: set PROJECTOR_GITLAB_DATABASE to "
            "the primary, or to all servers with target_session_attrs=primary"
        )


@contextmanager
def connect(dsn: str) -> Iterator[Connection]:
    """Open a connection for short questions to a primary."""
    with _connect(dsn, statement_timeout=_QUESTION_TIMEOUT) as connection:
        yield connection


@contextmanager
def reading(dsn: str, snapshot: str | None = None, *, waits: bool = False) -> Iterator[Connection]:
    """Open a connection that reads the primary as of now, or as of a snapshot.

    One that `waits` may be idle for long, while other databases are read.
    """
    further = {"idle_in_transaction_session_timeout": "0"} if waits else {}
    with _connect(dsn, **further) as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        if snapshot is not None:
            connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(snapshot))
        # The moment is that of the first question, not of the transaction's beginning.
        connection.execute("SELECT 1")
        yield connection


@contextmanager
def _connect(dsn: str, **settings: str) -> Iterator[Connection]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SESSION, session_settings(**settings))
        refuse_standby(_one(connection, "SELECT pg_catalog.pg_is_in_recovery()"))
        yield connection


def _one(connection: Connection, question: str) -> Any:
    [(answer,)] = connection.execute(question).fetchall()
    return answer


def copy_table(
    connection: Connection, table: Table, where: str = "", digests: Digests | None = None
) -> Iterator[Row]:
    """Yield the rows of a table, without holding them all.

    Without `digests` encrypted tokens are not read. An optional table that is missing has no rows.
    Raises `GitlabTablesError`.
    """
    rows = _copied(connection, table, where, tokens=digests is not None)
    if digests is None or all(column.source != TOKEN for column in table.columns.values()):
        return rows
    return _digested(rows, list(table.columns).index("token_sha256"), digests)


def _copied(connection: Connection, table: Table, where: str, *, tokens: bool) -> Iterator[Row]:
    kinds = [column.kind for column in table.columns.values()]
    if table.optional and not _exists(connection, table):
        return
    try:
        with connection.cursor().copy(_copy_statement(table, where, tokens=tokens)) as copy:
            for raw in copy.rows():
                yield tuple(
                    None if value is None else parse(kind, value)
                    for value, kind in zip(raw, kinds, strict=True)
                )
    except (errors.UndefinedTable, errors.UndefinedColumn, errors.InsufficientPrivilege) as error:
        raise GitlabTablesError(
            f"the table {table.name} of GitLab's database cannot be read "
            f"({error.diag.message_primary}); `projector gitlab check` names what is missing"
        ) from error


def _exists(connection: Connection, table: Table) -> bool:
    name = f"{SCHEMA}.{table.name}"
    return connection.execute("SELECT to_regclass(%s)", [name]).fetchone() != (None,)


def _copy_statement(table: Table, where: str, *, tokens: bool) -> sql.Composed:
    columns = [
        sql.SQL("NULL") if column.source == TOKEN and not tokens else sql.Identifier(column.source)
        for column in table.columns.values()
    ]
    return sql.SQL("COPY (SELECT {columns} FROM {table}{where}) TO STDOUT").format(
        columns=sql.SQL(", ").join(columns),
        table=sql.Identifier(SCHEMA, table.name),
        where=sql.SQL(f" WHERE {where}" if where else ""),
    )


def _digested(rows: Iterator[Row], place: int, digests: Digests) -> Iterator[Row]:
    """Yield the rows with their tokens replaced, some hundred at a time."""
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == _DIGESTS:
            yield from with_digests(held, place, digests)
            held = []
    yield from with_digests(held, place, digests)


def with_digests(rows: list[Row], place: int, digests: Digests) -> Iterator[Row]:
    """Yield the rows with the digest of each encrypted token in place of it."""
    found = iter(digests([token for row in rows if isinstance(token := row[place], str)]))
    for row in rows:
        digest = next(found) if isinstance(row[place], str) else row[place]
        yield (*row[:place], digest, *row[place + 1 :])


class PageSizes(NamedTuple):
    """The sizes of a WAL page and of a WAL segment, in bytes."""

    page: int
    segment: int


def insert_lsn(connection: Connection) -> int:
    """Return where the primary writes next: each commit that it shows lies below."""
    [(lsn, page, segment)] = connection.execute(
        "SELECT pg_catalog.pg_current_wal_insert_lsn()::text, ("
        " SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'wal_block_size'), ("
        " SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size')"
    ).fetchall()
    return without_header(lsn_number(lsn), PageSizes(page, segment))


def without_header(lsn: int, sizes: PageSizes) -> int:
    """Return the start of a WAL page for a position in its header, else the position.

    No record ends in a header. Waiting for a position there could take until the next commit.
    """
    header = _PAGE_HEADER if lsn % sizes.segment >= sizes.page else _LONG_PAGE_HEADER
    offset = lsn % sizes.page
    return lsn - offset if offset <= header else lsn


def push_wal(connection: Connection) -> None:
    """Make PostgreSQL write its WAL to disk, as only then it streams.

    Records of a transaction that stays open may otherwise remain in memory for 15 s, and the
    position after them would not be reached. The message is for no table and no transaction.
    """
    connection.execute("SELECT pg_catalog.pg_logical_emit_message(false, 'projector', '')")
