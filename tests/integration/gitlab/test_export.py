"""Test `projector gitlab export` on a real PostgreSQL: with a state it equals what was told."""

import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from projector.config.gitlab_settings import GitlabSettings
from projector.errors import GitlabTablesError, StateError, UnpreparedError
from projector.gitlab.export import exported
from projector.gitlab.mapping import comparison
from projector.gitlab.mapping.state import Mark, Position, State
from projector.gitlab.mapping.tables import TABLES
from projector.gitlab.postgres import database
from projector.gitlab.postgres.organization_agents import read_organization_agents
from projector.gitlab.setup.check import UnreachableError
from projector.operators.audit.comparison import read_export
from tests.integration.gitlab.company.company import Company
from tests.integration.gitlab.gitlab_database import GitlabDatabase

PARTITIONS = 4


@pytest.fixture
def company(gitlab_database: GitlabDatabase) -> Iterator[Company]:
    server = gitlab_database.server
    with closing(Company(3, server.socket_dsn(gitlab_database.name, "gitlab"))) as company:
        company.found()
        company.set_cross_root_grants(on=True)
        yield company


def settings(base: GitlabDatabase, **others: object) -> GitlabSettings:
    given = {"database": base.bridge_dsn, "source": "poll", **others}
    return GitlabSettings(**given)  # type: ignore[arg-type]


def lines(given: GitlabSettings, state: Path | None = None) -> list[bytes]:
    with exported(given, state) as found:
        return list(found)


def facts(found: list[bytes]) -> list[tuple[str, str, str]]:
    """The facts of lines: type, key and data."""
    events = [json.loads(line) for line in found]
    return sorted(
        (event["type"], event["partitionkey"], json.dumps(event["data"], sort_keys=True))
        for event in events
    )


class Bridge:
    """A bridge that polls, without Kafka."""

    def __init__(self, base: GitlabDatabase, path: Path) -> None:
        self.dsn, self.state = base.bridge_dsn, State(path, by_counter=True)
        self.path = path
        self.state.start_snapshot({"main": Position(0, 0, "1", 1)})
        self.state.finish_snapshot()
        self.poll()

    def poll(self) -> None:
        with database.reading(self.dsn) as connection:
            allowed = read_organization_agents(connection)
            for table in TABLES.values():
                where = table.read_by_poll()
                self.state.replace(table.name, database.copy_table(connection, table, where))
        self.state.finish(Mark("main", 0, None))
        self.state.set_organization_agents(allowed, Mark("main", 0, None))

    def told(self) -> list[tuple[str, str, str]]:
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as db:
            return sorted(
                (kind, "1" if root == "*" else root, json.dumps(json.loads(data), sort_keys=True))
                for kind, root, data in comparison.facts(db)
            )


def test_every_line_has_a_place_in_an_audit(
    gitlab_database: GitlabDatabase, company: Company
) -> None:
    company.change(100)
    found = lines(settings(gitlab_database))
    export, bad = read_export(io.BytesIO(b"".join(found)), PARTITIONS)
    assert bad == []
    assert export.count == len(found) > 100
    assert export.taken is not None
    assert {"group", "project", "member", "agent", "configuration", "job"} <= export.kinds


@pytest.mark.parametrize("seed", [1, 2])
def test_with_a_state_the_export_equals_what_a_bridge_has_told(
    gitlab_database: GitlabDatabase, company: Company, tmp_path: Path, seed: int
) -> None:
    company.random.seed(seed)
    bridge = Bridge(gitlab_database, tmp_path / "gitlab.db")
    with closing(bridge.state):
        for _ in range(15):
            company.change(20)
            bridge.poll()
        # The bridge has the file open all the while.
        with_state = facts(lines(settings(gitlab_database), bridge.path))
        assert with_state == bridge.told()
        alone = facts(lines(settings(gitlab_database)))
        assert alone != with_state, "this company has no blocked user who is active again"


def test_the_state_is_not_changed(
    gitlab_database: GitlabDatabase, company: Company, tmp_path: Path
) -> None:
    bridge = Bridge(gitlab_database, tmp_path / "gitlab.db")
    bridge.state.close()
    before = bridge.path.read_bytes()
    lines(settings(gitlab_database), bridge.path)
    assert bridge.path.read_bytes() == before


def test_two_databases_are_read_as_one(gitlab_database: GitlabDatabase, company: Company) -> None:
    given = settings(gitlab_database, ci_database=gitlab_database.bridge_dsn)
    assert facts(lines(given)) == facts(lines(settings(gitlab_database)))


def test_what_cannot_be_read_is_named(gitlab_database: GitlabDatabase, tmp_path: Path) -> None:
    given = settings(gitlab_database)
    with pytest.raises(StateError, match="there is none"):
        lines(given, tmp_path / "nothing.db")
    (tmp_path / "text.db").write_text("no database, but some lines of text\n" * 100)
    with pytest.raises(StateError, match="cannot be read"):
        lines(given, tmp_path / "text.db")
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE meta (name, value)")
    with pytest.raises(StateError, match="another version"):
        lines(given, tmp_path / "other.db")
    wrong = psycopg.conninfo.make_conninfo(gitlab_database.bridge_dsn, password="wrong")
    with pytest.raises(UnpreparedError, match="the password of the role"):
        lines(settings(gitlab_database, database=wrong))
    nowhere = psycopg.conninfo.make_conninfo(gitlab_database.bridge_dsn, port=1)
    with pytest.raises(UnreachableError, match="nothing listens"):
        lines(settings(gitlab_database, database=nowhere))
    with gitlab_database.connect() as gitlab:
        gitlab.execute("REVOKE SELECT (path) ON routes FROM projector")
    with pytest.raises(GitlabTablesError, match="routes"):
        lines(given)
