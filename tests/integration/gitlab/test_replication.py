"""Test the reader of a replication slot on a real PostgreSQL."""

import asyncio
import tracemalloc

import psycopg
import pytest

from projector.errors import SlotBusyError, SnapshotNeededError
from projector.gitlab.mapping.tables import UNCHANGED, Change
from projector.gitlab.postgres.database import connect, push_wal
from projector.gitlab.postgres.pieces import MAX_BYTES
from projector.gitlab.postgres.replication import Replication
from tests.integration.gitlab.follower import (
    ADD_USERS,
    PUBLICATION,
    caught_up,
    confirmed,
    follow,
    following,
    new_slot,
    position,
    reached,
    slot_of,
)
from tests.integration.gitlab.gitlab_database import GitlabDatabase


async def test_rows_arrive_with_their_needed_columns_alone(gitlab_database: GitlabDatabase) -> None:
    with gitlab_database.connect() as gitlab:
        async with following(gitlab_database) as follower:
            gitlab.execute(ADD_USERS, [7, 7])
            gitlab.execute("UPDATE users SET state = 'blocked' WHERE id = 7")
            gitlab.execute("UPDATE users SET id = 8 WHERE id = 7")
            gitlab.execute("DELETE FROM users WHERE id = 8")
            await follower.until(lambda: len(follower.changes) == 5)
    assert follower.changes == [
        Change("users", 7, (7, "u7", "active"), inserted=True),
        Change("users", 7, (7, "u7", "blocked"), inserted=False),
        Change("users", 7, None),
        Change("users", 8, (8, "u7", "blocked"), inserted=False),
        Change("users", 8, None),
    ]


async def test_dates_do_not_depend_on_the_settings_of_the_database(
    gitlab_database: GitlabDatabase,
) -> None:
    server = gitlab_database.server
    server.execute(f"ALTER DATABASE {gitlab_database.name} SET datestyle = German")
    server.execute(f"ALTER DATABASE {gitlab_database.name} SET timezone = 'Asia/Tokyo'")
    with gitlab_database.connect() as gitlab:
        async with following(gitlab_database) as follower:
            gitlab.execute(
                "INSERT INTO members (id, access_level, source_id, source_type, type, requested_at,"
                " expires_at) VALUES (5, 30, 1, 'Namespace', 'GroupMember',"
                " '2026-02-03 04:05:06.789', date '2027-12-31')"
            )
            await follower.until(lambda: len(follower.changes) == 1)
    [change] = follower.changes
    assert change.row is not None
    assert change.row[5:7] == ("2026-02-03 04:05:06.789", "2027-12-31")


async def test_a_large_transaction_comes_in_pieces_of_bounded_memory(
    gitlab_database: GitlabDatabase,
) -> None:
    lsn = await new_slot(gitlab_database)
    with gitlab_database.connect() as gitlab:
        gitlab.execute(ADD_USERS, [1, 100_000])
    replication = await Replication.connect(gitlab_database.bridge_dsn)
    await replication.start(slot_of(gitlab_database), PUBLICATION, lsn)
    sizes = []
    tracemalloc.start()
    async for piece in replication.pieces(1000):
        sizes.append(len(piece.changes))
        if sum(sizes) < 100_000:
            assert piece.commit is None
        if piece.commit:
            break
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await replication.close()
    assert sum(sizes) == 100_000
    assert max(sizes) <= 1000
    assert peak < 5_000_000


async def test_large_rows_come_in_pieces_of_bounded_memory(gitlab_database: GitlabDatabase) -> None:
    with gitlab_database.connect() as gitlab:
        gitlab.execute("ALTER TABLE cluster_agents DROP CONSTRAINT cluster_agents_name_check")
        gitlab.execute("ALTER TABLE cluster_agents DROP CONSTRAINT cluster_agents_project_id_fkey")
        gitlab.execute("DROP INDEX cluster_agents_project_id_name_idx")
        async with following(gitlab_database) as follower:
            gitlab.execute(
                "INSERT INTO cluster_agents (id, project_id, name)"
                " SELECT number, 1, repeat('x', 1000000) FROM generate_series(1, 60) AS number"
            )
            await follower.until(lambda: len(follower.changes) == 60, 60)
    largest = max(len(piece.changes) for piece in follower.pieces)
    assert largest <= MAX_BYTES // 1_000_000 + 1


