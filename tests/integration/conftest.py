"""Fixtures: one broker of each kind per session; topics, Redis and processes per test."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from projector.ports import is_listening
from tests.absence import skip_test
from tests.integration import processes, servers
from tests.integration.deployment import Deployment
from tests.integration.ingest import TOKEN, Ingest
from tests.integration.ports import free_port

BROKERS = {"embedded": servers.embedded_kafka, "apache": servers.apache_kafka}
prefixes = itertools.count(1)


def apache_or_skip(broker: str) -> None:
    """Skip a test of Apache Kafka without Java."""
    if broker == "apache" and (reason := servers.without_apache_kafka()):
        skip_test(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of Apache Kafka, so that `--dist loadgroup` starts it in one process only."""
    for item in items:
        if isinstance(item, pytest.Function) and "apache" in item.name.rpartition("[")[2]:
            item.add_marker(pytest.mark.xdist_group("apache"))


@pytest.fixture(scope="session", autouse=True)
def _forking() -> Iterator[None]:
    with processes.forking():
        yield


@pytest.fixture
def real_processes() -> Iterator[None]:
    """Start a new Python for each command, for tests of how a process starts or ends."""
    with processes.not_forking():
        yield


@pytest.fixture(scope="session")
def address_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Return a function from a kind of broker to its address; start each broker on first use."""
    with ExitStack() as stack:

        @cache
        def started(kind: str) -> str:
            port = free_port()
            server = BROKERS[kind](tmp_path_factory.mktemp(kind), port)
            broker = stack.enter_context(servers.running(server))
            servers.eventually(lambda: is_listening(port), f"broker listening: {broker.log()}")
            return f"127.0.0.1:{port}"

        yield started


@pytest.fixture(params=list(BROKERS))
def kafka(request: pytest.FixtureRequest, address_of: Callable[[str], str]) -> str:
    """Return the address of a broker, once of each kind."""
    apache_or_skip(request.param)
    return address_of(request.param)


@pytest.fixture
def deployment(kafka: str, tmp_path: Path) -> Iterator[Deployment]:
    """Yield a deployment with its own topics and Redis; the test starts the processes."""
    port = free_port()
    with servers.running(servers.valkey(tmp_path, port)):
        servers.eventually(lambda: is_listening(port), "Valkey listening")
        with Deployment(kafka, port, f"test-{next(prefixes)}.", tmp_path) as deployment:
            yield deployment


@pytest.fixture(scope="session")
def ingest(
    address_of: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ingest]:
    """Yield one ingest, with the whole product behind it; at the end, its log has no token."""
    folder, port, kafka = tmp_path_factory.mktemp("ingest"), free_port(), address_of("embedded")
    with servers.running(servers.valkey(folder, port)):
        servers.eventually(lambda: is_listening(port), "Valkey listening")
        with Deployment(kafka, port, f"test-{next(prefixes)}.", folder) as deployment:
            deployment.start_all()
            ingest = Ingest(deployment)
            yield ingest
            assert TOKEN not in ingest.server.log()
