"""Test the new slot and its snapshot on a real PostgreSQL."""

import asyncio
import threading
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from projector.errors import GitlabTablesError, OpenTransactionsError, SlotBusyError, SlotError
from projector.gitlab.mapping.tables import TABLES, Row
from projector.gitlab.postgres import database
from projector.gitlab.postgres.database import copy_table, reading
from projector.gitlab.postgres.snapshot import slot_snapshot
from tests.integration.gitlab.follower import PUBLICATION, follow, following, new_slot, slot_of
from tests.integration.gitlab.gitlab_database import GitlabDatabase


def read(gitlab: GitlabDatabase, name: str, snapshot: str | None = None) -> list[Row]:
    table = TABLES[name]
    with reading(gitlab.bridge_dsn, snapshot) as connection:
        return sorted(copy_table(connection, table, table.read_by_snapshot()), key=str)


def slots(gitlab: GitlabDatabase) -> list[tuple[Any, ...]]:
    return gitlab.server.execute(
        "SELECT slot_name FROM pg_replication_slots WHERE database = %s", gitlab.name
    )


class Writer(threading.Thread):
    """A client that inserts and deletes users, each in a transaction of its own."""

    def __init__(self, gitlab: GitlabDatabase, first: int) -> None:
        super().__init__()
        self._gitlab, self._first = gitlab, first
        self.ended = threading.Event()

    def run(self) -> None:
        with self._gitlab.connect() as connection:
            number = self._first
            while not self.ended.is_set():
                connection.execute(
                    "INSERT INTO users (id, email, username, state) VALUES (%s, %s, %s, 'active')",
                    [number, f"{number}@example.com", f"u{number}"],
                )
                if number % 3 == 0:
                    connection.execute("DELETE FROM users WHERE id = %s", [number - 1])
                number += 1


async def test_the_stream_begins_where_the_snapshot_ends(gitlab_database: GitlabDatabase) -> None:
    writers = [Writer(gitlab_database, first) for first in (1, 1_000_000, 2_000_000)]
    for writer in writers:
        writer.start()
    try:
        async with asyncio.timeout(60):
            await asyncio.sleep(0.5)
            async with slot_snapshot(
                gitlab_database.bridge_dsn, slot_of(gitlab_database), PUBLICATION
            ) as snapshot:
                await asyncio.sleep(0.3)
                rows = await asyncio.to_thread(read, gitlab_database, "users", snapshot.name)
            follower = await follow(gitlab_database, snapshot.lsn)
            await follower.until(lambda: len(follower.changes) > 300)
    finally:
        for writer in writers:
            writer.ended.set()
            writer.join()
    final = read(gitlab_database, "users")
    users = {row[0] for row in rows}
    streamed = 0

    def caught_up() -> bool:
        nonlocal streamed
        for change in follower.changes[streamed:]:
            # Each insert is new and each delete is of something there: none lost, none twice.
            if change.row is None:
                users.remove(change.id)
            else:
                assert change.id not in users
                users.add(change.id)
        streamed = len(follower.changes)
        return users == {row[0] for row in final}

    await follower.until(caught_up)
    await follower.close()
    assert len(rows) > 50


async def test_rows_are_copied_by_kind(gitlab_database: GitlabDatabase) -> None:
    with gitlab_database.connect() as gitlab:
        gitlab.execute(
            "INSERT INTO users (id, email, username, state) VALUES"
            " (3, '', E'tab\\there\\\\N', 'active'), (4, 'x', NULL, NULL)"
        )
        gitlab.execute("SET datestyle = 'German'")
        gitlab.execute(
            "INSERT INTO namespaces (id, name, path, type, share_with_group_lock)"
            " VALUES (1, 'g', 'g', 'Group', true), (2, 'p', 'p', 'Project', false)"
        )
        gitlab.execute(
            "INSERT INTO members (id, access_level, source_id, source_type, user_id, type,"
            " requested_at, expires_at) VALUES"
            " (5, 30, 1, 'Namespace', 3, 'GroupMember', '2026-02-03 04:05:06.789', '2027-12-31')"
        )
    gitlab_database.server.execute(f"ALTER DATABASE {gitlab_database.name} SET datestyle = German")
    assert read(gitlab_database, "users") == [(3, "tab\there\\N", "active"), (4, None, None)]
    assert read(gitlab_database, "namespaces") == [(1, "Group", None, None, 1)]
    assert read(gitlab_database, "members") == [
        (5, 30, 1, "Namespace", 3, "2026-02-03 04:05:06.789", "2027-12-31", 0)
    ]


async def test_a_missing_right_or_column_is_named(gitlab_database: GitlabDatabase) -> None:
    with gitlab_database.connect() as gitlab:
        gitlab.execute("REVOKE SELECT (state) ON users FROM projector")
        with pytest.raises(GitlabTablesError, match=r"users .*permission denied.*gitlab check"):
            read(gitlab_database, "users")
        gitlab.execute("ALTER TABLE cluster_agents RENAME name TO title")
        with pytest.raises(GitlabTablesError, match=r"cluster_agents .*name.* does not exist"):
            read(gitlab_database, "cluster_agents")


async def test_an_open_transaction_is_waited_for_and_named(
    gitlab_database: GitlabDatabase,
) -> None:
    dsn, slot = gitlab_database.bridge_dsn, slot_of(gitlab_database)
    with gitlab_database.connect(autocommit=False) as gitlab:
        gitlab.execute("INSERT INTO users (id, email, username) VALUES (1, '', 'amy')")
        pid = gitlab.info.backend_pid
        with pytest.raises(OpenTransactionsError, match=f"within 2 s.*process {pid}, .*open since"):
            async with slot_snapshot(dsn, slot, PUBLICATION, timeout_s=2):
                pass
        assert slots(gitlab_database) == []
        creating = asyncio.create_task(new_slot(gitlab_database))
        await asyncio.sleep(0.5)
        assert not creating.done()
        gitlab.commit()
        await asyncio.wait_for(creating, 20)
    assert read(gitlab_database, "users") == [(1, "amy", None)]


