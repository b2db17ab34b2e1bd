"""Test the stream while GitLab's migrations change its tables."""

from typing import Any

import psycopg
import pytest

from projector.errors import GitlabTablesError
from projector.gitlab.mapping.tables import Change
from tests.integration.gitlab.follower import ADD_USERS, following
from tests.integration.gitlab.gitlab_database import GitlabDatabase

Connection = psycopg.Connection[tuple[Any, ...]]
ADD_BUILD = (
    "INSERT INTO p_ci_builds (id, partition_id, status, type, project_id, protected)"
    " VALUES (%s, %s, 'running', 'Ci::Build', 1, true)"
)


def build(number: int, status: str = "running") -> tuple[Any, ...]:
    return (number, status, "Ci::Build", 1, None, None, 1, None, None, None)


async def test_rows_of_partitions_are_rows_of_their_table(gitlab_database: GitlabDatabase) -> None:
    with gitlab_database.connect() as gitlab:
        async with following(gitlab_database) as follower:
            gitlab.execute(ADD_BUILD, [1, 100])
            gitlab.execute(ADD_BUILD, [2, 101])
            gitlab.execute("UPDATE p_ci_builds SET status = 'success' WHERE id = 1")
            gitlab.execute("UPDATE p_ci_builds SET partition_id = 100 WHERE id = 2")
            gitlab.execute("DELETE FROM p_ci_builds WHERE id = 1")
            await follower.until(lambda: len(follower.changes) == 6)
    assert follower.changes == [
        Change("p_ci_builds", 1, build(1)),
        Change("p_ci_builds", 2, build(2)),
        Change("p_ci_builds", 1, build(1, "success"), inserted=False),
        Change("p_ci_builds", 2, None),
        Change("p_ci_builds", 2, build(2)),
        Change("p_ci_builds", 1, None),
    ]


@pytest.mark.parametrize("attached", [False, True])
async def test_rows_of_a_new_partition_arrive(
    gitlab_database: GitlabDatabase, attached: bool
) -> None:
    with gitlab_database.connect() as gitlab:
        async with following(gitlab_database) as follower:
            gitlab.execute(ADD_BUILD, [1, 101])
            add_partition(gitlab, attached=attached)
            gitlab.execute(ADD_BUILD, [2, 102])
            gitlab.execute("UPDATE p_ci_builds SET status = 'failed' WHERE id = 2")
            await follower.until(lambda: len(follower.changes) == 3)
    assert [change.row for change in follower.changes] == [build(1), build(2), build(2, "failed")]


def add_partition(gitlab: Connection, *, attached: bool) -> None:
    name = "gitlab_partitions_dynamic.ci_builds_102"
    if not attached:
        gitlab.execute(f"CREATE TABLE {name} PARTITION OF p_ci_builds FOR VALUES IN (102)".encode())
        return
    # The columns of a table of its own may be in another order.
    gitlab.execute(f"CREATE TABLE {name} (LIKE p_ci_builds INCLUDING ALL)".encode())
    gitlab.execute(f"ALTER TABLE {name} DROP COLUMN status".encode())
    gitlab.execute(f"ALTER TABLE {name} ADD COLUMN status varchar".encode())
    gitlab.execute(f"ALTER TABLE p_ci_builds ATTACH PARTITION {name} FOR VALUES IN (102)".encode())


async def test_columns_that_are_not_needed_come_and_go(gitlab_database: GitlabDatabase) -> None:
    with gitlab_database.connect() as gitlab:
        async with following(gitlab_database) as follower:
            gitlab.execute(ADD_USERS, [1, 1])
            gitlab.execute("ALTER TABLE users DROP COLUMN encrypted_password")
            gitlab.execute(ADD_USERS, [2, 2])
            gitlab.execute("ALTER TABLE users ADD COLUMN colour bytea DEFAULT 'red'")
            gitlab.execute(ADD_USERS, [3, 3])
            gitlab.execute("ALTER TABLE users RENAME name TO full_name")
            gitlab.execute(ADD_USERS, [4, 4])
            await follower.until(lambda: len(follower.changes) == 4)
    assert [change.row for change in follower.changes] == [
        (number, f"u{number}", "active") for number in range(1, 5)
    ]


async def test_a_needed_column_that_is_renamed_ends_the_stream_with_a_sentence(
    gitlab_database: GitlabDatabase,
) -> None:
    with gitlab_database.connect() as gitlab:
        async with following(gitlab_database) as follower:
            gitlab.execute("ALTER TABLE users RENAME username TO login")
            gitlab.execute("INSERT INTO users (id, login) VALUES (1, 'amy')")
            with pytest.raises(GitlabTablesError, match="users has no column username"):
                await follower.end()


async def test_a_needed_column_of_another_type_ends_the_stream_with_a_sentence(
    gitlab_database: GitlabDatabase,
) -> None:
    with gitlab_database.connect() as gitlab:
        async with following(gitlab_database) as follower:
            gitlab.execute("ALTER TABLE users ALTER COLUMN id DROP DEFAULT")
            gitlab.execute("ALTER TABLE members DROP CONSTRAINT members_user_id_fkey")
            gitlab.execute(
                "ALTER TABLE cluster_agents DROP CONSTRAINT cluster_agents_created_by_user_id_fkey"
            )
            gitlab.execute("ALTER TABLE users ALTER COLUMN id TYPE text")
            gitlab.execute("INSERT INTO users (id, username) VALUES ('x', 'amy')")
            with pytest.raises(GitlabTablesError, match=r"users\.id is text, not bigint or"):
                await follower.end()


