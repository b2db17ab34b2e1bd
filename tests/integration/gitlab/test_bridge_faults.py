"""Faults of the bridge, PostgreSQL and Kafka while a company works: afterwards nothing differs.

No write of GitLab fails because of the bridge: the company would raise.
"""

import signal
import threading
import time
from pathlib import Path
from random import Random

import psycopg

from projector.ports import is_listening
from tests.integration.conftest import apache_or_skip
from tests.integration.gitlab.bridged import Bridged
from tests.integration.gitlab.company import jobs, people, tree
from tests.integration.gitlab.conftest import NewBridged
from tests.integration.ports import free_port
from tests.integration.servers import apache_kafka, embedded_kafka, eventually, running

SLOT = "projector"
dice = Random(14)


def test_the_bridge_is_killed_at_random(new_bridged: NewBridged) -> None:
    it = started(new_bridged)
    with it.changing():
        for _ in range(5):
            time.sleep(dice.uniform(0.1, 1.2))
            it.restart_bridge()
    it.check()


def test_connections_are_cut(new_bridged: NewBridged) -> None:
    it = started(new_bridged)
    with it.changing():
        for _ in range(5):
            time.sleep(dice.uniform(0.1, 0.8))
            cut_connections(it)
    it.check()


def test_postgres_crashes(new_bridged: NewBridged) -> None:
    it = started(new_bridged)
    with it.changing(cuts=True):
        for mode in ("immediate", "immediate", "fast"):
            time.sleep(dice.uniform(0.3, 0.8))
            it.server.restart(mode)
    it.check()


def test_the_slot_is_dropped(new_bridged: NewBridged) -> None:
    it = started(new_bridged)
    with it.changing():
        time.sleep(0.5)
        drop_slot(it)
        time.sleep(1)
    it.check()
    it.bridge.kill()
    it.company.change(30)
    drop_slot(it)
    it.company.change(30)
    it.bridge.start()
    it.check()


def test_the_state_is_lost(new_bridged: NewBridged) -> None:
    it = started(new_bridged)
    for is_back in (True, False) * 3:
        stray(it, is_back=is_back)
    it.bridge.kill()
    for file in state_files(it):
        file.unlink()
    # What goes meanwhile is in no table any more.
    it.company.change(100)
    it.bridge.start()
    eventually(lambda: it.bridge.process.poll() is not None, "the bridge refuses to run")
    assert "--audit" in it.bridge.log()
    it.start_bridge("--audit")
    it.company.change(10)
    it.check()


def test_kafka_stands_still(new_bridged: NewBridged, tmp_path: Path) -> None:
    port = free_port()
    with running(embedded_kafka(tmp_path, port)) as kafka:
        eventually(lambda: is_listening(port), "the broker listening")
        it = started(new_bridged, kafka=f"127.0.0.1:{port}")
        with it.changing():
            kafka.signal(signal.SIGSTOP)
            time.sleep(5)
            kafka.signal(signal.SIGCONT)
        it.check()


def test_kafka_is_killed(new_bridged: NewBridged, tmp_path: Path) -> None:
    apache_or_skip("apache")
    port = free_port()
    with running(apache_kafka(tmp_path, port)) as kafka:
        eventually(lambda: is_listening(port), "the broker listening")
        it = started(new_bridged, kafka=f"127.0.0.1:{port}")
        with it.changing():
            time.sleep(0.5)
            kafka.kill()
            time.sleep(3)
            it.restart_bridge()
            time.sleep(1)
            kafka.start()
        it.check()


def test_a_transaction_of_a_hundred_thousand_rows(new_bridged: NewBridged) -> None:
    it = started(new_bridged)
    group = tree.new_group(it.company)  # shared with none, so that each member is one event
    with it.gitlab.connect() as gitlab, it.changing(), gitlab.transaction():
        gitlab.execute(
            "WITH many AS (INSERT INTO users (username, email, state) SELECT 'many' || n,"
            " 'many' || n, 'active' FROM generate_series(1, 75000) n RETURNING id)"
            " INSERT INTO members (access_level, source_id, source_type, type, user_id, state)"
            " SELECT 20, %s, 'Namespace', 'GroupMember', id, 0 FROM many LIMIT 25000", [group],
        )  # fmt: skip
        time.sleep(0.5)
    it.check()


def test_a_transaction_is_open_at_the_snapshot(new_bridged: NewBridged) -> None:
    it = started(new_bridged)
    it.bridge.kill()
    drop_slot(it)
    with it.gitlab.connect() as gitlab, gitlab.transaction():
        gitlab.execute("UPDATE users SET state = 'blocked' WHERE id % 3 = 0")
        gitlab.execute("DELETE FROM members WHERE id % 5 = 0")
        it.bridge.start()
        for _ in range(5):
            # Rows that the open transaction does not hold.
            it.company.transact([jobs.start_job, jobs.finish_job])
            time.sleep(0.4)
    it.check()


