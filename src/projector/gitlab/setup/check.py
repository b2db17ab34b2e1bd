"""The check of `projector gitlab`: everything that must be mended before the bridge can run.

It connects as the bridge does, reads PostgreSQL's catalogs, and changes nothing.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import Connection, OperationalError

from projector.config.env import GITLAB, variable_name
from projector.config.gitlab_settings import GitlabSettings
from projector.errors import ProjectorError, TokenKeyError, UnpreparedError
from projector.gitlab.mapping.tables import CI_TABLES, TABLES
from projector.gitlab.postgres.dsn import connection_strings, is_exposed, place
from projector.gitlab.postgres.token_digests import TokenDigests
from projector.gitlab.setup import (
    connection_refusals,
    publication_requirements,
    server_requirements,
    setup_reading,
    table_requirements,
)
from projector.gitlab.setup.connection_refusals import Refused
from projector.gitlab.setup.findings import ACCESS_FILE, ENVIRONMENT, Finding, Remedy
from projector.gitlab.setup.local_requirements import check_files, wrong_key
from projector.gitlab.setup.setup_reading import Setup, Wanted, rows

STATEMENT_TIMEOUT_MS: Final = 15_000
# A transaction that ends within this time holds up no snapshot worth a word.
BLOCKED_S: Final = 1.0
SAMPLE: Final = """
SELECT token_encrypted FROM public.p_ci_builds
WHERE status IN ('running', 'canceling') AND token_encrypted IS NOT NULL LIMIT 1
"""


class UnreachableError(ProjectorError):
    """PostgreSQL does not answer; the bridge would wait for it."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.sentence)
        self.finding = finding


class Checked(NamedTuple):
    """The findings of one database, named as in settings and logs."""

    place: str
    findings: list[Finding]


def check(settings: GitlabSettings) -> Iterator[Checked]:
    """Check files and databases, one after the other.

    Raises `UnreachableError`, and `SettingsError` for a wrong connection string.
    """
    strings = connection_strings(settings)
    yield Checked("files", list(check_files(settings)))
    for database, string in strings.items():
        wanted = wanted_of(settings, database)
        findings = list(_check_database(string, wanted))
        if database == "ci" or "ci" not in strings:
            findings += _check_key(string, settings, findings)
        yield Checked(place(string), findings)


def wanted_of(settings: GitlabSettings, database: str) -> Wanted:
    """Return the needs of the bridge in the database `main` or `ci`."""
    is_alone = settings.ci_database is None
    tables = {
        name: table
        for name, table in TABLES.items()
        if is_alone or (name in CI_TABLES) == (database == "ci")
    }
    return Wanted(
        tables=tables,
        streams=settings.source == "stream",
        slot=settings.slot if database == "main" else f"{settings.slot}_ci",
        publication=settings.publication,
        decrypts=settings.tokens == "decrypt",
    )


def require_followed(connection: Connection[Any], wanted: Wanted) -> None:
    """Raise `UnpreparedError` unless the bridge gets every change of every table that there is.

    A GitLab upgrade may have brought a table that is neither granted nor published yet.
    """
    setup = setup_reading.read_setup(connection, setup_reading.read_server(connection), wanted)
    needs = [*table_requirements.REQUIREMENTS]
    if wanted.streams:
        needs += publication_requirements.REQUIREMENTS
    found = [each for need in needs for each in need(setup) if not each.is_hint]
    if found:
        sentences = " ".join(each.sentence for each in found)
        raise UnpreparedError(f"{sentences} `projector gitlab check` prints what mends it")


def _check_database(string: str, wanted: Wanted) -> Iterator[Finding]:
    connection = _connect(string)
    if isinstance(connection, Refused):
        yield connection.finding
        return
    with closing(connection):
        with explained(string):
            server = setup_reading.read_server(connection)
        first = [
            *server_requirements.pooled(server, connection.info.backend_pid),
            *(found for need in server_requirements.FIRST for found in need(server)),
        ]
        yield from first
        if first:
            return
        with explained(string):
            setup = _read_setup(connection, server, wanted)
    yield from _exposed(string)
    yield from (found for need in server_requirements.SERVER for found in need(server))
    yield from _check_setup(setup)
    if wanted.streams and server.replication:
        yield from _check_replication(string, setup)


