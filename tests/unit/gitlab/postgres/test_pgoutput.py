"""Test the decoder of pgoutput on recorded and on damaged bytes."""

import random
import struct
from contextlib import suppress

import pytest

from projector.errors import MalformedMessageError
from projector.gitlab.mapping.tables import UNCHANGED
from projector.gitlab.postgres.pgoutput import (
    Begin,
    Commit,
    Delete,
    Insert,
    Relation,
    RelationColumn,
    Truncate,
    Unneeded,
    Update,
    decode,
    lsn_number,
    lsn_text,
)
from tests.unit.gitlab.recorded import MESSAGES, STEPS

KINDS = {
    b"B": Begin, b"C": Commit, b"R": Relation, b"I": Insert, b"U": Update, b"D": Delete,
    b"T": Truncate, b"O": Unneeded, b"Y": Unneeded, b"M": Unneeded,
}  # fmt: skip


def test_every_kind_of_message_was_recorded_and_is_decoded() -> None:
    assert {message[:1] for message in MESSAGES} == set(KINDS)
    for message in MESSAGES:
        assert type(decode(message)) is KINDS[message[:1]]


def test_a_transaction_begins_and_ends() -> None:
    begin, end = decode(STEPS["insert"][0]), decode(STEPS["insert"][-1])
    assert isinstance(begin, Begin)
    assert isinstance(end, Commit)
    assert begin.commit_lsn < end.end_lsn
    assert begin.time_ms == end.time_ms
    assert begin.time_ms > 1_700_000_000_000


def test_times_count_from_the_year_2000() -> None:
    assert decode(struct.pack("!cQqI", b"B", 5, 1_000_999, 6)) == Begin(5, 946_684_801_000, 6)
    assert decode(struct.pack("!cBQQq", b"C", 0, 1, 2, -1000)) == Commit(2, 946_684_799_999)


def test_a_relation_has_columns_types_and_its_key() -> None:
    relation = decode(STEPS["booleans"][1])
    assert isinstance(relation, Relation)
    assert (relation.schema, relation.name) == ("public", "namespaces")
    assert relation.columns[0] == RelationColumn("id", 20, in_key=True)
    columns = {column.name: column for column in relation.columns}
    assert columns["share_with_group_lock"] == ("share_with_group_lock", 16, False)
    assert columns["type"].type_oid == 1043


def test_a_value_is_text_null_or_unchanged() -> None:
    insert, update = decode(STEPS["booleans"][2]), decode(STEPS["unchanged-large-value"][1])
    assert isinstance(insert, Insert)
    assert isinstance(update, Update)
    assert insert.new[:4] == [b"1", b"a", b"a", None]
    assert update.old is None
    assert update.new == [b"1", b"1", b"1", UNCHANGED]


def test_a_changed_key_comes_with_the_former_one() -> None:
    update = decode(STEPS["key-change"][1])
    assert isinstance(update, Update)
    assert update.old is not None
    assert update.old[0] == b"3"
    assert set(update.old[1:]) == {None}
    assert update.new[0] == b"4"


def test_a_truncation_names_every_table() -> None:
    truncation = decode(STEPS["truncate"][-2])
    assert isinstance(truncation, Truncate)
    assert len(truncation.oids) == 2


@pytest.mark.parametrize(
    "message", [m for m in MESSAGES if m[:1] not in (b"O", b"Y", b"M")], ids=lambda m: chr(m[0])
)
def test_a_message_that_was_cut_or_goes_on_is_refused(message: bytes) -> None:
    for length in range(len(message)):
        with pytest.raises(MalformedMessageError):
            decode(message[:length])
    with pytest.raises(MalformedMessageError):
        decode(message + b"\0")


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_are_decoded_or_refused_and_nothing_else(seed: int) -> None:
    dice = random.Random(seed)
    for message in MESSAGES:
        damaged = bytearray(message)
        for _ in range(dice.randint(1, 5)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        with suppress(MalformedMessageError):
            decode(bytes(damaged))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"X",
        b"S\0\0\0\1",  # the start of a transaction that is under way: protocol 2
        b"I" + struct.pack("!IcHcI", 1, b"N", 1, b"t", 0xFFFFFFFF),
        b"I" + struct.pack("!IcH", 1, b"N", 0xFFFF),
        b"I" + struct.pack("!IcHcI", 1, b"N", 1, b"b", 0),  # a binary value
        b"T" + struct.pack("!IB", 0xFFFFFFFF, 0),
        b"R" + struct.pack("!I", 1) + b"no end",
    ],
)
def test_hostile_messages_are_refused_at_once(message: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode(message)


def test_positions_are_written_as_postgres_does() -> None:
    assert lsn_text((1 << 32) + 0x16B3748) == "1/16B3748"
    assert lsn_number("1/16B3748") == (1 << 32) + 0x16B3748
