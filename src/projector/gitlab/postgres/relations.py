"""The rows of pgoutput as changes of the mirror's tables."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from projector.errors import GitlabTablesError, MalformedMessageError, SnapshotNeededError
from projector.gitlab.mapping.tables import (
    TABLES,
    UNCHANGED,
    Change,
    Kind,
    Row,
    Table,
    Unchanged,
    Value,
)
from projector.gitlab.postgres.pgoutput import Delete, Insert, RawRow, Relation, Truncate, Update

SCHEMA: Final = "public"
TOKEN: Final = "token_encrypted"  # noqa: S105
# OIDs of types in PostgreSQL's pg_type.dat. Types of one's own, such as enums, come after these.
_FIRST_OWN_TYPE: Final = 16384
_TYPES: Final = {
    Kind.INTEGER: {20: "bigint", 21: "smallint", 23: "integer"},
    Kind.BOOLEAN: {16: "boolean"},
    Kind.TEXT: {
        19: "name", 25: "text", 114: "json", 1042: "character", 1043: "character varying",
        1082: "date", 1114: "timestamp", 1184: "timestamp with time zone", 3802: "jsonb",
    },
}  # fmt: skip


def parse(kind: Kind, text: str) -> Value:
    """Return a value of PostgreSQL's text format as the mirror stores it."""
    if kind is Kind.INTEGER:
        return int(text)
    if kind is Kind.BOOLEAN:
        return int(text == "t")
    return text


class _Needed(NamedTuple):
    """A table's columns by their places in PostgreSQL's rows."""

    table: Table
    id_place: int
    places: tuple[tuple[int | None, Kind], ...]  # None: the mirror's column stays empty
    width: int

    def row(self, raw: RawRow, old: RawRow | None) -> Row:
        self.check(raw)
        return tuple(
            None if place is None else _value(kind, raw[place], old[place] if old else None)
            for place, kind in self.places
        )

    def id(self, raw: RawRow) -> int:
        self.check(raw)
        found = raw[self.id_place]
        if not isinstance(found, bytes):
            raise MalformedMessageError(f"a row of {self.table.name} came without its id")
        return int(found)

    def check(self, raw: RawRow) -> None:
        if len(raw) != self.width:
            raise MalformedMessageError(f"a row of {self.table.name} has not all columns")


def _value(kind: Kind, raw: bytes | Unchanged | None, old: bytes | Unchanged | None) -> Value:
    if raw is UNCHANGED:
        # With REPLICA IDENTITY FULL the former row has the large values that the new one lacks.
        raw = UNCHANGED if old is None else old
    # A database in SQL_ASCII may hold anything; SQLite and JSON take valid text alone.
    return parse(kind, raw.decode(errors="replace")) if isinstance(raw, bytes) else raw


class Relations:
    """The tables as PostgreSQL described them last, by OID."""

    def __init__(self, *, tokens: bool = False) -> None:
        """Note whether encrypted tokens are needed: without them their column may be missing."""
        self._tokens = tokens
        self._by_oid: dict[int, _Needed | None] = {}

    def describe(self, relation: Relation) -> None:
        """Remember a table's columns.

        Raises `GitlabTablesError` where the table lacks what the bridge reads.
        """
        table = TABLES.get(relation.name) if relation.schema == SCHEMA else None
        self._by_oid[relation.oid] = table and self._needed(relation, table)

    def _needed(self, relation: Relation, table: Table) -> _Needed:
        places = {column.name: place for place, column in enumerate(relation.columns)}
        found: list[tuple[int | None, Kind]] = []
        for column in table.columns.values():
            if column.source == TOKEN and not self._tokens:
                found.append((None, column.kind))
                continue
            if column.source not in places:
                raise GitlabTablesError(_MISSING.format(column=column.source, table=table.name))
            place = places[column.source]
            _check_type(table, column.source, column.kind, relation.columns[place].type_oid)
            found.append((place, column.kind))
        if not relation.columns[places["id"]].in_key:
            raise GitlabTablesError(_WITHOUT_ID.format(table=table.name))
        return _Needed(table, places["id"], tuple(found), len(relation.columns))

    def changes(self, message: Insert | Update | Delete | Truncate) -> Iterator[Change]:
        """Yield the changes of one message: none, one, or two where the id was changed.

        Raises `SnapshotNeededError` where a table of the mirror was truncated.
        """
        if isinstance(message, Truncate):
            self._refuse_truncated(message)
        elif needed := self._relation(message.oid):
            try:
                yield from _changes(needed, message)
            except ValueError:
                raise MalformedMessageError("an integer of PostgreSQL is none") from None

    def _refuse_truncated(self, message: Truncate) -> None:
        for needed in map(self._relation, message.oids):
            if needed:
                raise SnapshotNeededError(f"the table {needed.table.name} was truncated")

    def _relation(self, oid: int) -> _Needed | None:
        try:
            return self._by_oid[oid]
        except KeyError:
            raise MalformedMessageError("a row of a table that was not described") from None


def _changes(needed: _Needed, message: Insert | Update | Delete) -> Iterator[Change]:
    name = needed.table.name
    if isinstance(message, Delete):
        yield Change(name, needed.id(message.old), None)
        return
    old = message.old if isinstance(message, Update) else None
    new_id = needed.id(message.new)
    if old is not None and (old_id := needed.id(old)) != new_id:
        yield Change(name, old_id, None)
    yield Change(name, new_id, needed.row(message.new, old), isinstance(message, Insert))


def _check_type(table: Table, column: str, kind: Kind, oid: int) -> None:
    if oid in _TYPES[kind] or (kind is Kind.TEXT and oid >= _FIRST_OWN_TYPE):
        return
    known = {oid: name for types in _TYPES.values() for oid, name in types.items()}
    raise GitlabTablesError(
        _WRONG_TYPE.format(
            column=column,
            table=table.name,
            found=known.get(oid, f"the one with OID {oid}"),
            wanted=" or ".join(_TYPES[kind].values()),
        )
    )


_ADVICE: Final = (
    "GitLab was perhaps upgraded: install a version of the projector for it, whose release notes "
    "name this version of GitLab; until then lookups get 503"
)
_MISSING: Final = f"GitLab's table {{table}} has no column {{column}} any more. {_ADVICE}"
_WRONG_TYPE: Final = (
    f"the type of GitLab's column {{table}}.{{column}} is {{found}}, not {{wanted}}. {_ADVICE}"
)
_WITHOUT_ID: Final = (
    "PostgreSQL does not send the id of rows that are deleted from {table}, because its replica "
    "identity does not have it; let its owner run: ALTER TABLE {table} REPLICA IDENTITY DEFAULT;"
)