async def test_small_transactions_share_a_piece(gitlab_database: GitlabDatabase) -> None:
    lsn = await new_slot(gitlab_database)
    with gitlab_database.connect() as gitlab:
        for number in range(1, 301):
            gitlab.execute(ADD_USERS, [number, number])
    follower = await follow(gitlab_database, lsn, limit=100)
    await follower.until(lambda: len(follower.changes) == 300)
    await follower.close()
    assert [change.id for change in follower.changes] == list(range(1, 301))
    with_changes = [piece for piece in follower.pieces if piece.changes]
    assert all(piece.commit for piece in with_changes)
    # A piece also ends with a pause of the sender, of which a busy machine makes more.
    assert len(with_changes) < 100
    assert max(len(piece.changes) for piece in with_changes) <= 100


async def test_a_quiet_publication_moves_on_in_a_busy_server(
    gitlab_database: GitlabDatabase,
) -> None:
    with gitlab_database.connect() as gitlab:
        async with following(gitlab_database) as follower:
            for _ in range(20):
                gitlab.execute("INSERT INTO issues (title) SELECT 'x' FROM generate_series(1, 50)")
            gitlab_database.server.execute("CREATE TABLE IF NOT EXISTS elsewhere (id int)")
            target = position(gitlab_database)
            await asyncio.wait_for(caught_up(follower, gitlab_database), 10)
            await follower.until(lambda: confirmed(gitlab_database) >= target)
    assert follower.changes == []


async def test_nothing_is_forgotten_by_postgres_before_it_is_confirmed(
    gitlab_database: GitlabDatabase,
) -> None:
    with gitlab_database.connect() as gitlab:
        async with following(gitlab_database) as follower:
            follower.confirming = False
            start = confirmed(gitlab_database)
            gitlab.execute(ADD_USERS, [1, 10])
            await follower.until(lambda: len(follower.changes) == 10)
            await caught_up(follower, gitlab_database)
            await asyncio.sleep(1.3)
            assert confirmed(gitlab_database) == start
            follower.replication.confirm(follower.replication.delivered)
            await follower.until(lambda: confirmed(gitlab_database) > start)


async def test_a_cut_connection_is_an_outage_and_nothing_comes_twice(
    gitlab_database: GitlabDatabase,
) -> None:
    with gitlab_database.connect() as gitlab:
        follower = await follow(gitlab_database, await new_slot(gitlab_database))
        follower.confirming = False
        gitlab.execute(ADD_USERS, [1, 10])
        await follower.until(lambda: len(follower.changes) == 10)
        remembered = follower.replication.delivered
        gitlab_database.server.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            " WHERE slot_name = %s", slot_of(gitlab_database)
        )  # fmt: skip
        with pytest.raises(psycopg.OperationalError):
            await follower.end()
        await follower.close()
        gitlab.execute(ADD_USERS, [11, 20])
        again = await follow(gitlab_database, remembered)
        await again.until(lambda: len(again.changes) == 10)
        await again.close()
    assert [change.id for change in again.changes] == list(range(11, 21))


async def test_a_reconnect_without_memory_gets_all_that_was_not_confirmed(
    gitlab_database: GitlabDatabase,
) -> None:
    lsn = await new_slot(gitlab_database)
    with gitlab_database.connect() as gitlab:
        gitlab.execute(ADD_USERS, [1, 10])
    for _ in range(2):
        follower = await follow(gitlab_database, lsn)
        follower.confirming = False
        await follower.until(lambda: len(follower.changes) == 10)  # noqa: B023
        await follower.close()


async def test_a_busy_slot_is_waited_for(gitlab_database: GitlabDatabase) -> None:
    async with following(gitlab_database) as first:
        with pytest.raises(SlotBusyError, match="is active for PID"):
            await follow(gitlab_database, first.replication.delivered)
        second = await Replication.connect(gitlab_database.bridge_dsn)
        status = await second.slot(slot_of(gitlab_database))
        await second.close()
        assert status is not None
        assert status.active_pid
        assert status.ours
        await first.close()
        await asyncio.sleep(0.3)
        await (await follow(gitlab_database, first.replication.delivered)).close()


async def test_a_dropped_slot_needs_a_snapshot(gitlab_database: GitlabDatabase) -> None:
    with pytest.raises(SnapshotNeededError, match="does not exist"):
        await follow(gitlab_database)


async def test_a_state_older_than_the_slot_needs_a_snapshot(
    gitlab_database: GitlabDatabase,
) -> None:
    """PostgreSQL would begin at the slot's position, and leave out what is between."""
    lsn = await new_slot(gitlab_database)
    with pytest.raises(SnapshotNeededError, match="ahead of the state"):
        await follow(gitlab_database, lsn - 1)


