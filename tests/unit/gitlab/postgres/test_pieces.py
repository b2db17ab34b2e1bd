"""Test how committed transactions are cut into pieces."""

import pytest

from projector.errors import MalformedMessageError, SnapshotNeededError
from projector.gitlab.mapping.tables import TABLES, Kind
from projector.gitlab.postgres.pgoutput import (
    Begin,
    Commit,
    Insert,
    Message,
    Relation,
    RelationColumn,
    Truncate,
    Unneeded,
)
from projector.gitlab.postgres.pieces import MAX_BYTES, Piece, Pieces
from projector.gitlab.postgres.relations import Relations

TYPES = {Kind.INTEGER: 20, Kind.BOOLEAN: 16, Kind.TEXT: 25}
OIDS = {name: number for number, name in enumerate(TABLES)}
OTHER = 1000
LIMIT = 10


class Stream:
    """Pieces, and the messages of PostgreSQL that are put into them."""

    def __init__(self, *, start: int = 100, digests: object = None) -> None:
        self.pieces = Pieces(Relations(tokens=digests is not None), digests)  # type: ignore[arg-type]
        self.pieces.start(start)
        for table in TABLES.values():
            columns = tuple(
                RelationColumn(column.source, TYPES[column.kind], column.source == "id")
                for column in table.columns.values()
            )
            self.add(Relation(OIDS[table.name], "public", table.name, columns))
        self.add(Relation(OTHER, "public", "issues", ()))

    def add(self, message: Message, size: int = 100) -> None:
        self.pieces.add(message, size)

    def user(self, number: int) -> None:
        self.add(Insert(OIDS["users"], [b"%d" % number, b"amy", b"active"]))

    def begin(self, lsn: int) -> None:
        self.add(Begin(lsn, 5, 6))

    def commit(self, lsn: int) -> None:
        self.add(Commit(lsn, 7))

    def transaction(self, lsn: int, *users: int) -> None:
        self.begin(lsn)
        for number in users:
            self.user(number)
        self.commit(lsn + 10)

    def take(self) -> list[Piece]:
        taken = []
        while (piece := self.pieces.take(LIMIT)) is not None:
            taken.append(piece)
        return taken


def ids(piece: Piece) -> list[int]:
    return [change.id for change in piece.changes]


def test_whole_transactions_share_a_piece() -> None:
    stream = Stream()
    stream.transaction(200, 1, 2)
    stream.transaction(300, 3)
    [piece] = stream.take()
    assert ids(piece) == [1, 2, 3]
    assert piece.commit == Commit(310, 7)
    assert piece.delivered == stream.pieces.delivered == 310
    assert stream.take() == []


def test_an_open_transaction_waits_for_its_commit() -> None:
    stream = Stream()
    stream.transaction(200, 1)
    stream.begin(300)
    stream.user(2)
    [piece] = stream.take()
    assert (ids(piece), piece.delivered) == ([1], 210)
    assert stream.take() == []
    stream.commit(310)
    [piece] = stream.take()
    assert (ids(piece), piece.delivered) == ([2], 310)


def test_a_large_transaction_comes_in_parts_in_a_row() -> None:
    stream = Stream()
    stream.transaction(200, 1)
    stream.begin(300)
    pieces = []
    for number in range(25):
        stream.user(number)
        if stream.pieces.is_full(LIMIT):
            pieces += stream.take()
    stream.pieces.keep_alive(400, urgent=True)
    stream.commit(310)
    pieces += stream.take()
    assert [len(piece.changes) for piece in pieces] == [1, 10, 10, 5]
    assert [piece.commit and piece.commit.end_lsn for piece in pieces] == [210, None, None, 310]
    assert [piece.delivered for piece in pieces] == [210, 210, 210, 310]
    # What PostgreSQL asks in between is answered after the transaction.
    assert [piece.urgent for piece in pieces] == [False, False, False, True]


