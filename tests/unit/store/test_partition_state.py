"""The hash of a partition: decoded, or refused where a number is malformed."""

import pytest

from projector.errors import DifferentRulesError
from projector.events.log_identity import LogIdentity, RecordMark
from projector.events.model import Topic
from projector.store.partition_state import (
    PartitionState,
    refuse_other_rules,
    refuse_other_sources,
)
from projector.store.schema import Version

FIELDS = {
    b"owner": b"me", b"epoch": b"7", b"revision": b"3", b"facts": b"5", b"stamp": b"100",
    b"stamp_epoch": b"7", b"offset:membership": b"4", b"minimum_level": b"30",
    b"log:membership": b"an-id 3 90 00ff",
}  # fmt: skip


def test_every_field_is_decoded() -> None:
    state = PartitionState.decode(FIELDS)
    assert state == PartitionState(
        "me", Version(7, 3), {Topic.MEMBERSHIP: 4}, 5, 100, 7, {"minimum_level": 30},
        {Topic.MEMBERSHIP: LogIdentity("an-id", RecordMark(3, 90, "00ff"))},
    )  # fmt: skip
    assert state.has_checkpoint


def test_a_partition_that_was_only_claimed_has_no_checkpoint() -> None:
    state = PartitionState.decode({b"owner": b"me", b"epoch": b"7"})
    assert state == PartitionState("me", Version(7, 0), {}, None, None, None)
    assert not state.has_checkpoint


def test_a_checkpoint_that_is_being_written_is_not_complete() -> None:
    state = PartitionState.decode(FIELDS | {b"facts": b"-1"})
    assert state is not None
    assert not state.has_checkpoint


def test_without_fields_there_is_no_state() -> None:
    assert PartitionState.decode({}) is None


def test_fields_of_other_versions_are_ignored() -> None:
    assert PartitionState.decode(FIELDS | {b"later": b"x", b"\xff": b"\xff"}) == (
        PartitionState.decode(FIELDS)
    )


@pytest.mark.parametrize("name", [name for name in FIELDS if name != b"owner"], ids=ascii)
def test_a_malformed_number_is_an_error(name: bytes) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        PartitionState.decode(FIELDS | {name: b"- x x x" if b"log" in name else b"x"})


def test_other_rules_are_named_by_their_variables_and_in_their_units() -> None:
    state = PartitionState.decode(FIELDS | {b"tombstone_retention": b"1500"})
    assert state is not None
    refuse_other_rules(3, state, {"minimum_level": 30, "tombstone_retention": 1500})
    with pytest.raises(
        DifferentRulesError,
        match=r"partition 3 has another PROJECTOR_MINIMUM_ROLE .*: developer there, none here",
    ):
        refuse_other_rules(3, state, {"minimum_level": 0})
    with pytest.raises(DifferentRulesError, match=r"RETENTION .*: 1\.5 s there, 2 s here"):
        refuse_other_rules(3, state, {"tombstone_retention": 2000})
    bounded = PartitionState.decode(FIELDS | {b"max_view_bytes": b"2048"})
    assert bounded is not None
    with pytest.raises(DifferentRulesError, match=r"MAX_VIEW_BYTES .*: 2048 bytes there, 4096 b"):
        refuse_other_rules(3, bounded, {"max_view_bytes": 4096})


def test_other_sources_are_named() -> None:
    state = PartitionState.decode(FIELDS | {b"sources": b"hr,gitlab"})
    assert state is not None
    refuse_other_sources(3, state, ["gitlab", "hr"])
    with pytest.raises(
        DifferentRulesError,
        match="gitlab,hr there, hr here; set it alike",
    ):
        refuse_other_sources(3, state, ["hr"])
    none = PartitionState.decode(FIELDS | {b"sources": b""})
    assert none is not None
    refuse_other_sources(3, none, [])
    with pytest.raises(DifferentRulesError, match="none there, hr here"):
        refuse_other_sources(3, none, ["hr"])
    older = PartitionState.decode(FIELDS)
    assert older is not None
    refuse_other_sources(3, older, ["hr"])


def test_a_rule_that_an_older_worker_did_not_store_is_not_compared() -> None:
    state = PartitionState.decode(FIELDS)
    assert state is not None
    refuse_other_rules(3, state, {"tombstone_retention": 2000})