async def test_an_identity_without_the_id_ends_the_stream_with_a_sentence(
    gitlab_database: GitlabDatabase,
) -> None:
    with gitlab_database.connect() as gitlab:
        async with following(gitlab_database) as follower:
            gitlab.execute("CREATE UNIQUE INDEX by_email ON users (email)")
            gitlab.execute("ALTER TABLE users REPLICA IDENTITY USING INDEX by_email")
            gitlab.execute(ADD_USERS, [1, 1])
            with pytest.raises(GitlabTablesError, match="ALTER TABLE users REPLICA IDENTITY"):
                await follower.end()


async def test_an_identity_by_another_index_with_the_id_is_as_good(
    gitlab_database: GitlabDatabase,
) -> None:
    with gitlab_database.connect() as gitlab:
        async with following(gitlab_database) as follower:
            gitlab.execute("CREATE UNIQUE INDEX by_email ON users (email, id)")
            gitlab.execute("ALTER TABLE users REPLICA IDENTITY USING INDEX by_email")
            gitlab.execute(ADD_USERS, [1, 1])
            gitlab.execute("UPDATE users SET email = 'x'")
            gitlab.execute("UPDATE users SET id = 2")
            gitlab.execute("DELETE FROM users")
            await follower.until(lambda: len(follower.changes) == 5)
    assert [(change.id, change.row is None) for change in follower.changes] == [
        (1, False), (1, False), (1, True), (2, False), (2, True),
    ]  # fmt: skip


async def test_a_swap_from_integer_to_bigint_goes_unnoticed(
    gitlab_database: GitlabDatabase,
) -> None:
    """GitLab adds a column, fills it by a trigger, renames both in one transaction, drops one."""
    with gitlab_database.connect() as gitlab:
        gitlab.execute("ALTER TABLE routes ALTER COLUMN id TYPE integer")
        gitlab.execute("ALTER TABLE routes ALTER COLUMN source_id TYPE integer")
        async with following(gitlab_database) as follower:
            add_route(gitlab, 1)
            begin_conversion(gitlab)
            add_route(gitlab, 2)
            gitlab.execute("UPDATE routes SET id_new = id, source_id_new = source_id")
            swap(gitlab)
            add_route(gitlab, 3)
            gitlab.execute("ALTER TABLE routes DROP COLUMN id_old, DROP COLUMN source_id_old")
            add_route(gitlab, 1 << 40)
            gitlab.execute("DELETE FROM routes WHERE id = 2")
            await follower.until(lambda: follower.changes[-1:] == [Change("routes", 2, None)])
    assert [change for change in follower.changes if change.inserted and change.row] == [
        Change("routes", number, (number, number, "Project", f"p{number}"))
        for number in (1, 2, 3, 1 << 40)
    ]


def add_route(gitlab: Connection, number: int) -> None:
    gitlab.execute(
        "INSERT INTO routes (id, source_id, source_type, path, namespace_id)"
        " VALUES (%s, %s, 'Project', %s, 1)",
        [number, number, f"p{number}"],
    )


def begin_conversion(gitlab: Connection) -> None:
    gitlab.execute(
        """
        ALTER TABLE routes ADD COLUMN id_new bigint NOT NULL DEFAULT 0,
                           ADD COLUMN source_id_new bigint NOT NULL DEFAULT 0;
        CREATE FUNCTION copy_ids() RETURNS trigger LANGUAGE plpgsql AS $$
          BEGIN NEW.id_new := NEW.id; NEW.source_id_new := NEW.source_id; RETURN NEW; END $$;
        CREATE TRIGGER copy_ids BEFORE INSERT OR UPDATE ON routes
          FOR EACH ROW EXECUTE FUNCTION copy_ids()
        """
    )


def swap(gitlab: Connection) -> None:
    gitlab.execute(
        """
        CREATE UNIQUE INDEX routes_by_new_id ON routes (id_new);
        BEGIN;
        DROP TRIGGER copy_ids ON routes;
        ALTER TABLE routes RENAME id TO id_old;
        ALTER TABLE routes RENAME id_new TO id;
        ALTER TABLE routes RENAME source_id TO source_id_old;
        ALTER TABLE routes RENAME source_id_new TO source_id;
        ALTER TABLE routes DROP CONSTRAINT routes_pkey;
        ALTER TABLE routes ADD CONSTRAINT routes_pkey PRIMARY KEY USING INDEX routes_by_new_id;
        ALTER TABLE routes ALTER COLUMN id_old DROP NOT NULL, ALTER COLUMN id_old DROP DEFAULT,
                           ALTER COLUMN source_id_old DROP NOT NULL;
        COMMIT
        """
    )


async def test_a_dropped_table_leaves_the_stream_going(gitlab_database: GitlabDatabase) -> None:
    with gitlab_database.connect() as gitlab:
        async with following(gitlab_database) as follower:
            gitlab.execute("DROP TABLE p_ci_builds_metadata")
            gitlab.execute(ADD_USERS, [1, 1])
            await follower.until(lambda: len(follower.changes) == 1)
