"""A GitLab-shaped database on a real PostgreSQL, and bridges that read it."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Final

from tests.integration.deployment import Deployment
from tests.integration.gitlab import postgres
from tests.integration.gitlab.gitlab_database import GitlabDatabase
from tests.integration.servers import Server, eventually

from benchmarks import gitlab_rows

SOURCE: Final = "gitlab"
PATIENCE_S: Final = 120.0
databases: Final = count(1)


class GitLab:
    """One database, filled and set up for the bridge."""

    def __init__(self, server: postgres.Postgres, rows: int) -> None:
        name = f"gitlab_{next(databases)}"
        server.execute(f"CREATE DATABASE {name}")
        self._database = GitlabDatabase(server, name)
        self._database.create()
        self._database.set_up()
        self._server = server
        self.size = gitlab_rows.size_of(rows)
        self.name = name
        self.connection = server.connect(name)
        gitlab_rows.fill(self.connection, self.size)

    @property
    def dsn(self) -> str:
        """The connection string of the bridge's role."""
        return self._database.bridge_dsn

    @property
    def owners_dsn(self) -> str:
        """The connection string of the superuser."""
        return self._server.dsn(self.name)

    def execute(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement in a transaction of its own; return its rows."""
        cursor = self.connection.execute(sql.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def position(self) -> str:
        """Return the position behind everything that is committed."""
        return str(self.execute("SELECT pg_current_wal_flush_lsn()")[0][0])

    def slot(self, name: str) -> None:
        """Make a slot for a reader that is not the product."""
        self.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", name)

    def drop_slot(self, name: str) -> None:
        """Drop a slot whose bridge has ended."""
        eventually(lambda: not self._slots(name, "AND active"), f"nobody reads the slot {name}")
        self.execute("SELECT pg_drop_replication_slot(%s)", name)

    def until_slot(self, name: str, bridge: Server) -> None:
        """Wait until the bridge has made its slot."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._slots(name, "AND confirmed_flush_lsn IS NOT NULL"):
            if bridge.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the bridge makes no slot {name}: {bridge.log()}")
            time.sleep(0.01)

    def _slots(self, name: str, where: str) -> bool:
        found = self.execute(
            f"SELECT 1 FROM pg_replication_slots WHERE slot_name = %s {where}", name
        )
        return bool(found)

    def close(self) -> None:
        """Close the connection, so that the server can stop."""
        self.connection.close()


@contextmanager
def running(rows: int) -> Iterator[GitLab]:
    """Start a PostgreSQL with so many rows."""
    # Fresh: the template that other servers are copied from would stay behind.
    with postgres.running_postgres(
        fresh=True, shared_buffers="256MB", max_wal_size="4GB"
    ) as server:
        gitlab = GitLab(server, rows)
        try:
            yield gitlab
        finally:
            gitlab.close()


def start_bridge(deployment: Deployment, gitlab: GitLab, slot: str, **env: str) -> Server:
    """Start `projector gitlab run` with a state and a slot of its own, as the source of all."""
    deployment.env["PROJECTOR_SOURCES"] = SOURCE
    own = {
        "PROJECTOR_GITLAB_DATABASE": gitlab.dsn,
        "PROJECTOR_GITLAB_STATE": str(deployment.folder / f"{slot}.db"),
        "PROJECTOR_GITLAB_SLOT": slot,
    }
    return deployment.start("gitlab", "run", **own, **env)


@contextmanager
def paused(bridge: Server) -> Iterator[None]:
    """Stop the bridge at its next step within the block: PostgreSQL keeps what it would read."""
    os.kill(bridge.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(bridge.process.pid, signal.SIGCONT)
