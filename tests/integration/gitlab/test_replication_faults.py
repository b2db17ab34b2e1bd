"""Test the reader of a replication slot while PostgreSQL stops, crashes or waits."""

import asyncio
import time
from collections.abc import Iterator

import psycopg
import pytest

from projector.errors import SnapshotNeededError, StandbyError
from projector.gitlab.mapping.tables import TABLES, Row
from projector.gitlab.postgres.database import connect, copy_table, reading
from projector.gitlab.postgres.pgoutput import lsn_number
from projector.gitlab.postgres.replication import Replication
from projector.gitlab.postgres.snapshot import slot_snapshot
from tests.integration.gitlab.follower import (
    ADD_USERS,
    PUBLICATION,
    caught_up,
    follow,
    following,
    new_slot,
    position,
    reached,
    slot_of,
)
from tests.integration.gitlab.gitlab_database import GitlabDatabase
from tests.integration.gitlab.postgres import Postgres, running_standby


async def test_an_immediate_restart_loses_nothing(own_gitlab: GitlabDatabase) -> None:
    follower = await follow(own_gitlab, await new_slot(own_gitlab))
    with own_gitlab.connect() as gitlab:
        gitlab.execute(ADD_USERS, [1, 10])
    await follower.until(lambda: len(follower.changes) == 10)
    remembered = follower.replication.delivered
    await asyncio.to_thread(own_gitlab.server.restart, "immediate")
    with pytest.raises(psycopg.OperationalError):
        await follower.end()
    await follower.close()
    with own_gitlab.connect() as gitlab:
        gitlab.execute(ADD_USERS, [11, 20])
    again = await follow(own_gitlab, remembered)
    await again.until(lambda: len(again.changes) == 10)
    assert again.replication.identity == follower.replication.identity
    await again.close()
    assert [change.id for change in again.changes] == list(range(11, 21))


async def test_a_fast_shutdown_does_not_wait_for_the_bridge(own_gitlab: GitlabDatabase) -> None:
    async with following(own_gitlab) as follower:
        with own_gitlab.connect() as gitlab:
            gitlab.execute(ADD_USERS, [1, 10])
        begun = time.monotonic()
        await asyncio.to_thread(own_gitlab.server.halt, "fast")
        assert time.monotonic() - begun < 5
        with pytest.raises(psycopg.OperationalError):
            await follower.end()
    assert len(follower.changes) == 10


async def test_a_shutdown_asks_for_what_is_confirmed(own_gitlab: GitlabDatabase) -> None:
    """A bridge confirms now and then; PostgreSQL waits, so it must be asked for at once."""
    async with following(own_gitlab) as follower:
        follower.confirming = False
        with own_gitlab.connect() as gitlab:
            gitlab.execute(ADD_USERS, [1, 10])
        await caught_up(follower, own_gitlab)
        halting = asyncio.create_task(asyncio.to_thread(own_gitlab.server.halt, "fast"))
        await follower.until(lambda: any(piece.urgent for piece in follower.pieces), 5)
        follower.confirming = True
        follower.replication.confirm(follower.replication.delivered)
        await asyncio.wait_for(halting, 10)


async def test_a_lost_slot_needs_a_snapshot(own_gitlab: GitlabDatabase) -> None:
    server = own_gitlab.server
    server.set(max_slot_wal_keep_size="1MB")
    await new_slot(own_gitlab)
    for _ in range(3):
        server.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))")
        server.execute("SELECT pg_switch_wal()")
    server.execute("CHECKPOINT")
    replication = await Replication.connect(own_gitlab.bridge_dsn)
    status = await replication.slot(slot_of(own_gitlab))
    assert status is not None
    assert status.wal_status == "lost"
    with pytest.raises(SnapshotNeededError, match="replication slot"):
        await replication.start(slot_of(own_gitlab), PUBLICATION, 0)
    await replication.close()
    # A snapshot mends it.
    await (await follow(own_gitlab, await new_slot(own_gitlab))).close()


async def test_a_slot_lost_while_read_is_an_outage_then_a_snapshot(
    own_gitlab: GitlabDatabase,
) -> None:
    server = own_gitlab.server
    follower = await follow(own_gitlab, await new_slot(own_gitlab))
    follower.confirming = False
    server.set(max_slot_wal_keep_size="1MB")
    for _ in range(3):
        server.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))")
        server.execute("SELECT pg_switch_wal()")
    server.execute("CHECKPOINT")
    with pytest.raises(psycopg.OperationalError):
        await follower.end()
    await follower.close()
    with pytest.raises(SnapshotNeededError):
        await follow(own_gitlab)


async def test_postgres_waits_for_a_reader_that_pauses(own_gitlab: GitlabDatabase) -> None:
    """The socket fills; the status goes on, or PostgreSQL would end the stream."""
    # Longer than a busy machine may leave a thread without its turn.
    own_gitlab.server.set(wal_sender_timeout="5s")
    lsn = await new_slot(own_gitlab)
    with own_gitlab.connect() as gitlab:
        gitlab.execute(ADD_USERS, [1, 200_000])
    replication = await Replication.connect(own_gitlab.bridge_dsn)
    await replication.start(slot_of(own_gitlab), PUBLICATION, lsn)
    count = 0
    async for piece in replication.pieces(1000):
        if count == 0:
            await asyncio.sleep(8)
        count += len(piece.changes)
        if piece.commit:
            break
    await replication.close()
    assert count == 200_000


