"""Decide at the start of a stream whether the state leads on."""

from contextlib import closing
from pathlib import Path

import pytest

from projector.gitlab import resume
from projector.gitlab.mapping.state import Position, State
from projector.gitlab.postgres.replication import Identity, SlotStatus
from projector.gitlab.resume import reason_for_snapshot, reason_to_fill

POSITION = Position(100, 120, "7", 1)
IDENTITY = Identity(7, 1, 150000)
SLOT = SlotStatus(120, "reserved", None, True)


def label(
    position: Position | None = POSITION,
    identity: Identity = IDENTITY,
    slot: SlotStatus | None = SLOT,
) -> str | None:
    reason = reason_for_snapshot(position, identity, slot)
    return reason and reason.label


def test_the_stream_goes_on_where_the_state_is() -> None:
    assert label() is None
    assert label(POSITION._replace(lsn=130)) is None
    assert label(slot=SLOT._replace(confirmed=90)) is None


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (label(None), "new"),
        (label(identity=IDENTITY._replace(system=8)), "cluster"),
        (label(identity=IDENTITY._replace(timeline=2)), "timeline"),
        (label(slot=None), "slot"),
        (label(slot=SLOT._replace(wal_status="lost")), "slot"),
        (label(slot=SLOT._replace(confirmed=None)), "slot"),
        (label(slot=SLOT._replace(confirmed=121)), "behind"),
        (label(POSITION._replace(confirmed=0), slot=SLOT._replace(confirmed=101)), "behind"),
        (label(slot=SLOT._replace(confirmed=121, wal_status="lost")), "behind"),
        (label(identity=IDENTITY._replace(timeline=2), slot=SLOT._replace(confirmed=121)),
         "behind"),
    ],
)  # fmt: skip
def test_a_snapshot_is_needed_where_it_does_not(found: str | None, wanted: str) -> None:
    assert found == wanted


def test_a_newer_cluster_is_no_old_state() -> None:
    """Another cluster's slot may be anywhere."""
    reason = reason_for_snapshot(
        POSITION, IDENTITY._replace(system=8), SLOT._replace(confirmed=10**9)
    )
    assert reason is not resume.BEHIND


def test_polls_fill_an_empty_state_and_one_of_other_settings(tmp_path: Path) -> None:
    with closing(State(tmp_path / "gitlab.db", by_counter=True)) as state:
        assert reason_to_fill(state, "poll jwt main") == resume.NO_STATE
        state.start_snapshot({"main": POSITION})
        state.finish_snapshot()
        state.note("layout", "stream jwt main")
        assert reason_to_fill(state, "poll jwt main") == resume.OTHER_SETTINGS
        state.note("layout", "poll jwt main")
        assert reason_to_fill(state, "poll jwt main") is None
