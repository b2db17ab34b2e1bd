"""Findings of `projector gitlab check`: a sentence, and the lines that mend what it says."""

from typing import Any, NamedTuple

from psycopg import sql

SQL = "SQL"
ACCESS_FILE = "pg_hba.conf"
ENVIRONMENT = "environment"
SHELL = "shell"


class Remedy(NamedTuple):
    """Text that an administrator enters at a place: SQL, a line of a file, a variable."""

    place: str
    text: str


class Finding(NamedTuple):
    """Something that must be mended before the bridge can run, or a hint."""

    sentence: str
    remedies: tuple[Remedy, ...] = ()
    is_hint: bool = False


def finding(sentence: str, *statements: str) -> Finding:
    """Make a finding that SQL mends."""
    return Finding(sentence, tuple(Remedy(SQL, statement) for statement in statements))


def hint(sentence: str, *statements: str) -> Finding:
    """Make a hint: the bridge runs all the same."""
    return finding(sentence, *statements)._replace(is_hint=True)


def statement(template: str, **parts: Any) -> str:
    """Fill names and literals into SQL: names are quoted as PostgreSQL needs them."""
    return sql.SQL(template).format(**parts).as_string()


def name(*parts: str) -> sql.Identifier:
    """Quote a name, perhaps with its schema."""
    return sql.Identifier(*parts)


def plain(*several: str) -> sql.SQL:
    """List names of tables.py, which need no quotes."""
    return sql.SQL(", ".join(several))
