"""The limit of a snapshot and of a poll: COPY of the same rows to a client that drops them.

    python -m benchmarks.copy_gitlab "host=... dbname=..." snapshot|poll|jobs

Prints a JSON array: seconds, CPU seconds, and the largest resident size in bytes.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg
from psycopg import sql

from benchmarks.processes import peak_bytes
from projector.gitlab.mapping.tables import TABLES, Table

FILTERS: Final[dict[str, Callable[[Table], str]]] = {
    "snapshot": lambda table: table.read_by_snapshot(),
    "poll": lambda table: table.read_by_poll(),
    "jobs": lambda table: table.read_by_poll(),
}
# What a poll reads more often than the rest.
JOB_TABLES: Final = ("users", "p_ci_builds", "p_ci_builds_metadata", "job_environments")
ENCRYPTED: Final = "token_encrypted"


def tables_of(kind: str, connection: "psycopg.Connection[Any]") -> list[Table]:
    """Return the tables that are read, without those that this GitLab lacks."""
    tables = [TABLES[name] for name in JOB_TABLES] if kind == "jobs" else list(TABLES.values())
    present = connection.execute(
        "SELECT name FROM unnest(%s::text[]) name WHERE to_regclass(name) IS NOT NULL",
        [[table.name for table in tables]],
    )
    names = {name for (name,) in present}
    return [table for table in tables if table.name in names]


def statement(table: Table, where: str) -> sql.Composed:
    """Return the COPY of the rows that the bridge reads; it leaves the encrypted token out."""
    names = [column.source for column in table.columns.values() if column.source != ENCRYPTED]
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    found = sql.SQL("SELECT {} FROM {}").format(columns, sql.Identifier(table.name))
    if where:
        found += sql.SQL(" WHERE " + where)  # SQL of the product
    return sql.SQL("COPY ({}) TO STDOUT").format(found)


def read(dsn: str, kind: str) -> int:
    """Read the rows in one snapshot; return the bytes."""
    total = 0
    with psycopg.connect(dsn) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        for table in tables_of(kind, connection):
            with connection.cursor().copy(statement(table, FILTERS[kind](table))) as rows:
                total += sum(map(len, rows))
    return total


def main() -> None:
    """Measure one reading."""
    dsn, kind = sys.argv[1:]
    began, cpu = time.monotonic(), time.process_time()
    if not read(dsn, kind):
        raise SystemExit("no rows")
    seconds, spent = time.monotonic() - began, time.process_time() - cpu
    sys.stdout.write(f"[{seconds}, {spent}, {peak_bytes(os.getpid())}]\n")


if __name__ == "__main__":
    main()
