"""`projector gitlab run` as a process, from a GitLab-shaped PostgreSQL to answers."""

from tests.integration.gitlab.conftest import NewBridged


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
    it.bridge.kill()
    for path in it.state.parent.glob("gitlab.db*"):
        path.unlink()
    for path, content in copies.items():
        path.write_bytes(content)
    it.company.change(30)
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