def test_large_rows_fill_a_piece_as_well() -> None:
    stream = Stream()
    stream.begin(200)
    row = [b"1", b"amy", b"active"]
    stream.add(Insert(OIDS["users"], row), MAX_BYTES // 2)
    assert not stream.pieces.is_full(LIMIT)
    stream.add(Insert(OIDS["users"], row), MAX_BYTES // 2)
    assert stream.pieces.is_full(LIMIT)
    [piece] = stream.take()
    assert piece.commit is None
    assert not stream.pieces.is_full(LIMIT)


def test_rows_of_other_tables_take_no_memory() -> None:
    stream = Stream()
    stream.begin(200)
    for _ in range(100):
        stream.add(Insert(OTHER, []), MAX_BYTES)
    assert not stream.pieces.is_full(LIMIT)
    stream.commit(210)
    [piece] = stream.take()
    assert piece == Piece([], Commit(210, 7), 210, urgent=False)


def test_a_keepalive_moves_on_what_is_delivered() -> None:
    stream = Stream()
    stream.pieces.keep_alive(150, urgent=False)
    assert stream.take() == [Piece([], None, 150, urgent=False)]
    stream.pieces.keep_alive(150, urgent=False)
    stream.pieces.keep_alive(120, urgent=False)
    assert stream.take() == []
    assert stream.pieces.delivered == 150


def test_a_keepalive_within_a_transaction_moves_nothing() -> None:
    stream = Stream()
    stream.begin(200)
    stream.pieces.keep_alive(500, urgent=False)
    stream.user(1)
    assert stream.take() == []
    stream.commit(210)
    assert [piece.delivered for piece in stream.take()] == [210]


def test_a_keepalive_after_a_transaction_is_delivered_with_it() -> None:
    stream = Stream()
    stream.transaction(200, 1)
    stream.pieces.keep_alive(250, urgent=True)
    stream.begin(300)
    [piece] = stream.take()
    assert (ids(piece), piece.delivered, piece.urgent) == ([1], 250, True)


def test_postgres_may_ask_while_there_is_nothing_new() -> None:
    stream = Stream()
    stream.pieces.keep_alive(100, urgent=True)
    assert stream.take() == [Piece([], None, 100, urgent=True)]
    assert stream.take() == []


def test_transactions_that_the_state_has_are_ignored() -> None:
    stream = Stream(start=210)
    stream.transaction(200, 1)
    stream.begin(205)
    stream.add(Truncate((OIDS["users"],)))
    stream.commit(210)
    assert stream.take() == []
    stream.transaction(210, 2)
    assert [ids(piece) for piece in stream.take()] == [[2]]


def test_a_truncation_ends_the_stream() -> None:
    stream = Stream()
    stream.begin(200)
    with pytest.raises(SnapshotNeededError):
        stream.add(Truncate((OIDS["users"],)))


@pytest.mark.parametrize(
    "messages",
    [
        [Commit(1, 1)],
        [Begin(200, 1, 1), Begin(300, 1, 1)],
        [Insert(OIDS["users"], [b"1", b"amy", b"active"])],
        [Truncate((OIDS["users"],))],
    ],
)
def test_messages_outside_a_transaction_are_refused(messages: list[Message]) -> None:
    stream = Stream()
    *before, last = messages
    for message in before:
        stream.add(message)
    with pytest.raises(MalformedMessageError):
        stream.add(last)


def test_other_messages_are_ignored() -> None:
    stream = Stream()
    stream.add(Unneeded())
    assert stream.take() == []


async def test_tokens_leave_as_digests() -> None:
    asked = []

    def digests(tokens: list[str]) -> list[str | None]:
        asked.append(tokens)
        return [None if token == "garbage" else token.upper() for token in tokens]

    stream = Stream(digests=digests)
    stream.begin(200)
    stream.user(1)
    for number, token in enumerate([b"one", None, b"garbage"], 2):
        row = [b"%d" % number, b"running", b"Ci::Build", *[None] * 6, token]
        stream.add(Insert(OIDS["p_ci_builds"], row))
    stream.commit(210)
    [piece] = stream.take()
    changes = (await stream.pieces.digested(piece)).changes
    assert ids(piece) == [1, 2, 3, 4]
    assert [change.row and change.row[-1] for change in changes] == ["active", "ONE", None, None]
    assert asked == [["one", "garbage"]]


async def test_nothing_is_asked_where_no_tokens_are_read() -> None:
    stream = Stream()
    stream.begin(200)
    row = [b"1", b"running", b"Ci::Build", *[None] * 6, b"secret"]
    stream.add(Insert(OIDS["p_ci_builds"], row))
    stream.commit(210)
    [piece] = stream.take()
    [change] = (await stream.pieces.digested(piece)).changes
    assert change.row is not None
    assert change.row[-1] is None
