"""Test what becomes of tables that are not published for a while."""

import pytest

from projector.gitlab.mapping.tables import TABLES
from projector.gitlab.postgres.database import connect
from projector.gitlab.postgres.published import read_published
from tests.integration.gitlab.bridged import Bridged
from tests.integration.gitlab.conftest import NewBridged
from tests.integration.gitlab.gitlab_database import GitlabDatabase
from tests.integration.servers import eventually

DROP = "ALTER PUBLICATION projector DROP TABLE members"
DELETE = "DELETE FROM members"
ADD = "ALTER PUBLICATION projector ADD TABLE members"
NEW_PARTITION = "gitlab_partitions_dynamic.ci_builds_102"
REASON = "tables were not published for a while"


def published(gitlab: GitlabDatabase) -> str:
    with connect(gitlab.bridge_dsn) as connection:
        return read_published(connection, "projector", TABLES.values())


@pytest.mark.parametrize(
    "statements",
    [
        [DROP],
        [DROP, ADD],
        [f"BEGIN; {DROP}; {DELETE}; {ADD}; COMMIT"],
        ["ALTER PUBLICATION projector SET (publish = 'insert')",
         "ALTER PUBLICATION projector SET (publish = 'insert, update, delete, truncate')"],
        ["CREATE TABLE copy (LIKE members INCLUDING ALL)", "DROP TABLE members CASCADE",
         "ALTER TABLE copy RENAME TO members", ADD],
        ["DROP PUBLICATION projector"],
        ["DROP TABLE p_ci_builds_metadata"],
    ],
)  # fmt: skip
def test_a_publication_that_left_something_out_differs(
    gitlab_database: GitlabDatabase, statements: list[str]
) -> None:
    before = published(gitlab_database)
    with gitlab_database.connect() as gitlab:
        for statement in statements:
            gitlab.execute(statement.encode())
    assert published(gitlab_database) != before


def test_partitions_columns_and_other_tables_come_and_go_unnoticed(
    gitlab_database: GitlabDatabase,
) -> None:
    before = published(gitlab_database)
    with gitlab_database.connect() as gitlab:
        for statement in (
            f"CREATE TABLE {NEW_PARTITION} PARTITION OF p_ci_builds FOR VALUES IN (102)",
            f"ALTER TABLE p_ci_builds DETACH PARTITION {NEW_PARTITION}",
            f"ALTER TABLE p_ci_builds ATTACH PARTITION {NEW_PARTITION} FOR VALUES IN (102)",
            "ALTER TABLE members ADD COLUMN colour text DEFAULT 'red'",
            "CREATE TABLE others (id bigint PRIMARY KEY)",
            "ALTER PUBLICATION projector ADD TABLE others",
            "VACUUM FULL members",
        ):
            gitlab.execute(statement.encode())
    assert published(gitlab_database) == before


def test_members_who_went_while_their_table_was_not_published_lose_their_access(
    new_bridged: NewBridged,
) -> None:
    it = started(new_bridged)
    it.bridge.kill()
    for statement in (DROP, DELETE, ADD):
        it.rows(statement)
    it.bridge.start()
    it.check()
    assert it.bridge.log().count(REASON) == 1
    # It leads on from there.
    it.restart_bridge()
    it.settle()
    assert it.bridge.log().count(REASON) == 1


def test_a_running_bridge_vouches_for_no_time_without_a_table(new_bridged: NewBridged) -> None:
    it = started(new_bridged)
    for statement in (DROP, DELETE, ADD):
        it.rows(statement)
    it.check()
    assert it.bridge.log().count(REASON) == 1


def test_a_table_that_stays_unpublished_ends_a_running_bridge_with_a_sentence(
    new_bridged: NewBridged,
) -> None:
    it = started(new_bridged)
    it.rows(DROP)
    assert it.bridge.process.wait(20) == 2
    assert "The publication projector lacks members." in " ".join(it.bridge.log().split())


def test_another_password_is_awaited_by_a_running_bridge_and_refused_at_a_start(
    new_bridged: NewBridged,
) -> None:
    it = started(new_bridged)
    it.server.execute("ALTER ROLE projector NOLOGIN")
    cut_connections(it)
    advice = "`projector gitlab check` finds what must be mended"
    eventually(lambda: advice in it.bridge.log(), f"an advice: {it.bridge.log()}")
    it.server.execute("ALTER ROLE projector LOGIN")
    it.check()
    assert it.bridge.stop() == 0
    it.server.execute("ALTER ROLE projector PASSWORD 'another'")
    it.bridge.start()
    assert it.bridge.process.wait(20) == 2
    log = " ".join(it.bridge.log().split())
    assert "the password of the role projector is wrong or missing" in log
    assert log.endswith(advice)


def started(new_bridged: NewBridged) -> Bridged:
    it = new_bridged()
    it.start()
    it.judge()
    return it


def cut_connections(it: Bridged) -> None:
    it.server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'projector'"
    )
