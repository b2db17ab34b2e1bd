"""Test `projector gitlab check` on databases that are set up wrongly, and what it prints."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from projector.config.gitlab_settings import GitlabSettings
from projector.errors import UnpreparedError
from projector.gitlab.setup import check as checks
from projector.gitlab.setup.check import UnreachableError, check
from projector.gitlab.setup.findings import SQL, Finding
from projector.gitlab.setup.setup_script import script
from tests.integration.gitlab.conftest import drop_slots
from tests.integration.gitlab.gitlab_database import BRIDGE, BRIDGE_PASSWORD, GitlabDatabase
from tests.integration.gitlab.postgres import Postgres, running_postgres

WAL = "1GB"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres(max_slot_wal_keep_size=WAL) as server:
        yield server


@pytest.fixture
def gitlab(server: Postgres, tmp_path: Path) -> Iterator[GitlabDatabase]:
    """A database that is set up by the printed script."""
    name = f"check_{os.urandom(4).hex()}"
    server.execute(f"CREATE DATABASE {name}")
    database = GitlabDatabase(server, name)
    database.create()
    server.psql(script(settings(database, tmp_path)), name)
    yield database
    server.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
                   "WHERE database IS NULL")  # fmt: skip
    drop_slots(server, name)
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    server.execute(f"ALTER ROLE {BRIDGE} LOGIN REPLICATION NOSUPERUSER CONNECTION LIMIT -1")


def settings(base: GitlabDatabase, folder: Path, **others: Any) -> GitlabSettings:
    given = {"database": base.bridge_dsn, "state": folder / "gitlab.db", **others}
    return GitlabSettings(**given)


def must(given: GitlabSettings) -> list[Finding]:
    return [found for found in every(given) if not found.is_hint]


def every(given: GitlabSettings) -> list[Finding]:
    return [found for checked in check(given) for found in checked.findings]


def mend(database: GitlabDatabase, findings: list[Finding]) -> None:
    """Run the SQL that was printed, as the superuser."""
    for found in findings:
        statements = [remedy.text for remedy in found.remedies if remedy.place == SQL]
        with closing(database.server.connect(database.name)) as connection:
            for text in statements:
                connection.execute(text.encode())


def test_the_printed_script_makes_a_database_ready_and_may_be_run_again(
    gitlab: GitlabDatabase, tmp_path: Path
) -> None:
    given = settings(gitlab, tmp_path)
    assert must(given) == []
    before = gitlab.server.psql("SELECT * FROM pg_publication_tables ORDER BY 1, 2, 3", gitlab.name)
    gitlab.server.psql(script(given), gitlab.name)
    assert must(given) == []
    after = gitlab.server.psql("SELECT * FROM pg_publication_tables ORDER BY 1, 2, 3", gitlab.name)
    assert before == after


# What is set up wrongly, a part of the sentence that must come, and whether it is a hint.
WRONG: list[tuple[str, str]] = [
    ("ALTER ROLE projector NOREPLICATION", "may not replicate"),
    ("REVOKE SELECT (username) ON users FROM projector", "may not read username of users"),
    ("REVOKE SELECT (status, project_id) ON p_ci_builds FROM projector",
     "may not read status, project_id of p_ci_builds"),
    ("REVOKE USAGE ON SCHEMA public FROM PUBLIC, projector", "may not use the schema public"),
    ("DROP PUBLICATION projector", "publication projector is missing"),
    ("ALTER PUBLICATION projector DROP TABLE users, routes", "lacks users, routes"),
    ("ALTER PUBLICATION projector SET (publish = 'insert, update')",
     "leaves out delete, truncate"),
    ("ALTER PUBLICATION projector SET (publish_via_partition_root = false)", "names partitions"),
    ("ALTER PUBLICATION projector DROP TABLE users;"
     "ALTER PUBLICATION projector ADD TABLE users (id, username, state)", "a column list on users"),
    ("ALTER PUBLICATION projector DROP TABLE users;"
     "ALTER PUBLICATION projector ADD TABLE users WHERE (id > 5)", "a row filter on users"),
    ("DROP PUBLICATION projector; CREATE PUBLICATION projector FOR ALL TABLES", "has all tables"),
    ("ALTER PUBLICATION projector ADD TABLES IN SCHEMA gitlab_partitions_dynamic",
     "has all tables of gitlab_partitions_dynamic"),
    ("ALTER PUBLICATION projector ADD TABLE audit_lines", "DELETE fail in audit_lines"),
    ("ALTER TABLE members REPLICA IDENTITY NOTHING", "members has no primary key"),
    ("ALTER TABLE cluster_agents DROP CONSTRAINT cluster_agents_pkey CASCADE",
     "cluster_agents has no primary key"),
    ("ALTER TABLE routes DROP CONSTRAINT routes_pkey; ALTER TABLE routes ADD CONSTRAINT routes_pkey"
     " PRIMARY KEY (id) DEFERRABLE", "routes has no primary key"),
    ("ALTER TABLE routes ALTER COLUMN path SET NOT NULL; CREATE UNIQUE INDEX path ON routes (path);"
     "ALTER TABLE routes REPLICA IDENTITY USING INDEX path", "routes has no primary key"),
    ("ALTER TABLE gitlab_partitions_dynamic.ci_builds_101 REPLICA IDENTITY NOTHING",
     "p_ci_builds (ci_builds_101) has no primary key"),
    ("SELECT pg_create_logical_replication_slot('projector', 'test_decoding')",
     "belongs to the plugin test_decoding"),
    ("SELECT pg_create_physical_replication_slot('projector')", "belongs to physical replication"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "sentence"), WRONG, ids=[each[1] for each in WRONG])
def test_the_printed_sql_mends_what_is_wrong(
    gitlab: GitlabDatabase, tmp_path: Path, wrong: str, sentence: str
) -> None:
    gitlab.server.execute(wrong, database=gitlab.name)
    given = settings(gitlab, tmp_path)
    found = must(given)
    assert [each.sentence for each in found if sentence in each.sentence], found
    assert all(each.sentence.endswith(".") and each.remedies for each in found)
    mend(gitlab, found)
    assert must(given) == []


HINTS: list[tuple[str, str]] = [
    ("ALTER PUBLICATION projector ADD TABLE issues", "also has issues"),
    ("ALTER ROLE projector SUPERUSER", "is a superuser"),
    ("REVOKE ALL (cluster_agents) ON application_settings FROM projector", "takes it as off"),
]


@pytest.mark.parametrize(("wrong", "sentence"), HINTS, ids=[each[1] for each in HINTS])
def test_a_hint_need_not_be_mended_and_can_be(
    gitlab: GitlabDatabase, tmp_path: Path, wrong: str, sentence: str
) -> None:
    gitlab.server.execute(wrong, database=gitlab.name)
    given = settings(gitlab, tmp_path)
    assert must(given) == []
    found = [each for each in every(given) if sentence in each.sentence]
    assert len(found) == 1
    mend(gitlab, found)
    assert not [each for each in every(given) if sentence in each.sentence]


UNMENDABLE: list[tuple[str, str]] = [
    ("DROP TABLE routes", "has no routes"),
    ("ALTER TABLE users RENAME state TO condition", "users has no column state"),
    ("ALTER TABLE environments ALTER tier TYPE varchar", "tier (varchar) of a type other"),
    ("ALTER TABLE agent_group_authorizations SET UNLOGGED", "is no ordinary table"),
    ("DROP TABLE p_ci_builds_metadata; DROP TABLE IF EXISTS job_environments",
     "has no job_environments or p_ci_builds_metadata"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "sentence"), UNMENDABLE, ids=[each[1] for each in UNMENDABLE])
def test_a_gitlab_of_another_version_is_refused(
    gitlab: GitlabDatabase, tmp_path: Path, wrong: str, sentence: str
) -> None:
    gitlab.server.execute("ALTER PUBLICATION projector DROP TABLE agent_group_authorizations",
                          database=gitlab.name)  # fmt: skip
    gitlab.server.execute(wrong, database=gitlab.name)
    assert [each for each in must(settings(gitlab, tmp_path)) if sentence in each.sentence]


def test_tables_that_gitlab_has_locked_are_in_another_database(
    gitlab: GitlabDatabase, tmp_path: Path
) -> None:
    gitlab.server.psql(
        "CREATE FUNCTION gitlab_schema_prevent_write() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'locked'; END $$;"
        "CREATE TRIGGER locked BEFORE INSERT ON p_ci_builds FOR EACH STATEMENT "
        "EXECUTE FUNCTION gitlab_schema_prevent_write()",
        gitlab.name,
    )
    found = must(settings(gitlab, tmp_path))
    assert [each for each in found if "locked p_ci_builds" in each.sentence]
    # With that other database named, the tables here are of no concern.
    both = settings(gitlab, tmp_path, ci_database=gitlab.bridge_dsn)
    main, _ci = [checked.findings for checked in check(both)][1:]
    assert [each for each in main if not each.is_hint] == []


def test_poll_needs_select_and_nothing_else(gitlab: GitlabDatabase, tmp_path: Path) -> None:
    gitlab.server.execute("ALTER ROLE projector NOREPLICATION; DROP PUBLICATION projector",
                          database=gitlab.name)  # fmt: skip
    given = settings(gitlab, tmp_path, source="poll")
    assert must(given) == []
    assert "PUBLICATION" not in script(given)
    gitlab.server.execute("REVOKE SELECT (path) ON routes FROM projector", database=gitlab.name)
    assert [each.sentence for each in must(given)] == [
        "The role projector may not read path of routes."
    ]


def test_an_open_transaction_is_a_hint_with_its_end(gitlab: GitlabDatabase, tmp_path: Path) -> None:
    given = settings(gitlab, tmp_path)
    with closing(gitlab.connect(autocommit=False)) as open_one:
        open_one.execute("INSERT INTO users (username, email) VALUES ('a', 'a@example.com')")
        found = [each for each in every(given) if "open transaction" in each.sentence]
        assert len(found) == 1
        mend(gitlab, found)
        with pytest.raises(psycopg.OperationalError):
            open_one.execute("SELECT 1")
    assert not [each for each in every(given) if "open transaction" in each.sentence]


def test_a_slot_in_use_is_another_bridge(gitlab: GitlabDatabase, tmp_path: Path) -> None:
    gitlab.server.execute("SELECT pg_create_logical_replication_slot('projector', 'pgoutput')",
                          database=gitlab.name)  # fmt: skip
    other = psycopg.connect(gitlab.bridge_dsn, replication="database", autocommit=True)
    with closing(other):
        other.pgconn.send_query(
            b"START_REPLICATION SLOT projector LOGICAL 0/0"
            b" (proto_version '1', publication_names 'projector')"
        )
        found = every(settings(gitlab, tmp_path))
        assert [each for each in found if "in use by process" in each.sentence]
        assert not [each for each in found if not each.is_hint]


REFUSED: list[tuple[Callable[[GitlabDatabase], str], str]] = [
    (
        lambda g: g.server.dsn(g.name, BRIDGE, "wrong"),
        "the password of the role projector is wrong",
    ),
    (lambda g: g.server.dsn(g.name, "nobody_here", "wrong"), "or there is no such role"),
    (lambda g: g.server.dsn("nothing", BRIDGE, BRIDGE_PASSWORD), "the database does not exist"),
    (lambda g: g.server.dsn("postgres", BRIDGE, BRIDGE_PASSWORD), "none of GitLab's tables"),
    (lambda g: g.bridge_dsn + " sslmode=require", "does not speak TLS"),
    (lambda g: g.server.socket_dsn(g.name, "nobody_here"), "the role does not exist"),
]


@pytest.mark.parametrize(("dsn", "sentence"), REFUSED, ids=[each[1] for each in REFUSED])
def test_a_refused_connection_is_explained(
    gitlab: GitlabDatabase,
    tmp_path: Path,
    dsn: Callable[[GitlabDatabase], str],
    sentence: str,
) -> None:
    found = must(settings(gitlab, tmp_path, database=dsn(gitlab)))
    assert [each for each in found if sentence in each.sentence], found
    assert all(BRIDGE_PASSWORD not in repr(each) and "wrong'" not in repr(each) for each in found)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"port": 1}, "nothing listens there"),
        ({"host": "no-such-host.invalid"}, "the host name is unknown"),
    ],
)
def test_no_answer_is_an_outage(
    gitlab: GitlabDatabase, tmp_path: Path, parts: dict[str, Any], sentence: str
) -> None:
    dsn = psycopg.conninfo.make_conninfo(gitlab.bridge_dsn, **parts)
    with pytest.raises(UnreachableError, match=sentence) as raised:
        must(settings(gitlab, tmp_path, database=dsn))
    assert BRIDGE_PASSWORD not in str(raised.value)


def test_a_role_without_login_is_mended(gitlab: GitlabDatabase, tmp_path: Path) -> None:
    gitlab.server.execute("ALTER ROLE projector NOLOGIN")
    given = settings(gitlab, tmp_path)
    found = must(given)
    assert "may not log in" in found[0].sentence
    mend(gitlab, found)
    assert must(given) == []


def test_the_right_to_a_base_backup_is_noticed(gitlab: GitlabDatabase, tmp_path: Path) -> None:
    access = gitlab.server.data / "pg_hba.conf"
    before = access.read_text()
    given = settings(gitlab, tmp_path)
    try:
        access.write_text(before + "host replication all 127.0.0.1/32 scram-sha-256\n")
        gitlab.server.set()
        found = [each for each in every(given) if "base backup" in each.sentence]
        assert len(found) == 1
        line = found[0].remedies[0].text.partition("  --")[0]
        access.write_text(f"{line}\n{access.read_text()}")
        gitlab.server.set()
        assert not [each for each in every(given) if "base backup" in each.sentence]
        assert must(given) == []
    finally:
        access.write_text(before)
        gitlab.server.set()


def test_settings_of_the_server_are_mended_by_the_printed_sql(tmp_path: Path) -> None:
    wrong = {"wal_level": "replica", "max_replication_slots": "1", "max_wal_senders": "1"}
    # In postgresql.conf, and not on the command line, which would win over ALTER SYSTEM.
    with running_postgres() as server:
        configuration = server.data / "postgresql.conf"
        lines = "".join(f"{name} = {value}\n" for name, value in wrong.items())
        configuration.write_text(configuration.read_text() + lines)
        for name in wrong:
            place = server._argv.index(next(a for a in server._argv if a.startswith(f"{name}=")))
            del server._argv[place - 1 : place + 1]
        server.restart()
        server.execute("CREATE DATABASE gitlabhq_production")
        gitlab = GitlabDatabase(server, "gitlabhq_production")
        gitlab.create()
        given = settings(gitlab, tmp_path)
        server.psql(script(given), gitlab.name)
        server.execute("SELECT pg_create_physical_replication_slot('standby', true)")
        standby = psycopg.connect(server.socket_dsn(), replication="true", autocommit=True)
        with closing(standby):
            standby.pgconn.send_query(b"START_REPLICATION SLOT standby 0/0")
            found = must(given)
        sentences = " ".join(each.sentence for each in found)
        assert "wal_level is replica" in sentences
        assert "max_replication_slots is 1 with 1" in sentences
        assert "max_wal_senders is 1 with 1" in sentences
        assert "max_slot_wal_keep_size is -1" in sentences
        mend(gitlab, found)
        server.restart()
        assert must(given) == []


def test_a_standby_is_refused(tmp_path: Path) -> None:
    with running_postgres(max_slot_wal_keep_size=WAL) as server:
        server.execute("CREATE DATABASE gitlabhq_production")
        gitlab = GitlabDatabase(server, "gitlabhq_production")
        gitlab.create()
        server.psql(script(settings(gitlab, tmp_path)), gitlab.name)
        server.halt()
        (server.data / "standby.signal").touch()
        server.start()
        found = must(settings(gitlab, tmp_path))
        assert [each for each in found if "is a standby" in each.sentence]


def test_another_encoding_is_another_database(gitlab: GitlabDatabase, tmp_path: Path) -> None:
    name = f"latin_{os.urandom(4).hex()}"
    gitlab.server.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    dsn = gitlab.server.dsn(name, BRIDGE, BRIDGE_PASSWORD)
    found = must(settings(gitlab, tmp_path, database=dsn))
    assert [each for each in found if "has the encoding LATIN1" in each.sentence]


def test_a_publication_with_missing_rights_stops_the_bridge(
    gitlab: GitlabDatabase, tmp_path: Path
) -> None:
    wanted = checks.wanted_of(settings(gitlab, tmp_path), "main")
    with closing(psycopg.connect(gitlab.bridge_dsn, autocommit=True)) as connection:
        checks.require_followed(connection, wanted)
        gitlab.server.execute("ALTER PUBLICATION projector DROP TABLE users", database=gitlab.name)
        with pytest.raises(UnpreparedError, match="lacks users"):
            checks.require_followed(connection, wanted)


def test_the_publication_never_makes_a_write_of_gitlab_fail(gitlab: GitlabDatabase) -> None:
    """PostgreSQL refuses UPDATE and DELETE for want of an identity even where no row is met."""
    tables = gitlab.server.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND "
        "relnamespace IN ('public'::regnamespace, 'gitlab_partitions_dynamic'::regnamespace)",
        database=gitlab.name,
    )
    assert len(tables) > 15
    with closing(gitlab.connect()) as writer:
        for (table,) in tables:
            writer.execute(f"DELETE FROM {table} WHERE false")
            column = "line" if table == "audit_lines" else "id"
            writer.execute(f"UPDATE {table} SET {column} = {column} WHERE false")


def test_the_script_makes_no_publication_of_a_table_without_a_key(
    gitlab: GitlabDatabase, tmp_path: Path
) -> None:
    gitlab.server.execute("DROP PUBLICATION projector; ALTER TABLE members DROP CONSTRAINT "
                          "members_pkey", database=gitlab.name)  # fmt: skip
    given = settings(gitlab, tmp_path)
    with pytest.raises(AssertionError, match="no replica identity: members"):
        gitlab.server.psql(script(given), gitlab.name)
    with closing(gitlab.connect()) as writer:
        writer.execute("DELETE FROM members WHERE false")
    # In the order in which they are printed, what is found mends it without harm.
    mend(gitlab, must(given))
    assert must(given) == []
    with closing(gitlab.connect()) as writer:
        writer.execute("DELETE FROM members WHERE false")