def test_a_commit_that_cannot_be_seen_yet(new_bridged: NewBridged) -> None:
    """The log is ahead of what GitLab shows, and so are the answers."""
    it = started(new_bridged)
    user = people.new_user(it.company)
    tokens = [
        it.tokens(job)[0] for job, right in it.oracle.answers().items() if right.status == 200
    ]
    assert tokens
    it.server.set(synchronous_standby_names="nobody")
    try:
        waits = threading.Thread(target=block_everybody_but, args=(it, user))
        waits.start()
        eventually(
            lambda: {it.look_up(token).status for token in tokens} == {403}, "all users blocked"
        )
        assert it.rows("SELECT count(*) FROM users WHERE state = 'blocked'")[0]["count"] == 0
    finally:
        it.server.set(synchronous_standby_names="")
        waits.join()
    it.check()


def test_gitlab_is_upgraded(new_bridged: NewBridged) -> None:
    """Partitions come, columns go, and a type changes as GitLab changes it."""
    it = started(new_bridged)
    with it.changing():
        it.rows(
            "CREATE TABLE gitlab_partitions_dynamic.ci_builds_102 PARTITION OF p_ci_builds"
            " FOR VALUES IN (102)"
        )
        it.rows(
            "CREATE TABLE gitlab_partitions_dynamic.ci_builds_metadata_102"
            " PARTITION OF p_ci_builds_metadata FOR VALUES IN (102)"
        )
        it.company.partitions.append(102)
        time.sleep(0.5)
        it.rows("ALTER TABLE projects DROP COLUMN description")
        it.rows("ALTER TABLE members DROP COLUMN ldap")
        it.rows("ALTER TABLE users ADD COLUMN new_in_19 text DEFAULT 'x'")
    for table, column in (("members", "access_level"), ("environments", "tier")):
        with it.changing():
            swap_to_bigint(it, table, column)
            time.sleep(0.3)
        # Grants belong to the column, not to its name: an administrator runs `check` again.
        it.rows(f"GRANT SELECT ({column}) ON {table} TO projector")
        it.check()


def test_a_table_is_emptied_at_once(new_bridged: NewBridged) -> None:
    it = started(new_bridged)
    with it.changing():
        time.sleep(0.3)
        it.rows("TRUNCATE agent_project_authorizations, members")
        time.sleep(0.3)
    it.check()


def test_a_second_bridge_takes_over(new_bridged: NewBridged) -> None:
    it = started(new_bridged)
    first = it.bridge
    second = it.start_bridge()
    with it.changing():
        time.sleep(1)
        assert second.process.poll() is None
        first.kill()
        time.sleep(1)
        first.start()
        time.sleep(0.5)
        second.stop()
    it.bridge = first
    it.check()


def started(new_bridged: NewBridged, **options: str) -> Bridged:
    it = new_bridged(seed=dice.randrange(1000), **options)
    it.start()
    it.judge()
    return it


def stray(it: Bridged, *, is_back: bool) -> None:
    """Move a project, with a job that runs, to another root namespace, and perhaps back."""
    company = it.company
    here, there = tree.new_group(company), tree.new_group(company)
    project = tree.new_project(company, here)
    company.insert(
        "p_ci_builds", partition_id=100, status="running", type="Ci::Build", commit_id=1,
        project_id=project, user_id=people.new_user(company),
    )  # fmt: skip
    own = "SELECT project_namespace_id FROM projects WHERE id = %s"
    for place in (here, there, here)[: 3 if is_back else 2]:
        it.rows("UPDATE projects SET namespace_id = %s WHERE id = %s", place, project)
        it.rows(f"UPDATE namespaces SET parent_id = %s WHERE id = ({own})", place, project)
        company.watch()
        it.settle()


def state_files(it: Bridged) -> list[Path]:
    return list(it.state.parent.glob(f"{it.state.name}*"))


def cut_connections(it: Bridged) -> None:
    it.server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'projector'"
    )


def drop_slot(it: Bridged) -> None:
    """Drop the slot although the bridge holds on to it."""
    for _ in range(1000):
        cut_connections(it)
        try:
            it.server.execute("SELECT pg_drop_replication_slot(%s)", SLOT)
        except psycopg.errors.ObjectInUse:
            continue
        return
    raise AssertionError("the slot is always in use")


def block_everybody_but(it: Bridged, user: int) -> None:
    with it.gitlab.connect() as gitlab:
        gitlab.execute("UPDATE users SET state = 'blocked' WHERE id <> %s", [user])


def swap_to_bigint(it: Bridged, table: str, column: str) -> None:
    """Change a column's type as GitLab does: by a copy, a trigger, and a swap of names."""
    copy, function = f"{column}_convert_to_bigint", f"copy_{table}_{column}"
    it.rows(f"ALTER TABLE {table} ADD COLUMN {copy} bigint")
    it.rows(
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN NEW.{copy} := NEW.{column}; RETURN NEW; END $$;"
        f" CREATE TRIGGER {function} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW"
        f" EXECUTE FUNCTION {function}()"
    )
    it.rows(f"UPDATE {table} SET {copy} = {column} WHERE {copy} IS DISTINCT FROM {column}")
    with it.gitlab.connect() as gitlab, gitlab.transaction():
        for statement in (
            f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE",
            f"DROP TRIGGER {function} ON {table}",
            f"ALTER TABLE {table} RENAME COLUMN {column} TO {column}_old",
            f"ALTER TABLE {table} RENAME COLUMN {copy} TO {column}",
            f"ALTER TABLE {table} ALTER COLUMN {column}_old DROP NOT NULL",
        ):
            gitlab.execute(statement.encode())
    it.rows(f"ALTER TABLE {table} DROP COLUMN {column}_old")
