"""The databases of GitLab, and what the bridge needs of every way to follow them."""

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple, NoReturn, Protocol

import structlog

from projector.config.gitlab_settings import GitlabSettings
from projector.gitlab import metrics
from projector.gitlab.mapping.tables import CI_TABLES, TABLES, Table
from projector.gitlab.resume import Reason

log = structlog.get_logger()

MAIN: Final = "main"
CI: Final = "ci"
BUILDS: Final = "p_ci_builds"
# The name of the server in logs of outages.
SERVER: Final = "GitLab's database"


class Database(NamedTuple):
    """One of GitLab's databases, and the tables that are read there."""

    name: str
    dsn: str
    slot: str
    tables: tuple[Table, ...]


def databases(settings: GitlabSettings, dsns: Mapping[str, str]) -> tuple[Database, ...]:
    """Return the databases of these connection strings, `main` first."""
    if CI not in dsns:
        return (Database(MAIN, dsns[MAIN], settings.slot, tuple(TABLES.values())),)
    main = tuple(table for table in TABLES.values() if table.name not in CI_TABLES)
    ci = tuple(table for table in TABLES.values() if table.name in CI_TABLES)
    # Slots of two databases in one cluster need two names.
    return (
        Database(MAIN, dsns[MAIN], settings.slot, main),
        Database(CI, dsns[CI], f"{settings.slot}_ci", ci),
    )


def layout(databases: tuple[Database, ...], settings: GitlabSettings) -> str:
    """Return the settings that decide what is in a state; under others it is filled anew."""
    return " ".join([settings.source, settings.tokens, *(found.name for found in databases)])


def report_snapshot(reason: Reason, rows: int, events: int, seconds: float) -> None:
    """Count and log that all tables were read."""
    metrics.SNAPSHOTS.labels(reason.label).inc()
    metrics.BATCH.labels("snapshot").observe(seconds)
    log.info(
        "snapshot", rows=rows, events=events, seconds=round(seconds, 2), reason=reason.sentence
    )


class Source(Protocol):
    """A way to follow the databases; `ready` is set once the state has all tables."""

    ready: asyncio.Event

    async def run(self) -> NoReturn:
        """Follow the databases until cancelled, through all their outages."""

    async def look(self) -> int:
        """Wait until all that has happened by now is remembered; return the last event's number."""
