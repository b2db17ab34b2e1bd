"""A company's connections, its dice, and what it remembers of its jobs."""

import random
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.rows import dict_row

from tests.integration.gitlab.company.database_tokens import DatabaseTokens

T = TypeVar("T")
Row = dict[str, Any]
Connection = psycopg.Connection[Row]


def connect(dsn: str | None) -> Connection | None:
    """Connect without prepared statements: those fail once after a change of a table."""
    if dsn is None:
        return None
    return psycopg.connect(dsn, autocommit=True, row_factory=dict_row, prepare_threshold=None)


class RegretError(Exception):
    """A transaction, or a part of one, that GitLab rolls back."""


class Session:
    """GitLab's connections: `ci` is another one where the jobs have a database of their own."""

    def __init__(self, seed: int, main: str, ci: str | None = None) -> None:
        self.random = random.Random(seed)
        self._dsns = main, ci
        self.main, self.ci = self._connect()
        self.tokens = DatabaseTokens(self.random)
        self.encrypted: dict[int, str] = {}  # the database token of each build
        self.partitions = [100, 101]
        self._names, self._seed = 0, seed

    def _connect(self) -> tuple[Connection, Connection]:
        main, ci = map(connect, self._dsns)
        assert main
        return main, ci or main

    def reconnect(self) -> None:
        """Connect again once PostgreSQL answers."""
        self.close()
        end = time.monotonic() + 30
        while self.main.closed:
            try:
                self.main, self.ci = self._connect()
            except psycopg.OperationalError:
                assert time.monotonic() < end, "PostgreSQL does not come back"
                time.sleep(0.05)

    def close(self) -> None:
        self.main.close()
        self.ci.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Open a transaction, or a savepoint within it; `RegretError` rolls it back."""
        try:
            with ExitStack() as stack:
                for connection in {id(c): c for c in (self.main, self.ci)}.values():
                    stack.enter_context(connection.transaction())
                yield
        except RegretError:
            pass

    def rows(self, sql: str, *values: Any) -> list[Row]:
        """Run a statement; return its rows."""
        connection = self.ci if "p_ci_builds" in sql else self.main
        cursor = connection.execute(sql.encode(), values)
        return cursor.fetchall() if cursor.description else []

    def value(self, sql: str, *values: Any) -> Any:
        """Return the first column of the first row, or None."""
        rows = self.rows(sql, *values)
        return next(iter(rows[0].values())) if rows else None

    def pick(self, table: str, *values: Any) -> Any:
        """Return the id of one row of a table, or of a table with a condition; None without any."""
        rows = self.rows(f"SELECT id FROM {table} ORDER BY id", *values)
        return self.random.choice(rows)["id"] if rows else None

    def insert(self, table: str, **columns: Any) -> int:
        """Insert a row; return its id."""
        names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
        sql = f"INSERT INTO {table} ({names}) VALUES ({marks}) RETURNING id"
        return int(self.value(sql, *columns.values()))

    def update(self, table: str, id_: Any, **columns: Any) -> None:
        """Change one row."""
        pairs = ", ".join(f"{name} = %s" for name in columns)
        self.rows(f"UPDATE {table} SET {pairs} WHERE id = %s", *columns.values(), id_)

    def delete(self, table: str, id_: Any) -> None:
        """Delete one row."""
        self.rows(f"DELETE FROM {table} WHERE id = %s", id_)

    def name(self, prefix: str) -> str:
        """Return a name that nothing else has."""
        self._names += 1
        return f"{prefix}{self._seed}-{self._names}"

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def choice(self, *things: T) -> T:
        return self.random.choice(things)

    def sample(self, things: Iterable[T], most: int) -> list[T]:
        """Return at most this many of the things."""
        known = list(things)
        return self.random.sample(known, min(most, len(known)))

    def text(self, letters: int) -> str:
        """Return a text that does not compress well, so that PostgreSQL stores it apart."""
        return self.random.randbytes(letters // 2).hex()
