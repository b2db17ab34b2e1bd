"""Test rows of pgoutput as changes of the mirror's tables."""

import random
from contextlib import suppress

import pytest

from projector.errors import GitlabTablesError, MalformedMessageError, SnapshotNeededError
from projector.gitlab.mapping.tables import TABLES, UNCHANGED, Change, Kind
from projector.gitlab.postgres.pgoutput import (
    Delete,
    Insert,
    Relation,
    RelationColumn,
    Truncate,
    Update,
)
from projector.gitlab.postgres.relations import Relations
from tests.unit.gitlab.recorded import STEPS, changes, changes_of

TYPES = {Kind.INTEGER: 20, Kind.BOOLEAN: 16, Kind.TEXT: 1043}


def relation(
    name: str, types: dict[str, int] | None = None, *, schema: str = "public", without: str = ""
) -> Relation:
    """Return a table's description, perhaps without a column or with other types."""
    columns = [
        RelationColumn(column.source, (types or {}).get(column.source, TYPES[column.kind]),
                       column.source == "id")
        for column in TABLES[name].columns.values()
        if column.source != without
    ]  # fmt: skip
    return Relation(77, schema, name, tuple(columns))


def test_values_have_the_kinds_of_their_columns() -> None:
    first, second = changes_of("insert")
    assert first == Change(
        "members", 9007199254740993,
        (9007199254740993, 30, 1, "Namespace", None, "2026-02-03 04:05:06.789", "2027-12-31", 0),
    )  # fmt: skip
    assert second.row == (2, -1, 1, "Namespace", None, "2026-02-03 00:00:00", "infinity", 0)
    assert [change.row and change.row[-1] for change in changes_of("booleans")] == [1, 0, None]


def test_updates_and_deletions_are_changes_by_id() -> None:
    assert changes_of("update") == [
        Change("namespaces", 3, (3, "Group", 1, None, None), inserted=False)
    ]
    assert changes_of("delete") == [Change("namespaces", 4, None)]


def test_a_change_of_the_id_is_two_changes() -> None:
    assert changes_of("key-change") == [
        Change("namespaces", 3, None),
        Change("namespaces", 4, (4, "Group", 1, None, None), inserted=False),
    ]


def test_a_large_value_that_was_not_sent_is_unchanged() -> None:
    [change] = changes_of("unchanged-large-value")
    assert change.row == (1, 1, 1, UNCHANGED)


def test_a_full_identity_has_the_large_value() -> None:
    updated, deleted = changes_of("full-identity")
    assert updated.row is not None
    assert str(updated.row[3]).startswith('{"large": "c4ca4238')
    assert deleted == Change("agent_project_authorizations", 1, None)


def test_another_index_may_be_the_identity() -> None:
    updated, deleted = changes_of("identity-by-index")
    assert updated == Change("namespaces", 2, (2, "User", None, None, 0), inserted=False)
    assert deleted == Change("namespaces", 2, None)


def test_rows_of_partitions_belong_to_their_table() -> None:
    row = (1, "running", "Ci::Build", None, None, None, 0, 3600, "2026-01-01 00:00:00", None)
    assert changes_of("partitions") == [
        Change("p_ci_builds", 1, row),
        Change("p_ci_builds", 2, (2, "running", "Ci::Build", *[None] * 7)),
        Change("p_ci_builds", 1, None),
        Change("p_ci_builds", 1, row),
        Change("p_ci_builds", 2, None),
    ]


def test_encrypted_tokens_are_read_only_where_they_are_needed() -> None:
    [first, *_] = changes_of("partitions", tokens=True)
    assert first.row is not None
    assert first.row[-1] == "encrypted"


@pytest.mark.parametrize(
    ("step", "ids"),
    [
        ("relation-renewed", [1, 2]),
        ("own-type", [1]),
        ("origin", [2]),
        ("message", [2]),
        ("other-schema", [1]),
    ],
)
def test_other_messages_change_nothing(step: str, ids: list[int]) -> None:
    assert [change.id for change in changes_of(step)] == ids


