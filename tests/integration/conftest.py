"""One broker of each kind per session; for each test its own topics, Redis and processes."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from projector.process import free_port, is_listening
from tests.integration import servers
from tests.integration.deployment import Deployment

BROKERS = {"embedded": servers.embedded_kafka, "apache": servers.apache_kafka}
prefixes = itertools.count(1)


def apache_or_skip(broker: str) -> None:
    """Skip what cannot run without Java; fail instead where Kafka is required, as in CI."""
    if broker == "apache" and (reason := servers.without_apache_kafka()):
        if os.environ.get("REQUIRE_KAFKA"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session", params=list(BROKERS))
def kafka(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A broker's address, of either kind."""
    apache_or_skip(request.param)
    port = free_port()
    start = BROKERS[request.param]
    with servers.running(start(tmp_path_factory.mktemp(request.param), port)) as broker:
        servers.eventually(lambda: is_listening(port), f"broker listening: {broker.log()}")
        yield f"127.0.0.1:{port}"


@pytest.fixture
def deployment(kafka: str, tmp_path: Path) -> Iterator[Deployment]:
    """Topics and a Redis of its own; the test starts the processes that it wants."""
    port = free_port()
    with servers.running(servers.valkey(tmp_path, port)):
        servers.eventually(lambda: is_listening(port), "Valkey listening")
        with Deployment(kafka, port, f"test-{next(prefixes)}.", tmp_path) as deployment:
            yield deployment