async def test_a_server_that_was_set_back_needs_a_snapshot(
    gitlab_database: GitlabDatabase,
) -> None:
    """PostgreSQL would leave out every commit up to the position of the state."""
    lsn = await new_slot(gitlab_database)
    with pytest.raises(SnapshotNeededError, match="set back"):
        await follow(gitlab_database, lsn + (1 << 30))


async def test_a_truncated_table_needs_a_snapshot(gitlab_database: GitlabDatabase) -> None:
    with gitlab_database.connect() as gitlab:
        async with following(gitlab_database) as follower:
            gitlab.execute("TRUNCATE issues")
            gitlab.execute(ADD_USERS, [1, 1])
            await follower.until(lambda: len(follower.changes) == 1)
            gitlab.execute("TRUNCATE cluster_agents CASCADE")
            with pytest.raises(SnapshotNeededError, match="was truncated"):
                await follower.end()


async def test_a_publication_made_anew_needs_a_snapshot(gitlab_database: GitlabDatabase) -> None:
    with gitlab_database.connect() as gitlab:
        async with following(gitlab_database) as follower:
            gitlab.execute("DROP PUBLICATION projector")
            gitlab.execute(ADD_USERS, [1, 1])
            with pytest.raises(SnapshotNeededError, match='publication "projector" does not exist'):
                await follower.end()


async def test_unchanged_large_values_are_not_sent_but_with_full_identity(
    gitlab_database: GitlabDatabase,
) -> None:
    with gitlab_database.connect() as gitlab:
        gitlab.execute("INSERT INTO projects (id, namespace_id) VALUES (1, 1)")
        gitlab.execute("INSERT INTO cluster_agents (id, project_id, name) VALUES (1, 1, 'a')")
        async with following(gitlab_database) as follower:
            gitlab.execute(
                "INSERT INTO agent_project_authorizations (id, project_id, agent_id, config)"
                " SELECT 1, 1, 1, jsonb_build_object('large',"
                " (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 500) AS n))"
            )
            update = "UPDATE agent_project_authorizations SET project_id = 1"
            gitlab.execute(update)
            gitlab.execute("ALTER TABLE agent_project_authorizations REPLICA IDENTITY FULL")
            gitlab.execute(update)
            gitlab.execute("DELETE FROM agent_project_authorizations")
            await follower.until(lambda: len(follower.changes) == 4)
    inserted, unsent, sent, gone = [change.row for change in follower.changes]
    assert inserted is not None
    assert len(str(inserted[3])) > 16_000
    assert unsent == (1, 1, 1, UNCHANGED)
    assert sent == inserted
    assert gone is None


async def test_tables_of_other_schemas_are_ignored(gitlab_database: GitlabDatabase) -> None:
    with gitlab_database.connect() as gitlab:
        gitlab.execute("CREATE SCHEMA other")
        gitlab.execute("CREATE TABLE other.users (id text PRIMARY KEY, secret text)")
        gitlab.execute("ALTER PUBLICATION projector ADD TABLE other.users, issues")
        async with following(gitlab_database) as follower:
            gitlab.execute("INSERT INTO other.users VALUES ('x', 'y')")
            gitlab.execute("TRUNCATE other.users, issues")
            gitlab.execute("INSERT INTO issues (title) VALUES ('x')")
            gitlab.execute(ADD_USERS, [1, 1])
            await follower.until(lambda: len(follower.changes) == 1)
    assert follower.changes == [Change("users", 1, (1, "u1", "active"))]


async def test_records_of_an_open_transaction_hold_no_heartbeat_back(
    gitlab_database: GitlabDatabase,
) -> None:
    """PostgreSQL streams what is on disk, and may keep these in memory for 15 s."""
    async with following(gitlab_database) as follower:
        with gitlab_database.connect(autocommit=False) as gitlab:
            gitlab.execute(ADD_USERS, [1, 10])
            target = position(gitlab_database)
            with connect(gitlab_database.bridge_dsn) as connection:
                push_wal(connection)
            await asyncio.wait_for(reached(follower, target), 2)
        await follower.until(lambda: len(follower.changes) == 10)


async def test_a_half_read_transaction_is_not_the_end(gitlab_database: GitlabDatabase) -> None:
    with gitlab_database.connect(autocommit=False) as gitlab:
        async with following(gitlab_database) as follower:
            gitlab.execute(ADD_USERS, [1, 10])
            await caught_up(follower, gitlab_database)
            assert follower.changes == []
            gitlab.rollback()
            gitlab.execute(ADD_USERS, [11, 12])
            gitlab.commit()
            await caught_up(follower, gitlab_database)
    assert [change.id for change in follower.changes] == [11, 12]
