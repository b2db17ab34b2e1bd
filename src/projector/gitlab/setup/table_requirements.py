"""Requirements of the tables: they exist, the role may read them, and GitLab may write them."""

from collections.abc import Callable, Iterator
from typing import Final

from psycopg import sql

from projector.config.env import GITLAB, variable_name
from projector.gitlab.mapping.tables import Kind
from projector.gitlab.setup.findings import (
    ENVIRONMENT,
    Finding,
    Remedy,
    finding,
    name,
    plain,
    statement,
)
from projector.gitlab.setup.setup_reading import SCHEMA, ColumnSetup, Part, Setup, TableSetup

Findings = Iterator[Finding]
OTHER_VERSION: Final = (
    "which this version of the bridge needs; docs/gitlab-setup.md lists the versions of GitLab"
)
# GitLab moved the environments of jobs from one to the other; one of them must be there.
ENVIRONMENTS: Final = frozenset({"job_environments", "p_ci_builds_metadata"})
INTEGERS: Final = frozenset({"int2", "int4", "int8"})
BOOLEANS: Final = frozenset({"bool"})
TEXTS: Final = frozenset(
    {"varchar", "text", "bpchar", "citext", "json", "jsonb", "date", "timestamp", "timestamptz"}
)
TYPES: Final = {Kind.INTEGER: INTEGERS, Kind.BOOLEAN: BOOLEANS, Kind.TEXT: TEXTS}


def _gitlab(setup: Setup) -> Findings:
    if not setup.tables:
        yield Finding(
            f"The database {setup.server.database} has none of GitLab's tables; GitLab's own is "
            "usually gitlabhq_production.",
            (Remedy(ENVIRONMENT, f"{variable_name(GITLAB + 'database')}=… dbname=<GitLab's>"),),
        )


def _missing_tables(setup: Setup) -> Findings:
    missing = [
        name
        for name, table in setup.wanted.tables.items()
        if name not in setup.tables and not table.optional
    ]
    if setup.wanted.tables.keys() >= ENVIRONMENTS and not ENVIRONMENTS & setup.tables.keys():
        missing.append(" or ".join(sorted(ENVIRONMENTS)))
    if missing and setup.tables:
        yield Finding(
            f"The database {setup.server.database} has no {_listed(missing)}, {OTHER_VERSION}."
        )


def _no_tables(setup: Setup) -> Findings:
    """Find views and the like in the place of tables: they have no changes."""
    for table, found in setup.tables.items():
        if found.kind not in "rp" or not found.is_logged:
            yield Finding(
                f"{table} is no ordinary table, so PostgreSQL does not send its changes, "
                f"{OTHER_VERSION}."
            )


def _locked(setup: Setup) -> Findings:
    """Find tables that GitLab keeps in another database: here they are empty or old."""
    locked = [table for table, found in setup.tables.items() if found.is_locked]
    if locked:
        variable = variable_name(GITLAB + "ci_database")
        yield Finding(
            f"GitLab has locked {_listed(locked)} in the database {setup.server.database}, since "
            "it keeps them in another one.",
            (Remedy(ENVIRONMENT, f"{variable}=host=… dbname=<that with GitLab's ci tables> …"),),
        )


def _columns(setup: Setup) -> Findings:
    for table, found in setup.tables.items():
        needed = setup.wanted.columns(setup.wanted.tables[table])
        missing = [column for column in needed if column not in found.columns]
        if missing:
            yield Finding(f"{table} has no column {_listed(missing)}, {OTHER_VERSION}.")
        wrong = [
            f"{column} ({found.columns[column].type})"
            for column, kind in needed.items()
            if column in found.columns and not _fits(found.columns[column], kind)
        ]
        if wrong:
            yield Finding(
                f"{table} has {_listed(wrong)} of a type other than that {OTHER_VERSION}."
            )


def _fits(column: ColumnSetup, kind: Kind) -> bool:
    return column.type in TYPES[kind]


def _rights(setup: Setup) -> Findings:
    for table, found in setup.tables.items():
        needed = list(setup.wanted.columns(setup.wanted.tables[table]))
        hidden = [c for c in needed if c in found.columns and not found.columns[c].readable]
        if hidden:
            yield finding(
                f"The role {setup.server.user} may not read {_listed(hidden)} of {table}.",
                grant(table, [c for c in needed if c in found.columns], setup.server.user),
            )


def grant(table: str, columns: list[str], role: str) -> str:
    """Write the statement that lets the role read these columns."""
    return statement(
        "GRANT SELECT ({columns}) ON {table} TO {role};",
        columns=plain(*columns), table=plain(f"{SCHEMA}.{table}"), role=name(role),
    )  # fmt: skip


def _identities(setup: Setup) -> Findings:
    """Find tables that GitLab could not UPDATE or DELETE in, once they are published."""
    if not setup.wanted.streams:
        return
    for table, found in setup.tables.items():
        lacking = [part for part in found.parts if "id" not in part.identity]
        if lacking:
            where = table if _is_itself(table, found) else f"{table} ({_listed_parts(lacking)})"
            yield finding(
                f"{where} has no primary key or replica identity with id, so once it is published "
                "GitLab's own UPDATE and DELETE there would fail.",
                *map(identify, lacking),
            )


def _is_itself(table: str, found: TableSetup) -> bool:
    return [part.name for part in found.parts] == [table]


def identify(part: Part) -> str:
    """Write the statement that gives the table a replica identity: its key if it has one."""
    identity = sql.SQL("DEFAULT" if part.has_key else "FULL")
    return statement(
        "ALTER TABLE {table} REPLICA IDENTITY {identity};",
        table=name(part.schema, part.name), identity=identity,
    )  # fmt: skip


def _listed_parts(parts: list[Part]) -> str:
    return _listed([part.name for part in parts])


def _listed(several: list[str]) -> str:
    return ", ".join(several)


REQUIREMENTS: Final[tuple[Callable[[Setup], Findings], ...]] = (
    _gitlab,
    _missing_tables,
    _no_tables,
    _locked,
    _columns,
    _rights,
    _identities,
)
