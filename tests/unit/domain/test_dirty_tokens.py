"""The order of writes: views that may lose something come first."""

from projector.domain.dirty_tokens import DirtyTokens, WritePriority


def waiting() -> DirtyTokens:
    found = DirtyTokens()
    found.add(["started"], WritePriority.ONLY_GRANTS)
    found.add(["revoked", "both"], WritePriority.MAY_REVOKE)
    found.add(["both", "granted"], WritePriority.ONLY_GRANTS)
    found.add(["finished"], WritePriority.ENDS)
    return found


def test_what_may_take_away_comes_first_and_every_token_once() -> None:
    found = waiting()
    assert set(found) == {"started", "revoked", "both", "granted", "finished"}
    assert found.take(3).tokens == ["finished", "both", "revoked"]
    assert found.take(9).tokens == ["granted", "started"]
    assert not found
    assert found.take(9).tokens == []


def test_a_token_that_waits_behind_others_goes_first_once_it_may_lose_something() -> None:
    found = waiting()
    found.add(["started"], WritePriority.ENDS)
    assert found.take(2).tokens == ["started", "finished"]
    assert "started" not in set(found)


def test_a_long_revocation_leaves_jobs_that_start_a_share() -> None:
    found = DirtyTokens()
    found.add((f"revoked-{n}" for n in range(100)), WritePriority.MAY_REVOKE)
    found.add((f"started-{n}" for n in range(3)), WritePriority.ONLY_GRANTS)
    tokens = found.take(16).tokens
    assert [t.split("-")[0] for t in tokens] == ["revoked"] * 16 + ["started"] * 2


def test_what_was_touched_last_is_written_before_others_as_urgent() -> None:
    """A job that ends during a long write does not wait for the end of it."""
    found = DirtyTokens()
    found.add(["earlier"], WritePriority.MAY_REVOKE)
    found.add(["later"], WritePriority.MAY_REVOKE)
    assert found.take(1).tokens == ["later"]


def test_tokens_are_named_with_the_portion_that_they_are_in() -> None:
    found = waiting()
    found.mark_job_key("started")
    found.mark_job_key("both")
    assert found.take(3).named == {"both"}
    assert found.take(3).named == {"started"}


def test_nothing_is_left_of_what_is_cleared() -> None:
    found = waiting()
    found.mark_job_key("started")
    found.clear()
    assert not found
    found.add(["started"], WritePriority.ENDS)
    assert found.take(1) == (["started"], set())


def test_a_new_token_that_is_held_back_is_taken_once_it_is_released() -> None:
    found = waiting()
    found.mark_job_key("started")
    found.mark_new("started")
    assert found.hold_new() == ["started"]
    found.add(["started", "granted"], WritePriority.MAY_REVOKE)
    assert found.is_held("started")
    assert "started" not in found.take(9).tokens
    found.release(["started"])
    assert not found.is_held("started")
    assert found.take(9) == (["started"], {"started"})
    found.release(["started"])
    assert not found


def test_a_token_that_ends_is_not_held_back() -> None:
    found = waiting()
    found.mark_new("started")
    found.mark_new("finished")
    found.add(["finished"], WritePriority.ENDS)
    assert found.hold_new() == ["started"]
    found.add(["started"], WritePriority.ENDS)
    assert set(found.take(2).tokens) == {"started", "finished"}


def test_a_token_that_was_taken_is_not_new_any_more() -> None:
    found = waiting()
    found.mark_job_key("started")
    found.mark_new("started")
    found.take(9)
    assert found.hold_new() == []
