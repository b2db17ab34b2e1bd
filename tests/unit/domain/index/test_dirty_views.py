"""The order of writes: views that may lose something come first."""

import pytest

from projector.domain.index.dirty_views import DirtyViews, WritePriority
from projector.domain.views import ViewId

STARTED, REVOKED, BOTH, GRANTED = map(ViewId, ("started", "revoked", "both", "granted"))
FINISHED, EARLIER, LATER = map(ViewId, ("finished", "earlier", "later"))


def waiting() -> DirtyViews:
    found = DirtyViews()
    found.add([STARTED], WritePriority.ONLY_GRANTS)
    found.add([REVOKED, BOTH], WritePriority.MAY_REVOKE)
    found.add([BOTH, GRANTED], WritePriority.ONLY_GRANTS)
    found.add([FINISHED], WritePriority.ENDS)
    return found


def test_what_may_take_away_comes_first_and_every_view_once() -> None:
    found = waiting()
    assert set(found) == {STARTED, REVOKED, BOTH, GRANTED, FINISHED}
    assert found.take(3).ids == [FINISHED, BOTH, REVOKED]
    assert found.take(9).ids == [GRANTED, STARTED]
    assert not found
    assert found.take(9).ids == []


def test_a_view_that_waits_behind_others_goes_first_once_it_may_lose_something() -> None:
    found = waiting()
    found.add([STARTED], WritePriority.ENDS)
    assert found.take(2).ids == [STARTED, FINISHED]
    assert STARTED not in set(found)


def test_a_long_revocation_leaves_jobs_that_start_a_share() -> None:
    found = DirtyViews()
    found.add((ViewId(f"revoked-{n}") for n in range(100)), WritePriority.MAY_REVOKE)
    found.add((ViewId(f"started-{n}") for n in range(3)), WritePriority.ONLY_GRANTS)
    ids = found.take(16).ids
    assert [id_.split("-")[0] for id_ in ids] == [REVOKED] * 16 + [STARTED] * 2


def test_what_was_touched_last_is_written_before_others_as_urgent() -> None:
    """A job that ends during a long write does not wait for the end of it."""
    found = DirtyViews()
    found.add([EARLIER], WritePriority.MAY_REVOKE)
    found.add([LATER], WritePriority.MAY_REVOKE)
    assert found.take(1).ids == [LATER]


def test_pointers_are_taken_with_the_portion_that_they_are_in() -> None:
    found = waiting()
    found.mark_pointer(STARTED)
    found.mark_pointer(BOTH)
    assert found.take(3).pointers == {BOTH}
    assert found.take(3).pointers == {STARTED}


def test_nothing_is_left_of_what_is_cleared() -> None:
    found = waiting()
    found.mark_pointer(STARTED)
    found.clear()
    assert not found
    found.add([STARTED], WritePriority.ENDS)
    assert found.take(1) == ([STARTED], set())


def test_a_new_view_that_is_held_back_is_taken_once_it_is_released() -> None:
    found = waiting()
    found.mark_pointer(STARTED)
    found.mark_new(STARTED)
    assert found.hold_new(7) == [STARTED]
    found.add([STARTED, GRANTED], WritePriority.MAY_REVOKE)
    assert found.is_held(STARTED)
    assert found.held_since == 7
    assert STARTED not in found.take(9).ids
    found.release([STARTED])
    assert not found.is_held(STARTED)
    assert found.held_since is None
    assert found.take(9) == ([STARTED], {STARTED})
    found.release([STARTED])
    assert not found


def test_the_lowest_position_is_that_of_the_first_view_that_is_still_held_back() -> None:
    found = DirtyViews()
    for position, view in ((4, STARTED), (6, FINISHED), (9, STARTED)):
        found.mark_new(view)
        found.hold_new(position)
    assert found.held_since == 4
    found.add([STARTED], WritePriority.ENDS)
    assert found.held_since == 6
    found.clear()
    assert found.held_since is None


def test_a_view_that_ends_is_not_held_back() -> None:
    found = waiting()
    found.mark_new(STARTED)
    found.mark_new(FINISHED)
    found.add([FINISHED], WritePriority.ENDS)
    assert found.hold_new(7) == [STARTED]
    found.add([STARTED], WritePriority.ENDS)
    assert set(found.take(2).ids) == {STARTED, FINISHED}


@pytest.mark.parametrize("has_pointer", [True, False])
def test_a_view_that_was_taken_is_not_new_any_more(has_pointer: bool) -> None:
    found = waiting()
    if has_pointer:
        found.mark_pointer(STARTED)
    found.mark_new(STARTED)
    assert found.is_unwritten(STARTED)
    found.take(9)
    assert not found.is_unwritten(STARTED)
    assert found.hold_new(7) == []