def _read_setup(
    connection: Connection[Any], server: setup_reading.ServerSetup, wanted: Wanted
) -> Setup:
    """Read the setup; of open transactions those that stay open for a while."""
    setup = setup_reading.read_setup(connection, server, wanted)
    if not setup.blockers:
        return setup
    time.sleep(BLOCKED_S)
    later = {row.mend for row in rows(connection, setup_reading.BLOCKERS)}
    return setup._replace(blockers=tuple(each for each in setup.blockers if each in later))


def _check_setup(setup: Setup) -> Iterator[Finding]:
    needs = [*server_requirements.SETTINGS, *table_requirements.REQUIREMENTS]
    if setup.wanted.streams:
        needs += publication_requirements.REQUIREMENTS
    for need in needs:
        yield from need(setup)


def _exposed(string: str) -> Iterator[Finding]:
    if is_exposed(string):
        variable = variable_name(GITLAB + "database")
        text = f"{variable}=… sslmode=verify-full sslrootcert=<file with the CA's certificate>"
        yield Finding(
            "The connection does not check the server's certificate, so anyone between can read "
            "and change the rows.",
            (Remedy(ENVIRONMENT, text),),
            is_hint=True,
        )


def _check_replication(string: str, setup: Setup) -> Iterator[Finding]:
    """Connect as the bridge does for its slot, and as it must not be able to."""
    if setup.senders >= int(setup.settings["max_wal_senders"]):
        return  # said already
    logical = _connect(string, replication="database")
    if isinstance(logical, Refused):
        yield logical.finding
        return
    logical.close()
    physical = _try(string, replication="true")
    if not isinstance(physical, OperationalError):
        physical.close()
        yield Finding(
            f"pg_hba.conf lets {setup.server.user} take a base backup, with the keys and tokens of "
            "all of GitLab.",
            (Remedy(ACCESS_FILE, f"host replication {setup.server.user} all reject  -- as the "
                    "first line, then SELECT pg_reload_conf();"),),
            is_hint=True,
        )  # fmt: skip


def _check_key(string: str, settings: GitlabSettings, before: list[Finding]) -> Iterator[Finding]:
    """Open a live token with the key, unless something else is wrong."""
    file = settings.db_key_file
    if file is None or any(not found.is_hint for found in [*before, *check_files(settings)]):
        return
    connection = _connect(string)
    if isinstance(connection, Refused):
        yield connection.finding
        return
    with closing(connection), explained(string):
        tokens = [row.token_encrypted for row in rows(connection, SAMPLE)]
    try:
        with TokenDigests(file) as digests:
            if None in digests.digests(tokens):
                yield wrong_key(file)
    except TokenKeyError as error:
        yield Finding(f"{error}.", wrong_key(file).remedies)


def _connect(string: str, **options: str) -> Connection[Any] | Refused:
    """Connect, or explain the refusal; raise `UnreachableError` for an outage."""
    connection = _try(string, **options)
    if isinstance(connection, Connection):
        return connection
    refused = _refused(connection, string)
    if refused.is_outage:
        raise UnreachableError(refused.finding) from connection
    return refused


def _refused(error: OperationalError, string: str) -> Refused:
    return connection_refusals.explain(str(error), connection_refusals.target_of(string))


@contextmanager
def explained(string: str) -> Iterator[None]:
    """Raise errors of the connection as `UnpreparedError` or `UnreachableError`."""
    try:
        yield
    except OperationalError as error:
        refused = _refused(error, string)
        if refused.is_outage:
            raise UnreachableError(refused.finding) from error
        raise UnpreparedError(
            f"{refused.finding.sentence} `projector gitlab check` prints what mends it"
        ) from error


def _try(string: str, **options: str) -> Connection[Any] | OperationalError:
    limits = f"-c statement_timeout={STATEMENT_TIMEOUT_MS}"
    try:
        return psycopg.connect(string, autocommit=True, options=limits, **options)  # type: ignore[arg-type]
    except OperationalError as error:
        return error
