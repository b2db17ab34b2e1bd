"""The export of `projector gitlab`: everything that is due at one moment, as lines for an audit.

It needs no more than the right to SELECT. Without the bridge's state some facts cannot be known:
users who are active again, jobs that left their root namespace while they ran.
"""

import json
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

from projector.config.gitlab_settings import GitlabSettings
from projector.errors import StateError
from projector.events.timestamps import to_rfc3339
from projector.gitlab.mapping import comparison
from projector.gitlab.mapping.envelope import partition_key
from projector.gitlab.mapping.state import Mark, State
from projector.gitlab.mapping.state_file import VERSION
from projector.gitlab.mapping.tables import CI_TABLES, TABLES
from projector.gitlab.postgres import database
from projector.gitlab.postgres.dsn import Database, connection_strings
from projector.gitlab.postgres.organization_agents import read_organization_agents
from projector.gitlab.postgres.token_digests import TokenDigests
from projector.gitlab.setup.check import explained

Fact = tuple[str, str, str]  # type, root, and data of an event
NO_STATE: Final = Mark("main", 0, None)


@contextmanager
def exported(settings: GitlabSettings, state: Path | None) -> Iterator[Iterator[bytes]]:
    """Read GitLab's tables in one snapshot; within the block, take the lines.

    `state` is a bridge's state file, which may be in use. Raises `OperatorError`, and
    `UnreachableError` if PostgreSQL does not answer.
    """
    strings = connection_strings(settings)
    with tempfile.TemporaryDirectory(prefix="projector-export-") as folder:
        file = Path(folder) / "export.db"
        # The earlier moment: what changes meanwhile counts as newer.
        moment_ms = int(time.time() * 1000)
        _make_state(file, state)
        with closing(State(file, by_counter=True)) as loaded:
            _load(loaded, settings, strings)
        with closing(sqlite3.connect(file)) as db:
            yield export_lines(comparison.facts(db), moment_ms)


def export_lines(facts: Iterable[Fact], moment_ms: int) -> Iterator[bytes]:
    """Write each fact as a CloudEvent on a line, with `moment_ms` as its time."""
    when = to_rfc3339(moment_ms)
    for number, (kind, root, data) in enumerate(facts):
        event = {
            "specversion": "1.0",
            "id": f"export-{moment_ms}-{number}",
            "source": "/gitlab",
            "type": kind,
            "partitionkey": partition_key(root),
            "time": when,
        }
        # The data is JSON already, with numbers as PostgreSQL wrote them.
        yield f'{json.dumps(event)[:-1]}, "data": {data}}}\n'.encode()


def _make_state(file: Path, source: Path | None) -> None:
    """Make a state file that has been told what the source has, and nothing else."""
    State(file, by_counter=True).close()
    if source is None:
        return
    if not source.is_file():
        raise StateError(f"state file {source}: there is none; give the bridge's, or none")
    with closing(sqlite3.connect(file, uri=True, isolation_level=None)) as db:
        try:
            db.execute("ATTACH ? AS source", [f"{source.absolute().as_uri()}?mode=ro"])
            _refuse_other_version(db, source)
            db.execute("INSERT INTO main.told SELECT * FROM source.told")
        except sqlite3.DatabaseError as error:
            raise StateError(
                f"state file {source}: it cannot be read ({error}); give a bridge's state file, "
                "as a user who may read it and its folder"
            ) from error


def _refuse_other_version(db: sqlite3.Connection, source: Path) -> None:
    row = db.execute("SELECT value FROM source.meta WHERE name = 'schema'").fetchone()
    if row is None or row[0] != VERSION:
        raise StateError(
            f"state file {source}: it has another version than {VERSION}; export with the bridge's "
            "own version of the projector"
        )


def _load(loaded: State, settings: GitlabSettings, strings: dict[Database, str]) -> None:
    """Read all tables into the state, and work out what is due."""
    with ExitStack() as stack:
        digests = _digests(settings, stack)
        connections: dict[Database, database.Connection] = {}
        # The jobs first: their projects are older than they are.
        for name, string in reversed(strings.items()):
            with explained(string):
                connections[name] = stack.enter_context(database.reading(string, waits=True))
        with explained(strings["main"]), database.connect(strings["main"]) as connection:
            allowed = read_organization_agents(connection)
        loaded.start_snapshot({})
        for table in TABLES.values():
            place: Database = "ci" if "ci" in strings and table.name in CI_TABLES else "main"
            where = table.read_by_poll(loaded.live_builds() if "ci" in strings else None)
            with explained(strings[place]):
                rows = database.copy_table(connections[place], table, where, digests)
                loaded.load(table.name, rows)
    loaded.finish_snapshot()
    loaded.set_organization_agents(allowed, NO_STATE)


def _digests(settings: GitlabSettings, stack: ExitStack) -> database.Digests | None:
    if settings.db_key_file is None:
        return None
    digests: database.Digests = stack.enter_context(TokenDigests(settings.db_key_file)).digests
    return digests
