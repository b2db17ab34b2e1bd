"""The GitLab-shaped database of the tests: what the bridge's role may read there, and no more."""

import psycopg
import pytest

from projector.gitlab.mapping.tables import TABLES
from projector.gitlab.postgres.database import reading
from tests.integration.gitlab.gitlab_database import GitlabDatabase


def test_the_bridges_role_reads_every_needed_column(gitlab_database: GitlabDatabase) -> None:
    with psycopg.connect(gitlab_database.bridge_dsn, autocommit=True) as bridge:
        for table in TABLES.values():
            sources = [c.source for c in table.columns.values() if c.source != "token_encrypted"]
            condition = table.read_by_snapshot()
            where = f" WHERE {condition}" if condition else ""
            bridge.execute(f"SELECT {', '.join(sources)} FROM {table.name}{where}".encode())
        for hidden in ("email FROM users", "token_encrypted FROM p_ci_builds", "* FROM issues"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                bridge.execute(f"SELECT {hidden}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            bridge.execute("UPDATE users SET state = 'blocked'")


def test_the_publication_has_whole_tables(gitlab_database: GitlabDatabase) -> None:
    with gitlab_database.connect() as gitlab:
        published = gitlab.execute(
            "SELECT tablename, rowfilter FROM pg_publication_tables WHERE pubname = 'projector'"
        ).fetchall()
    assert sorted(published) == sorted((name, None) for name in TABLES)


def test_a_reading_is_as_of_its_beginning(gitlab_database: GitlabDatabase) -> None:
    dsn = gitlab_database.bridge_dsn
    with reading(dsn, waits=True) as bridge, gitlab_database.connect() as gitlab:
        gitlab.execute("INSERT INTO users (id, username, state) VALUES (901, 'late', 'active')")
        assert bridge.execute("SELECT FROM users WHERE id = 901").fetchall() == []
        timeout = bridge.execute("SHOW idle_in_transaction_session_timeout").fetchall()
        assert timeout == [("0",)]
    with reading(dsn) as bridge:
        assert bridge.execute("SELECT FROM users WHERE id = 901").fetchall() == [()]
