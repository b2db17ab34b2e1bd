"""Fixtures: one Apache Kafka per session; topics, Redis and processes per scenario."""

import itertools
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import redis as client

from projector.ports import is_listening
from tests.faults.background_loop import BackgroundLoop
from tests.faults.brokers import Brokers
from tests.faults.fake_clock import FakeClock
from tests.faults.interleavings import ReplicatedRedis
from tests.faults.proxy import KeepingProxy, Proxy
from tests.faults.report import HandedOver, Report
from tests.faults.scenario import Scenario
from tests.integration import servers
from tests.integration.conftest import apache_or_skip
from tests.integration.deployment import Deployment
from tests.integration.ports import free_port
from tests.integration.servers import Server, eventually, running

SEED = int(os.environ.get("FAULTS_SEED", "7"))
REPORT = pytest.StashKey[Report]()
HANDED_OVER = "faults"
# Replicas get their copy at once: the default waits five seconds for further replicas.
DISKLESS = ("--repl-diskless-sync-delay", "0")
prefixes = itertools.count(1)


class Broker(NamedTuple):
    """Apache Kafka, its direct address and its address through the proxy."""

    server: Server
    port: int
    address: str
    proxied: str
    proxy: Proxy


class Redis(NamedTuple):
    """A Valkey of one scenario."""

    server: Server
    port: int


class FakedRedis(NamedTuple):
    """A Valkey and its clock, which may jump."""

    redis: Redis
    clock: FakeClock


NewRedis = Callable[..., Redis]
NewScenario = Callable[..., Scenario]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the report of a process of pytest-xdist over."""
    if output := getattr(session.config, "workeroutput", None):
        output[HANDED_OVER] = msgspec.to_builtins(session.config.stash[REPORT].handed_over())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add the report of a process that has ended; without one if it crashed."""
    if handed_over := getattr(node, "workeroutput", {}).get(HANDED_OVER):
        node.config.stash[REPORT].add(msgspec.convert(handed_over, HandedOver))


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


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    return request.config.stash[REPORT]


@pytest.fixture(scope="session")
def network() -> Iterator[BackgroundLoop]:
    """Run the event loop of the proxies."""
    with BackgroundLoop() as background:
        yield background


@pytest.fixture(scope="session")
def session_broker(
    network: BackgroundLoop, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    apache_or_skip("apache")
    port, inner, outer, controller = (free_port() for _ in range(4))
    folder = tmp_path_factory.mktemp("kafka")
    server = servers.apache_kafka(
        folder, port, controller, "run",
        f"listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{inner},"
        f"CONTROLLER://127.0.0.1:{controller}",
        f"advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{outer}",
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name=PLAINTEXT",
        # A killed broker may register again only after its session has ended.
        "broker.session.timeout.ms=2000", "broker.heartbeat.interval.ms=500",
    )  # fmt: skip
    with running(server):
        eventually(lambda: is_listening(port), f"broker listening: {server.log()}")
        proxy = Proxy(network, outer, inner)
        yield Broker(server, port, f"127.0.0.1:{port}", f"127.0.0.1:{outer}", proxy)
        proxy.close()


@pytest.fixture
def broker(session_broker: Broker) -> Iterator[Broker]:
    """Yield the session's Kafka; afterwards make it run and answer again."""
    yield session_broker
    session_broker.proxy.thaw()
    if session_broker.server.process.poll() is None:
        session_broker.server.signal(signal.SIGCONT)
    else:
        session_broker.server.start()
    eventually(lambda: is_listening(session_broker.port), "broker listening again")


@pytest.fixture(scope="session")
def session_brokers(
    network: BackgroundLoop, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Brokers]:
    apache_or_skip("apache")
    with ExitStack() as stack:
        yield Brokers(tmp_path_factory.mktemp("brokers"), network, stack)


@pytest.fixture
def brokers(session_brokers: Brokers) -> Iterator[Brokers]:
    """Yield three brokers of the session; afterwards make them run and reach each other again."""
    yield session_brokers
    session_brokers.mend()


@pytest.fixture
def new_redis(tmp_path: Path) -> Iterator[NewRedis]:
    """Return a function that starts an empty Redis with further options."""
    with ExitStack() as stack:

        def start(*options: str, env: Mapping[str, str] | None = None) -> Redis:
            port = free_port()
            folder = tmp_path / f"redis-{port}"
            folder.mkdir()
            valkey = servers.valkey(folder, port, *DISKLESS, *options, env=env)
            server = stack.enter_context(running(valkey))
            eventually(lambda: is_listening(port), "Valkey listening")
            return Redis(server, port)

        yield start


@pytest.fixture
def redis(new_redis: NewRedis) -> Redis:
    return new_redis()


@pytest.fixture
def replicated_redis(new_redis: NewRedis, network: BackgroundLoop) -> Iterator[ReplicatedRedis]:
    primary, replica = new_redis(), new_redis()
    port = free_port()
    proxy = Proxy(network, port, primary.port)
    with client.Redis(port=primary.port) as old, client.Redis(port=replica.port) as new:
        new.replicaof("127.0.0.1", primary.port)
        eventually(lambda: new.info("replication")["master_link_status"] == "up", "replication")
        yield ReplicatedRedis(old, new, port, lambda: proxy.switch(replica.port))
    proxy.close()


@pytest.fixture
def kept_redis(new_redis: NewRedis, network: BackgroundLoop) -> Iterator[ReplicatedRedis]:
    """Yield a primary and its replica behind a proxy that keeps its clients' connections."""
    primary, replica = new_redis(), new_redis()
    proxy = KeepingProxy(network, free_port(), primary.port)
    with client.Redis(port=primary.port) as old, client.Redis(port=replica.port) as new:
        new.replicaof("127.0.0.1", primary.port)
        eventually(lambda: new.info("replication")["master_link_status"] == "up", "replication")
        yield ReplicatedRedis(old, new, proxy.port, lambda: proxy.switch_keeping(replica.port))
    proxy.close()


@pytest.fixture
def faked_redis(new_redis: NewRedis, tmp_path: Path) -> FakedRedis:
    clock = FakeClock(tmp_path)
    return FakedRedis(new_redis(env=clock.env), clock)


@pytest.fixture
def new_scenario(
    request: pytest.FixtureRequest, report: Report, tmp_path: Path
) -> Iterator[NewScenario]:
    """Return a function that creates a scenario on the session's Kafka and its own Redis."""
    with ExitStack() as stack:

        def start(
            fault: str, redis_port: int | None = None, kafka: str | None = None,
            kind: type[Scenario] = Scenario,
        ) -> Scenario:  # fmt: skip
            port = redis_port or request.getfixturevalue("redis").port
            address = kafka or request.getfixturevalue("broker").address
            prefix = f"faults-{next(prefixes)}."
            deployment = stack.enter_context(Deployment(address, port, prefix, tmp_path))
            return stack.enter_context(kind(deployment, SEED, report, fault))

        yield start
