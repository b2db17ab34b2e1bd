"""One broker of each kind per session; for each test its own topics, Redis and processes."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from projector.process import is_listening
from tests.integration import processes, servers
from tests.integration.deployment import Deployment
from tests.integration.ports import free_port

BROKERS = {"embedded": servers.embedded_kafka, "apache": servers.apache_kafka}
prefixes = itertools.count(1)


def apache_or_skip(broker: str) -> None:
    """Skip what cannot run without Java; fail instead where Kafka is required, as in CI."""
    if broker == "apache" and (reason := servers.without_apache_kafka()):
        if os.environ.get("REQUIRE_KAFKA"):
            pytest.fail(reason)
        pytest.skip(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadgroup` one process runs what needs Apache Kafka, and no other starts it."""
    for item in items:
        if isinstance(item, pytest.Function) and "apache" in item.name.rpartition("[")[2]:
            item.add_marker(pytest.mark.xdist_group("apache"))


@pytest.fixture(scope="session", autouse=True)
def _forking() -> Iterator[None]:
    with processes.forking():
        yield


@pytest.fixture
def real_processes() -> Iterator[None]:
    """For tests of how a process starts and ends."""
    with processes.not_forking():
        yield


@pytest.fixture(scope="session")
def address_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Gives a kind of broker's address; starts the broker when it is first asked for."""
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
    """A broker's address, of either kind."""
    apache_or_skip(request.param)
    return address_of(request.param)


@pytest.fixture
def deployment(kafka: str, tmp_path: Path) -> Iterator[Deployment]:
    """Topics and a Redis of its own; the test starts the processes that it wants."""
    port = free_port()
    with servers.running(servers.valkey(tmp_path, port)):
        servers.eventually(lambda: is_listening(port), "Valkey listening")
        with Deployment(kafka, port, f"test-{next(prefixes)}.", tmp_path) as deployment:
            yield deployment