async def test_a_commit_that_nobody_can_see_yet_is_streamed(own_gitlab: GitlabDatabase) -> None:
    server = own_gitlab.server
    async with following(own_gitlab) as follower:
        server.set(synchronous_standby_names="nobody")
        with own_gitlab.connect() as waiting, own_gitlab.connect() as other:
            writing = asyncio.create_task(
                asyncio.to_thread(waiting.execute, ADD_USERS.encode(), [1, 1])
            )
            await follower.until(lambda: len(follower.changes) == 1)
            other.execute("SET synchronous_commit = local")
            assert other.execute("SELECT count(*) FROM users").fetchone() == (0,)
            assert not writing.done()
            # Heartbeats go on: the commit lies below the position, and has been handed out.
            await asyncio.wait_for(caught_up(follower, own_gitlab), 10)
            server.reset("synchronous_standby_names")
            await asyncio.wait_for(writing, 20)


async def snapshot_of_users(gitlab: GitlabDatabase) -> tuple[int, list[Row]]:
    async with slot_snapshot(gitlab.bridge_dsn, slot_of(gitlab), PUBLICATION) as snapshot:
        with reading(gitlab.bridge_dsn, snapshot.name) as connection:
            return snapshot.lsn, list(copy_table(connection, TABLES["users"]))


async def test_a_snapshot_has_a_commit_that_nobody_can_see_yet_or_the_stream_has_it(
    own_gitlab: GitlabDatabase,
) -> None:
    server = own_gitlab.server
    server.set(synchronous_standby_names="nobody")
    with own_gitlab.connect() as waiting:
        writing = asyncio.create_task(
            asyncio.to_thread(waiting.execute, ADD_USERS.encode(), [1, 1])
        )
        await asyncio.sleep(1)
        creating = asyncio.create_task(snapshot_of_users(own_gitlab))
        await asyncio.sleep(1)
        server.reset("synchronous_standby_names")
        await asyncio.wait_for(writing, 20)
        lsn, rows = await asyncio.wait_for(creating, 20)
    follower = await follow(own_gitlab, lsn)
    await caught_up(follower, own_gitlab)
    await follower.close()
    assert [change.id for change in follower.changes] + [row[0] for row in rows] == [1]


PAGE = 8192


def emit(connection: psycopg.Connection[tuple[str]], size: int) -> int:
    """Write a record with so many bytes; return where PostgreSQL writes next."""
    connection.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', %s))", [size])
    [(lsn,)] = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchall()
    return lsn_number(lsn)


def end_a_page(connection: psycopg.Connection[tuple[str]]) -> int:
    """Write a record that ends where its page ends; return where PostgreSQL writes next."""
    for _ in range(50):
        first, second = emit(connection, 304), emit(connection, 304)
        overhead = second - first - 304
        rest = PAGE - second % PAGE - overhead
        if rest > 300 and (lsn := emit(connection, rest)) % PAGE == 24:
            return lsn
    raise AssertionError("no record ends at the end of a page")


async def test_a_quiet_server_reaches_a_position_at_the_start_of_a_page(
    own_gitlab: GitlabDatabase,
) -> None:
    """PostgreSQL writes next after the page's header; no record ever ends there."""
    async with following(own_gitlab) as follower:
        with own_gitlab.server.connect() as connection:
            raw = end_a_page(connection)
            assert position(own_gitlab) == raw - 24
            await asyncio.wait_for(reached(follower, raw - 24), 5)
            assert follower.replication.delivered == raw - 24


async def test_a_quiet_server_reaches_a_position_at_the_start_of_a_segment(
    own_gitlab: GitlabDatabase,
) -> None:
    async with following(own_gitlab) as follower:
        own_gitlab.server.execute("SELECT pg_switch_wal()")
        target = position(own_gitlab)
        assert target % (16 << 20) == 0
        await asyncio.wait_for(reached(follower, target), 5)


@pytest.fixture
def standby(own_postgres: Postgres) -> Iterator[Postgres]:
    with running_standby(own_postgres) as server:
        yield server


async def test_a_standby_is_refused(own_gitlab: GitlabDatabase, standby: Postgres) -> None:
    standing_by = GitlabDatabase(standby, own_gitlab.name)
    with pytest.raises(StandbyError, match="target_session_attrs=primary"):
        await Replication.connect(standing_by.bridge_dsn)
    with pytest.raises(StandbyError), connect(standing_by.bridge_dsn):
        pass


async def test_a_promoted_standby_has_another_timeline(
    own_gitlab: GitlabDatabase, standby: Postgres
) -> None:
    first = await Replication.connect(own_gitlab.bridge_dsn)
    await first.close()
    standby.execute("SELECT pg_promote()")
    promoted = GitlabDatabase(standby, own_gitlab.name)
    second = await Replication.connect(promoted.bridge_dsn)
    assert await second.slot(slot_of(promoted)) is None
    await second.close()
    assert second.identity.system == first.identity.system
    assert second.identity.timeline == first.identity.timeline + 1
