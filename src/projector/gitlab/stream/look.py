"""Looks at GitLab's databases: where they write now, and what their settings are."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

import psycopg

from projector.config.gitlab_settings import GitlabSettings
from projector.gitlab.postgres import database
from projector.gitlab.postgres.organization_agents import read_organization_agents
from projector.gitlab.postgres.published import read_published
from projector.gitlab.setup import check

# The first eight digits of a WAL file's name are the timeline.
_IDENTITY: Final = (
    "SELECT system_identifier, ('x' || left(pg_catalog.pg_walfile_name("
    "pg_catalog.pg_current_wal_insert_lsn()), 8))::bit(32)::bigint"
    " FROM pg_catalog.pg_control_system()"
)


class Sight(NamedTuple):
    """The position that a database showed: all that had happened in it by then lies below `lsn`."""

    lsn: int
    system: int
    timeline: int


class Looker:
    """Connections to the databases, which are kept open; for one thread."""

    def __init__(self, settings: GitlabSettings, dsns: Mapping[str, str]) -> None:
        self._settings = settings
        self._dsns = dsns
        self._stack = ExitStack()
        self._open: dict[str, tuple[psycopg.Connection[Any], tuple[int, int]]] = {}

    def look(self) -> dict[str, Sight]:
        """Ask each database where it writes next; raises `psycopg.Error`, `StandbyError`."""
        return {name: self.look_at(name) for name in self._dsns}

    def require_followed(self) -> None:
        """Raise `UnpreparedError` unless each database shows every change of every table."""
        for name in self._dsns:
            check.require_followed(self._connected(name)[0], check.wanted_of(self._settings, name))

    def published(self) -> str:
        """Return what the databases publish now, as `read_published` does."""
        return "; ".join(map(self._published, self._dsns))

    def _published(self, name: str) -> str:
        wanted = check.wanted_of(self._settings, name)
        connection = self._connected(name)[0]
        return read_published(connection, wanted.publication, wanted.tables.values())

    def organization_agents(self) -> bool | None:
        """Read if agents may be used outside their top-level group."""
        return read_organization_agents(self._connected("main")[0])

    def push_wal(self, name: str) -> None:
        """Make a database write its WAL to disk, as only then it streams."""
        database.push_wal(self._connected(name)[0])

    def close(self) -> None:
        """Close the connections; the next look opens others."""
        self._open.clear()
        self._stack.close()

    def look_at(self, name: str) -> Sight:
        """Ask one database; raises as `look` does."""
        connection, identity = self._connected(name)
        return Sight(database.insert_lsn(connection), *identity)

    def _connected(self, name: str) -> tuple[psycopg.Connection[Any], tuple[int, int]]:
        if name not in self._open:
            connection = self._stack.enter_context(database.connect(self._dsns[name]))
            # A primary keeps its timeline until its connections end.
            [(system, timeline)] = connection.execute(_IDENTITY).fetchall()
            self._open[name] = connection, (system, timeline)
        return self._open[name]