async def test_a_snapshot_that_fails_leaves_no_slot(gitlab_database: GitlabDatabase) -> None:
    dsn, slot = gitlab_database.bridge_dsn, slot_of(gitlab_database)
    with suppress(ZeroDivisionError):
        async with slot_snapshot(dsn, slot, PUBLICATION):
            raise ZeroDivisionError
    assert slots(gitlab_database) == []


async def test_a_snapshot_whose_connection_is_cut_leaves_no_slot(
    gitlab_database: GitlabDatabase,
) -> None:
    dsn, slot = gitlab_database.bridge_dsn, slot_of(gitlab_database)
    with suppress(ZeroDivisionError):
        async with slot_snapshot(dsn, slot, PUBLICATION):
            gitlab_database.server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'walsender' AND datname = %s", gitlab_database.name,
            )  # fmt: skip
            raise ZeroDivisionError
    assert slots(gitlab_database) == []


async def test_a_snapshot_that_is_cancelled_leaves_no_slot(
    gitlab_database: GitlabDatabase,
) -> None:
    held = asyncio.Event()

    async def hold() -> None:
        async with slot_snapshot(gitlab_database.bridge_dsn, slot_of(gitlab_database), PUBLICATION):
            held.set()
            await asyncio.sleep(60)

    holding = asyncio.create_task(hold())
    await asyncio.wait_for(held.wait(), 20)
    assert slots(gitlab_database) != []
    holding.cancel()
    await asyncio.wait([holding])
    assert slots(gitlab_database) == []


async def test_an_idle_slot_is_made_anew_and_a_busy_one_is_not(
    gitlab_database: GitlabDatabase,
) -> None:
    first = await new_slot(gitlab_database)
    gitlab_database.server.execute("SELECT pg_switch_wal()")
    assert await new_slot(gitlab_database) > first
    async with following(gitlab_database):
        with pytest.raises(SlotBusyError, match="reads the replication slot"):
            await new_slot(gitlab_database)


async def test_a_slot_of_somebody_else_is_left_alone(gitlab_database: GitlabDatabase) -> None:
    gitlab_database.server.execute(
        "SELECT pg_create_logical_replication_slot(%s, 'test_decoding')",
        slot_of(gitlab_database),
        database=gitlab_database.name,
    )
    with pytest.raises(SlotError, match="belongs to something else"):
        await new_slot(gitlab_database)


async def test_a_slot_needs_its_publication_first(gitlab_database: GitlabDatabase) -> None:
    with gitlab_database.connect() as gitlab:
        gitlab.execute("ALTER PUBLICATION projector SET (publish_via_partition_root = false)")
        with pytest.raises(SlotError, match="publish_via_partition_root = true"):
            await new_slot(gitlab_database)
        gitlab.execute("DROP PUBLICATION projector")
        with pytest.raises(SlotError, match="no publication projector"):
            await new_slot(gitlab_database)
    assert slots(gitlab_database) == []


async def test_the_same_snapshot_is_read_by_every_table(gitlab_database: GitlabDatabase) -> None:
    with reading(gitlab_database.bridge_dsn) as connection:
        assert list(copy_table(connection, TABLES["users"])) == []
        with gitlab_database.connect() as gitlab:
            gitlab.execute("INSERT INTO users (id, email) VALUES (1, '')")
        assert list(copy_table(connection, TABLES["users"])) == []
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TABLE written (id int)")


async def test_timeouts_of_the_database_end_neither_snapshot_nor_stream(
    gitlab_database: GitlabDatabase,
) -> None:
    """GitLab's own sessions may have short ones; a large snapshot takes minutes."""
    for name in (
        "statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout",
        "lock_timeout",
    ):  # fmt: skip
        gitlab_database.server.execute(
            f"ALTER DATABASE {gitlab_database.name} SET {name} = '500ms'"
        )
    dsn, slot = gitlab_database.bridge_dsn, slot_of(gitlab_database)
    async with slot_snapshot(dsn, slot, PUBLICATION) as snapshot:
        await asyncio.sleep(1)
        with reading(dsn, snapshot.name) as connection:
            await asyncio.sleep(1)
            assert list(copy_table(connection, TABLES["users"])) == []
    follower = await follow(gitlab_database, snapshot.lsn)
    await asyncio.sleep(1)
    with gitlab_database.connect() as gitlab:
        gitlab.execute("INSERT INTO users (id, email) VALUES (1, '')")
    await follower.until(lambda: len(follower.changes) == 1)
    await follower.close()


async def test_a_snapshot_that_waits_for_its_turn_outlives_our_own_timeouts(
    gitlab_database: GitlabDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is idle in a transaction while the tables of another database are copied."""
    monkeypatch.setitem(database.TIMEOUTS, "idle_in_transaction_session_timeout", "500ms")
    dsn, slot = gitlab_database.bridge_dsn, slot_of(gitlab_database)
    async with slot_snapshot(dsn, slot, PUBLICATION) as snapshot:
        await asyncio.sleep(1)
        with reading(dsn, snapshot.name) as connection:
            assert list(copy_table(connection, TABLES["users"])) == []
            await asyncio.sleep(1)
            with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
                list(copy_table(connection, TABLES["users"]))
