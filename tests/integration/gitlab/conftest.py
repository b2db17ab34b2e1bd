"""Fixtures: one PostgreSQL per session, a database per test, and servers of a test's own."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from projector.ports import is_listening
from tests.absence import skip_test
from tests.integration.conftest import apache_or_skip
from tests.integration.deployment import Deployment
from tests.integration.gitlab import postgres
from tests.integration.gitlab.bridged import Bridged
from tests.integration.gitlab.gitlab_database import GitlabDatabase
from tests.integration.gitlab.postgres import Postgres, running_postgres
from tests.integration.ports import free_port
from tests.integration.servers import eventually, running, valkey

NewBridged = Callable[..., Bridged]
numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def _template() -> Iterator[None]:
    yield
    postgres.forget_template()


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[Postgres]:
    """Yield a server that tests share: none may stop it or change its settings."""
    if reason := postgres.without_postgres():
        skip_test(reason)
    with running_postgres() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """Yield a server that the test may stop, crash and set as it likes."""
    if reason := postgres.without_postgres():
        skip_test(reason)
    with running_postgres() as server:
        yield server


@pytest.fixture
def database(shared_postgres: Postgres) -> Iterator[str]:
    """Yield the name of a new, empty database on the shared server; its slots go with it."""
    name = f"test_{os.getpid()}_{next(numbers)}"
    shared_postgres.execute(f"CREATE DATABASE {name}")
    yield name
    shared_postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name
    )
    drop_slots(shared_postgres, name)
    shared_postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def new_bridged(address_of: Callable[[str], str], tmp_path: Path) -> Iterator[NewBridged]:
    """Return a function that makes a GitLab and the whole product behind it, not yet started."""
    if reason := postgres.without_postgres():
        skip_test(reason)
    with ExitStack() as stack:

        def new_bridged(
            broker: str = "embedded", kafka: str = "", *, separate_ci: bool = False, seed: int = 1,
            **settings: str,
        ) -> Bridged:  # fmt: skip
            apache_or_skip(broker)
            server = stack.enter_context(running_postgres())
            databases = [new_gitlab(server, name) for name in ("gitlabhq", "ci")[: 1 + separate_ci]]
            port = free_port()
            stack.enter_context(running(valkey(tmp_path, port)))
            eventually(lambda: is_listening(port), "Valkey listening")
            address, prefix = kafka or address_of(broker), f"gitlab-{next(numbers)}."
            deployment = stack.enter_context(Deployment(address, port, prefix, tmp_path))
            return stack.enter_context(closing(Bridged(deployment, databases, settings, seed)))

        yield new_bridged


def new_gitlab(server: Postgres, name: str) -> GitlabDatabase:
    """Make a database with GitLab's tables, set up for the bridge."""
    server.execute(f"CREATE DATABASE {name}")
    gitlab = GitlabDatabase(server, name)
    gitlab.create()
    gitlab.set_up()
    return gitlab


def drop_slots(server: Postgres, database: str) -> None:
    """Drop the slots of a database once their readers are gone."""
    named = "FROM pg_replication_slots WHERE database = %s"
    for _ in range(100):
        if not server.execute(f"SELECT 1 {named} AND active", database):
            break
    server.execute(f"SELECT pg_drop_replication_slot(slot_name) {named}", database)


@pytest.fixture
def gitlab_database(shared_postgres: Postgres, database: str) -> GitlabDatabase:
    """Return a new database with GitLab's tables, set up for the bridge."""
    gitlab = GitlabDatabase(shared_postgres, database)
    gitlab.create()
    gitlab.set_up()
    return gitlab


@pytest.fixture
def own_gitlab(own_postgres: Postgres) -> GitlabDatabase:
    """Return a database with GitLab's tables on a server of the test's own."""
    own_postgres.execute("CREATE DATABASE gitlab")
    gitlab = GitlabDatabase(own_postgres, "gitlab")
    gitlab.create()
    gitlab.set_up()
    return gitlab