def test_a_truncated_table_needs_a_snapshot() -> None:
    with pytest.raises(SnapshotNeededError, match="agent_project_authorizations was truncated"):
        changes_of("truncate")


def test_a_truncated_table_of_somebody_else_does_not() -> None:
    relations = Relations()
    relations.describe(relation("users", schema="other"))
    assert list(relations.changes(Truncate((77,)))) == []


@pytest.mark.parametrize("name", TABLES)
def test_every_needed_column_that_is_missing_is_named(name: str) -> None:
    for column in TABLES[name].columns.values():
        with pytest.raises(GitlabTablesError, match=f"{name} has no column {column.source} "):
            Relations(tokens=True).describe(relation(name, without=column.source))


def test_the_column_of_tokens_may_be_missing_where_they_are_not_read() -> None:
    Relations().describe(relation("p_ci_builds", without="token_encrypted"))
    Relations().describe(relation("p_ci_builds", {"token_encrypted": 17}))


@pytest.mark.parametrize(
    ("name", "column", "oid"),
    [
        ("users", "id", 25),
        ("users", "id", 2950),  # uuid
        ("users", "id", 1700),  # numeric
        ("users", "username", 17),  # bytea
        ("users", "state", 21),
        ("namespaces", "share_with_group_lock", 21),
        ("members", "expires_at", 20),
    ],
)
def test_an_unexpected_type_is_named(name: str, column: str, oid: int) -> None:
    with pytest.raises(GitlabTablesError, match=rf"{name}\.{column} is "):
        Relations().describe(relation(name, {column: oid}))


@pytest.mark.parametrize(
    ("name", "column", "oid"),
    [("members", "state", 23), ("users", "state", 100_000), ("members", "expires_at", 1184)],
)
def test_types_that_read_the_same_are_taken(name: str, column: str, oid: int) -> None:
    Relations().describe(relation(name, {column: oid}))


def test_an_identity_without_the_id_is_refused_with_the_sql_that_mends_it() -> None:
    described = relation("users")
    columns = tuple(column._replace(in_key=False) for column in described.columns)
    with pytest.raises(GitlabTablesError, match="ALTER TABLE users REPLICA IDENTITY DEFAULT;"):
        Relations().describe(described._replace(columns=columns))


@pytest.mark.parametrize(
    "message",
    [
        Insert(77, [b"1", b"amy"]),
        Insert(77, [b"1", b"amy", b"active", b"more"]),
        Insert(77, [None, b"amy", b"active"]),
        Insert(77, [UNCHANGED, b"amy", b"active"]),
        Insert(77, [b"one", b"amy", b"active"]),
        Insert(78, [b"1", b"amy", b"active"]),
        Update(77, [b"1"], [b"1", b"amy", b"active"]),
        Delete(77, [None, b"amy", b"active"]),
        Truncate((78,)),
    ],
)
def test_rows_that_do_not_fit_are_refused(message: Insert | Update | Delete | Truncate) -> None:
    relations = Relations()
    relations.describe(relation("users"))
    with pytest.raises(MalformedMessageError):
        list(relations.changes(message))


def test_bytes_that_are_no_text_are_replaced() -> None:
    relations = Relations()
    relations.describe(relation("users"))
    [change] = relations.changes(Insert(77, [b"1", b"\xff", b"\0"]))
    assert change.row == (1, "�", "\0")


@pytest.mark.parametrize("seed", range(20))
def test_damaged_streams_end_with_an_error_that_is_ours(seed: int) -> None:
    dice = random.Random(seed)
    for messages in STEPS.values():
        damaged = [bytearray(message) for message in messages]
        for message in damaged:
            message[dice.randrange(len(message))] = dice.randrange(256)
        with suppress(MalformedMessageError, GitlabTablesError, SnapshotNeededError):
            list(changes([bytes(message) for message in damaged]))
