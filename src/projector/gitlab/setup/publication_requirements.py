"""Requirements of the publication: all rows of the tables, and never a write of GitLab refused."""

from collections.abc import Callable, Iterator
from typing import Final

from psycopg import sql

from projector.gitlab.setup.findings import Finding, finding, hint, name, plain, statement
from projector.gitlab.setup.setup_reading import SCHEMA, Publication, PublishedTable, Setup
from projector.gitlab.setup.table_requirements import identify

Findings = Iterator[Finding]
ACTIONS: Final = ("insert", "update", "delete", "truncate")
OPTIONS: Final = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"


def create(publication: str, tables: list[str]) -> str:
    """Write the statement that makes the publication of whole tables."""
    return statement(
        "CREATE PUBLICATION {publication} FOR TABLE {tables} WITH (" + OPTIONS + ");",
        publication=name(publication), tables=_tables(tables),
    )  # fmt: skip


def _tables(tables: list[str]) -> sql.SQL:
    return plain(*(f"{SCHEMA}.{table}" for table in tables))


def _alter(publication: str, change: str, tables: list[str]) -> str:
    return statement(
        f"ALTER PUBLICATION {{publication}} {change} TABLE {{tables}};",
        publication=name(publication), tables=_tables(tables),
    )  # fmt: skip


def _is_missing(setup: Setup) -> Findings:
    if setup.publication is None and setup.tables:
        yield finding(
            f"The publication {setup.wanted.publication} is missing.",
            create(setup.wanted.publication, list(setup.tables)),
        )


def _too_much(setup: Setup) -> Findings:
    """Find a publication of everything: secrets would travel, and tables without a key stick."""
    found = setup.publication
    if found is None or not (found.all_tables or found.schemas):
        return
    parts = {"publication": name(setup.wanted.publication)}
    what = "all tables" if found.all_tables else f"all tables of {', '.join(found.schemas)}"
    statements = [
        statement("DROP PUBLICATION {publication};", **parts),
        create(setup.wanted.publication, list(setup.tables)),
    ]
    yield finding(
        f"The publication {setup.wanted.publication} has {what}, so GitLab's UPDATE and DELETE "
        "fail in those without a primary key, and secrets of other tables travel.",
        "BEGIN;", *statements, "COMMIT;",
    )  # fmt: skip


def _identities(setup: Setup) -> Findings:
    """Find other published tables without a replica identity: GitLab's writes fail there now."""
    found = setup.publication
    if found is None or found.all_tables or found.schemas:
        return
    known = {(part.schema, part.name) for table in setup.tables.values() for part in table.parts}
    for part in found.without_identity:
        if (part.schema, part.name) not in known:
            yield finding(
                f"GitLab's own UPDATE and DELETE fail in {part.name}, which the publication "
                f"{setup.wanted.publication} has and which lacks a primary key.",
                identify(part),
            )


def _lacking(setup: Setup) -> Findings:
    found = _whole(setup)
    if found is None:
        return
    published = {table.name for table in found.tables if table.schema == SCHEMA}
    lacking = [table for table in setup.tables if table not in published]
    if lacking:
        yield finding(
            f"The publication {setup.wanted.publication} lacks {', '.join(lacking)}.",
            _alter(setup.wanted.publication, "ADD", lacking),
        )


def _partial(setup: Setup) -> Findings:
    """Find column lists and row filters: they make GitLab's UPDATE and its migrations fail."""
    found = _whole(setup)
    partial = [table for table in found.tables if _is_partial(table)] if found else []
    for table in partial:
        what = "a column list" if table.has_columns else "a row filter"
        parts = {
            "publication": name(setup.wanted.publication),
            "table": name(table.schema, table.name),
        }
        yield finding(
            f"The publication {setup.wanted.publication} has {what} on {table.name}, which makes "
            "writes and migrations of GitLab fail.",
            "BEGIN;",
            statement("ALTER PUBLICATION {publication} DROP TABLE {table};", **parts),
            statement("ALTER PUBLICATION {publication} ADD TABLE {table};", **parts),
            "COMMIT;",
        )


def _is_partial(table: PublishedTable) -> bool:
    return table.has_columns or table.has_filter


def _superfluous(setup: Setup) -> Findings:
    found = _whole(setup)
    for table in found.tables if found else ():
        if table.schema != SCHEMA or table.name not in setup.wanted.tables:
            yield hint(
                f"The publication {setup.wanted.publication} also has {table.name}, which the "
                "bridge does not read.",
                statement(
                    "ALTER PUBLICATION {publication} DROP TABLE {table};",
                    publication=name(setup.wanted.publication),
                    table=name(table.schema, table.name),
                ),
            )  # fmt: skip


def _actions(setup: Setup) -> Findings:
    found = _whole(setup)
    lacking = [action for action in ACTIONS if found and action not in found.actions]
    if lacking:
        yield finding(
            f"The publication {setup.wanted.publication} leaves out {', '.join(lacking)}, so "
            "removals or changes would be lost.",
            _set(setup.wanted.publication, "publish = 'insert, update, delete, truncate'"),
        )


def _via_root(setup: Setup) -> Findings:
    found = _whole(setup)
    if found is not None and not found.via_root:
        yield finding(
            f"The publication {setup.wanted.publication} names partitions and not their tables, so "
            "a new partition would be unknown.",
            _set(setup.wanted.publication, "publish_via_partition_root = true"),
        )


def _set(publication: str, option: str) -> str:
    return statement(
        f"ALTER PUBLICATION {{publication}} SET ({option});", publication=name(publication)
    )


def _whole(setup: Setup) -> Publication | None:
    """Return the publication unless it is made anew as a whole."""
    found = setup.publication
    return None if found is None or found.all_tables or found.schemas else found


REQUIREMENTS: Final[tuple[Callable[[Setup], Findings], ...]] = (
    _is_missing,
    _too_much,
    _identities,
    _lacking,
    _partial,
    _superfluous,
    _actions,
    _via_root,
)
