"""The messages of PostgreSQL's `pgoutput`, protocol 1, decoded.

Source: "Logical Replication Message Formats" of PostgreSQL's documentation.
"""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from projector.errors import MalformedMessageError
from projector.gitlab.mapping.tables import UNCHANGED, Unchanged

# Values as PostgreSQL wrote them, in the order of the relation's columns.
RawRow = Sequence[bytes | Unchanged | None]

_EPOCH_MS: Final = round(datetime(2000, 1, 1, tzinfo=UTC).timestamp() * 1000)
_KEY_FLAG: Final = 1
_BEGIN: Final = struct.Struct("!QqI")
_COMMIT: Final = struct.Struct("!BQQq")
_TRUNCATE: Final = struct.Struct("!IB")
_COLUMN: Final = struct.Struct("!Ii")
_OID: Final = struct.Struct("!I")
_COUNT: Final = struct.Struct("!H")
_NULL, _UNCHANGED, _TEXT = b"nut"
_NEW, _KEY, _OLD = b"NKO"


def lsn_text(lsn: int) -> str:
    """Return a position in the WAL as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    """Return a position in the WAL from PostgreSQL's way to write it."""
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


class Begin(NamedTuple):
    """The start of a transaction that has been committed."""

    commit_lsn: int  # where its commit record starts
    time_ms: int
    xid: int


class Commit(NamedTuple):
    """The end of a transaction."""

    end_lsn: int  # where its commit record ends
    time_ms: int


class RelationColumn(NamedTuple):
    """A column of a relation; `in_key`: it is part of the replica identity."""

    name: str
    type_oid: int
    in_key: bool


class Relation(NamedTuple):
    """A table as the rows that follow have it; a later one of the same OID replaces it."""

    oid: int
    schema: str
    name: str
    columns: tuple[RelationColumn, ...]


class Insert(NamedTuple):
    """A new row."""

    oid: int
    new: RawRow


class Update(NamedTuple):
    """A changed row; `old`: what PostgreSQL sent of the former one, its key or all of it."""

    oid: int
    old: RawRow | None
    new: RawRow


class Delete(NamedTuple):
    """A row that is gone; columns outside the key are NULL, unless the identity is FULL."""

    oid: int
    old: RawRow


class Truncate(NamedTuple):
    """Tables that were emptied."""

    oids: tuple[int, ...]


class Unneeded(NamedTuple):
    """An origin, a type, or a message of an extension."""


Message = Begin | Commit | Relation | Insert | Update | Delete | Truncate | Unneeded


def decode(message: bytes) -> Message:
    """Return one message of the stream, or raise `MalformedMessageError`."""
    try:
        return _decode(message)
    except (struct.error, IndexError, ValueError) as error:
        raise MalformedMessageError(
            f"PostgreSQL sent {len(message)} bytes that are no message of pgoutput, protocol 1"
        ) from error


def _decode(message: bytes) -> Message:
    match message[:1]:
        case b"I":
            return Insert(_oid(message), _only(message, *_row(message, 5, b"N")))
        case b"U":
            return _update(message)
        case b"D":
            return Delete(_oid(message), _only(message, *_row(message, 5, b"KO")))
        case b"B":
            commit_lsn, stamp, xid = _all(_BEGIN, message)
            return Begin(commit_lsn, _milliseconds(stamp), xid)
        case b"C":
            _, _, end_lsn, stamp = _all(_COMMIT, message)
            return Commit(end_lsn, _milliseconds(stamp))
        case b"R":
            return _relation(message)
        case b"T":
            count, _ = _TRUNCATE.unpack_from(message, 1)
            return Truncate(_all(struct.Struct(f"!{count}I"), message[5:]))
        case b"O" | b"Y" | b"M":
            return Unneeded()
    raise ValueError("unknown kind of message")


def _all(layout: struct.Struct, message: bytes) -> tuple[int, ...]:
    """Return the fields of a message that has nothing but these after its first byte."""
    return layout.unpack(message[1:])


def _milliseconds(microseconds_since_2000: int) -> int:
    return microseconds_since_2000 // 1000 + _EPOCH_MS


def _oid(message: bytes) -> int:
    oid: int = _OID.unpack_from(message, 1)[0]
    return oid


def _update(message: bytes) -> Update:
    old, at = None, 5
    if message[at] in (_KEY, _OLD):
        old, at = _row(message, at, b"KO")
    return Update(_oid(message), old, _only(message, *_row(message, at, b"N")))


def _only(message: bytes, row: RawRow, end: int) -> RawRow:
    # Of a value that goes on beyond the end, a slice is short and raises nothing.
    if end != len(message):
        raise ValueError("the row does not end where the message ends")
    return row


def _row(message: bytes, at: int, kinds: bytes) -> tuple[RawRow, int]:
    """Return the row that starts at a position, and the position after it."""
    if message[at] not in kinds:
        raise ValueError("not the expected kind of row")
    (count,) = _COUNT.unpack_from(message, at + 1)
    at += 3
    row: list[bytes | Unchanged | None] = []
    for _ in range(count):
        kind = message[at]
        at += 1
        if kind == _TEXT:
            start = at + 4
            at = start + int.from_bytes(message[at:start], "big")
            row.append(message[start:at])
        elif kind == _NULL:
            row.append(None)
        elif kind == _UNCHANGED:
            row.append(UNCHANGED)
        else:
            raise ValueError("unknown kind of value")
    return row, at


def _relation(message: bytes) -> Relation:
    schema, at = _string(message, 5)
    name, at = _string(message, at)
    (count,) = _COUNT.unpack_from(message, at + 1)  # after the kind of replica identity
    at += 3
    columns = []
    for _ in range(count):
        in_key = bool(message[at] & _KEY_FLAG)
        column, at = _string(message, at + 1)
        columns.append(RelationColumn(column, _COLUMN.unpack_from(message, at)[0], in_key))
        at += _COLUMN.size
    if at != len(message):
        raise ValueError("bytes after the end")
    # An empty schema is pg_catalog.
    return Relation(_oid(message), schema, name, tuple(columns))


def _string(message: bytes, at: int) -> tuple[str, int]:
    end = message.index(b"\0", at)
    return message[at:end].decode(errors="replace"), end + 1
