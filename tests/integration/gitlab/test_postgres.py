"""Test the PostgreSQL that other tests run on."""

import psycopg
import pytest

from tests.integration.gitlab.postgres import Postgres


def test_databases_are_empty_and_logical_decoding_is_on(
    shared_postgres: Postgres, database: str
) -> None:
    assert shared_postgres.execute("SHOW wal_level") == [("logical",)]
    assert shared_postgres.psql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'",
                                database) == "0\n"  # fmt: skip


def test_tcp_needs_the_password(shared_postgres: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(shared_postgres.dsn(password="wrong"))


def test_committed_rows_outlive_an_immediate_restart(own_postgres: Postgres) -> None:
    own_postgres.execute("CREATE TABLE kept (id int)")
    own_postgres.execute("INSERT INTO kept VALUES (%s)", 7)
    own_postgres.restart("immediate")
    assert own_postgres.execute("SELECT id FROM kept") == [(7,)]
    own_postgres.set(wal_sender_timeout="3s")
    assert own_postgres.execute("SHOW wal_sender_timeout") == [("3s",)]
