"""The decision at the start of a stream or of polls: go on, or take a snapshot."""

from typing import NamedTuple

from projector.gitlab.mapping.state import Position, State
from projector.gitlab.postgres.replication import Identity, SlotStatus


class Reason(NamedTuple):
    """The reason to read all tables again: a word for the metric, a sentence for the log."""

    label: str
    sentence: str


NO_STATE = Reason("new", "the state is empty")
OTHER_SETTINGS = Reason("settings", "the databases, the source or the mode of tokens were others")
REPUBLISHED = Reason("publication", "tables were not published for a while, or are published anew")
UNFINISHED = Reason("new", "the snapshot before was not finished")
BEHIND = Reason("behind", "the state is older than the replication slot, as after a restore")
STREAM = "stream"


def reason_to_fill(state: State, layout: str) -> Reason | None:
    """Return why polls must fill the state first, or None."""
    if state.is_empty:
        return NO_STATE
    return OTHER_SETTINGS if state.noted("layout") != layout else None


def reason_for_snapshot(
    position: Position | None, identity: Identity, slot: SlotStatus | None
) -> Reason | None:
    """Return why the slot does not lead on from the state's position, or None."""
    if position is None:
        return NO_STATE
    if position.system != str(identity.system):
        return Reason("cluster", "GitLab's database is another database cluster")
    # Before all that a snapshot would mend: a slot that is lost still shows what was confirmed.
    known = max(position.lsn, position.confirmed)
    if slot and slot.confirmed is not None and slot.confirmed > known:
        return BEHIND
    if position.timeline != identity.timeline:
        return Reason("timeline", "GitLab's database has a new timeline, as after a failover")
    if slot is None:
        return Reason("slot", "the replication slot is gone")
    if slot.confirmed is None or slot.wal_status == "lost":
        return Reason("slot", "PostgreSQL has removed WAL that the replication slot needs")
    return None
