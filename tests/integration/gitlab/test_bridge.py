"""`projector gitlab run` as a process, from a GitLab-shaped PostgreSQL to answers."""

import random
import signal
import time

import pytest

from projector.events.model import Topic
from projector.gitlab.sender import PAUSED_S
from tests.integration.gitlab.conftest import NewBridged
from tests.integration.servers import eventually


def test_answers_follow_gitlabs_database(new_bridged: NewBridged) -> None:
    bridged = new_bridged()
    bridged.start()
    bridged.judge()
    with bridged.changing():
        bridged.settle()
    bridged.judge()


def test_a_state_that_was_put_back_is_refused_until_an_audit(new_bridged: NewBridged) -> None:
    """What was told after the copy and removed before it was put back would stay for ever."""
    it = new_bridged()
    it.start()
    it.settle()
    assert it.bridge.stop() == 0
    copies = {path: path.read_bytes() for path in it.state.parent.glob("gitlab.db*")}
    it.bridge.start()
    it.company.change(30)
    it.settle()
    good = it.deployment.command("gitlab", "check")
    assert good.returncode != 3, good.stderr
    assert "the state is" not in good.stdout
    it.bridge.kill()
    for path in it.state.parent.glob("gitlab.db*"):
        path.unlink()
    lost = it.deployment.command("gitlab", "check")
    assert lost.returncode == 2
    assert "the state is empty, but the topics are not" in lost.stdout
    for path, content in copies.items():
        path.write_bytes(content)
    it.company.change(30)
    old = it.deployment.command("gitlab", "check")
    assert old.returncode == 2
    assert "the state is older than what was sent" in old.stdout
    it.bridge.start()
    assert it.bridge.process.wait(30) == 2
    assert "the state is older than what was sent" in " ".join(it.bridge.log().split())
    it.start_bridge("--audit")
    it.check()
    it.restart_bridge()
    it.settle()


def test_a_slot_that_is_ahead_shows_an_old_state_without_heartbeats(
    new_bridged: NewBridged,
) -> None:
    it = new_bridged()
    it.start()
    it.settle()
    assert it.bridge.stop() == 0
    copies = {path: path.read_bytes() for path in it.state.parent.glob("gitlab.db*")}
    it.bridge.start()
    it.company.change(30)
    it.settle()
    it.bridge.kill()
    for path in it.state.parent.glob("gitlab.db*"):
        path.unlink()
    for path, content in copies.items():
        path.write_bytes(content)
    it.deployment.delete_topic("sources")
    assert it.deployment.command("topics").returncode == 0
    it.bridge.start()
    assert it.bridge.process.wait(30) == 2
    assert "the state is older than what was sent" in " ".join(it.bridge.log().split())


def test_a_signal_ends_the_bridge_within_a_second_also_while_it_reads_all_tables(
    new_bridged: NewBridged,
) -> None:
    it = new_bridged()
    with it.gitlab.connect() as gitlab:
        gitlab.execute(
            "INSERT INTO users (id, username, state, email)"
            " SELECT i, 'many' || i, 'blocked', i || '@example.com'"
            " FROM generate_series(1000000, 1300000) AS i"
        )
    assert it.deployment.command("topics").returncode == 0
    it.start_bridge()
    slots = "SELECT count(*) FROM pg_replication_slots"
    eventually(lambda: it.server.execute(slots) == [(1,)], f"a slot: {it.bridge.log()}")
    began = time.monotonic()
    assert it.bridge.stop() == 0
    assert time.monotonic() - began < 1.5
    assert '"snapshot"' not in it.bridge.log()
    it.bridge.start()
    eventually(lambda: '"snapshot"' in it.bridge.log(), f"a snapshot: {it.bridge.log()}")


# The embedded broker keeps a group's offsets of a topic that is deleted, and its ends then lag.
@pytest.mark.parametrize("broker", ["apache"])
def test_topics_that_were_made_anew_are_fed_again_by_an_audit(
    new_bridged: NewBridged, broker: str
) -> None:
    it = new_bridged(broker)
    it.start()
    it.settle()
    assert it.bridge.stop() == 0
    for name in Topic:
        it.deployment.delete_topic(name)
    assert it.deployment.command("topics").returncode == 0
    it.bridge.start()
    assert it.bridge.process.wait(30) == 2
    assert "--audit" in it.bridge.log()
    it.worker.stop()
    it.deployment.redis.flushdb()
    it.start_bridge("--audit")
    eventually(lambda: "no worker has run" in it.bridge.log(), f"a wait: {it.bridge.log()}")
    it.company.change(30)
    it.worker.start()
    it.check()
    it.restart_bridge()
    it.settle()


def test_a_bridge_that_was_paused_is_refused_once_another_has_taken_its_place(
    new_bridged: NewBridged,
) -> None:
    it = new_bridged()
    it.start()
    it.settle()
    former = it.bridge
    former.signal(signal.SIGSTOP)
    time.sleep(PAUSED_S)
    # As on another host: a state and a slot of its own.
    state = it.state.with_name("other.db")
    env = {"PROJECTOR_GITLAB_STATE": str(state), "PROJECTOR_GITLAB_SLOT": "another"}
    it.deployment.env |= env
    it.start_bridge("--audit")
    it.settle()
    former.signal(signal.SIGCONT)
    assert former.process.wait(30) == 2
    assert "a bridge with another state has sent since" in " ".join(former.log().split())
    it.settle()


def test_kills_at_any_moment_lose_nothing(new_bridged: NewBridged) -> None:
    chance = random.Random(14)
    it = new_bridged(seed=14)
    it.start()
    with it.changing():
        for _ in range(12):
            time.sleep(chance.uniform(0.0, 1.5))
            it.restart_bridge()
    it.judge()
    it.audit()
