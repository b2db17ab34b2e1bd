"""`projector gitlab run` as a process, from a GitLab-shaped PostgreSQL to answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from projector.process import is_listening
from tests.integration import servers
from tests.integration.deployment import Deployment
from tests.integration.gitlab.bridged import Bridged
from tests.integration.gitlab.gitlab_database import GitlabDatabase
from tests.integration.ports import free_port
from tests.integration.servers import eventually


@pytest.fixture
def own_deployment(tmp_path: Path) -> Iterator[Deployment]:
    """Yield a deployment whose broker and Redis the test may stop."""
    kafka, redis = free_port(), free_port()
    folder = tmp_path / "kafka"
    folder.mkdir()
    with (
        servers.running(servers.embedded_kafka(folder, kafka)),
        servers.running(servers.valkey(tmp_path, redis)),
        Deployment(f"127.0.0.1:{kafka}", redis, "bridge.", tmp_path) as deployment,
    ):
        eventually(lambda: is_listening(kafka) and is_listening(redis), "servers listening")
        yield deployment


@pytest.fixture
def bridged(own_deployment: Deployment, gitlab_database: GitlabDatabase) -> Iterator[Bridged]:
    """Yield the product beside a company; the test starts it."""
    found = Bridged(
        own_deployment, gitlab_database, PROJECTOR_GITLAB_SLOT=f"slot_{gitlab_database.name}"
    )
    yield found
    found.close()


def test_answers_follow_gitlabs_database(bridged: Bridged) -> None:
    bridged.start()
    bridged.judge()
    with bridged.changing():
        bridged.settle()
    bridged.judge()
