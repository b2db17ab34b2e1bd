"""One Apache Kafka for the session; for each scenario its own topics, Redis and processes."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from projector.ports import free_port, is_listening
from tests.faults.report import Report
from tests.faults.scenario import Scenario
from tests.integration import servers
from tests.integration.conftest import apache_or_skip, prefixes
from tests.integration.deployment import Deployment

SEED = int(os.environ.get("FAULTS_SEED", "7"))
REPORT = pytest.StashKey[Report]()

NewScenario = Callable[[str], Scenario]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()


def pytest_report_header() -> str:
    return f"FAULTS_SEED={SEED}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    report = config.stash[REPORT]
    if report.rows or report.latencies:
        terminalreporter.section(f"faults (FAULTS_SEED={SEED})")
        for line in report.lines():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of Apache Kafka."""
    apache_or_skip("apache")
    port = free_port()
    with servers.running(servers.apache_kafka(tmp_path_factory.mktemp("kafka"), port)) as broker:
        servers.eventually(lambda: is_listening(port), f"broker listening: {broker.log()}")
        yield f"127.0.0.1:{port}"


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[tuple[servers.Server, int]]:
    """An empty Redis, and its port."""
    port = free_port()
    with servers.running(servers.valkey(tmp_path, port)) as server:
        servers.eventually(lambda: is_listening(port), "Valkey listening")
        yield server, port


@pytest.fixture
def new_scenario(
    kafka: str,
    redis_server: tuple[servers.Server, int],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[NewScenario]:
    """Makes the scenario with a name for its fault."""
    with ExitStack() as stack:
        deployment = Deployment(kafka, redis_server[1], f"faults-{next(prefixes)}.", tmp_path)
        stack.enter_context(deployment)
        report = request.config.stash[REPORT]
        yield lambda fault: stack.enter_context(Scenario(deployment, SEED, report, fault))
