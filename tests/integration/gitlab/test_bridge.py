"""`projector gitlab run` as a process, from a GitLab-shaped PostgreSQL to answers."""

from tests.integration.gitlab.conftest import NewBridged


def test_answers_follow_gitlabs_database(new_bridged: NewBridged) -> None:
    bridged = new_bridged()
    bridged.start()
    bridged.judge()
    with bridged.changing():
        bridged.settle()
    bridged.judge()
