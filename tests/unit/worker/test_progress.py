"""Which offsets are next, awaited for too long, or confirmed in spite of the broker."""

import pytest

from projector.events.model import Topic
from projector.worker import progress as progress_module
from projector.worker.progress import PartitionProgress

M, A, J = Topic


def at(membership: int = 0, agents: int = 0, jobs: int = 0) -> PartitionProgress:
    progress = PartitionProgress()
    progress.next = {M: membership, A: agents, J: jobs}
    return progress


def ends(membership: int = 0, agents: int = 0, jobs: int = 0) -> dict[Topic, int]:
    return {M: membership, A: agents, J: jobs}


def test_an_offset_is_known_that_is_applied_or_being_read() -> None:
    progress = at(membership=5)
    assert [progress.known_offset(topic) for topic in Topic] == [5, 0, 0]
    progress.reading = {M: 3, A: 9}
    assert [progress.known_offset(topic) for topic in Topic] == [5, 9, 0]


def test_a_new_owner_knows_no_offset() -> None:
    assert PartitionProgress().known_offset(M) == 0


def test_an_owner_is_behind_by_the_events_of_all_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "BEHIND", 10)
    progress = at(membership=5, agents=50)
    assert not progress.is_behind(ends(membership=10, agents=50, jobs=5))
    assert progress.is_behind(ends(membership=10, agents=50, jobs=6))
    # A topic that ends lower than what is applied makes up for no other.
    assert progress.is_behind(ends(membership=10, agents=0, jobs=6))


def test_a_topic_stalls_once_its_next_event_is_missing_for_too_long() -> None:
    progress = at()
    assert progress.stalled(ends(jobs=1), now=10.0, stall_s=2.0) == []
    assert progress.stalled(ends(jobs=1), now=12.0, stall_s=2.0) == []
    assert progress.stalled(ends(jobs=1), now=12.1, stall_s=2.0) == [J]


def test_a_stall_is_found_again_only_after_another_wait() -> None:
    """An open transaction cannot be read past, and each look at it costs a connection."""
    progress = at()
    progress.stalled(ends(jobs=1), now=10.0, stall_s=2.0)
    assert progress.stalled(ends(jobs=1), now=12.1, stall_s=2.0) == [J]
    assert progress.stalled(ends(jobs=1), now=12.2, stall_s=2.0) == []
    assert progress.stalled(ends(jobs=1), now=14.2, stall_s=2.0) == [J]


def test_an_open_transaction_is_new_once_at_each_offset() -> None:
    progress = at()
    assert [progress.note_open(J), progress.note_open(J), progress.note_open(M)] == [
        True, False, True,
    ]  # fmt: skip
    progress.next[J] += 1
    assert progress.note_open(J)


def test_a_topic_that_moves_on_does_not_stall() -> None:
    progress = at()
    for moment in range(10):
        assert progress.stalled(ends(jobs=100), now=float(moment), stall_s=1.5) == []
        progress.next[J] += 1


def test_a_topic_does_not_stall_while_nothing_is_missing() -> None:
    progress = at(jobs=1)
    assert progress.stalled(ends(jobs=1), now=0.0, stall_s=2.0) == []
    assert progress.stalled(ends(jobs=1), now=100.0, stall_s=2.0) == []
    assert progress.stalled(ends(jobs=2), now=101.0, stall_s=2.0) == []
    assert progress.stalled(ends(jobs=2), now=102.1, stall_s=2.0) == [J]


def test_a_next_offset_needs_one_confirmation() -> None:
    progress = at(membership=5, jobs=7)
    assert progress.unconfirmed((M, J)) == [M, J]
    progress.confirm(M)
    assert progress.unconfirmed((M, J)) == [J]
    progress.next[M] = 6
    assert progress.unconfirmed((M,)) == [M]


def test_progress_differs_from_the_checkpoint_once_an_event_is_applied() -> None:
    progress = at(jobs=1)
    assert not progress.is_checkpointed
    progress.note_checkpoint()
    assert progress.is_checkpointed
    progress.next[J] = 2
    assert not progress.is_checkpointed
