"""Timers: one for each key, due in order, without a trace of replaced ones."""

from projector.domain.timers import Timers


def test_keys_are_due_once_and_the_earliest_comes_first() -> None:
    timers: Timers[str] = Timers()
    for key, due in (("c", 30), ("a", 10), ("b", 20)):
        timers.set(key, due)
    assert list(timers.take_due(9)) == []
    assert list(timers.take_due(20)) == ["a", "b"]
    assert list(timers.take_due(99)) == ["c"]
    assert list(timers.take_due(99)) == []


def test_a_timer_replaces_the_one_before_and_none_removes_it() -> None:
    timers: Timers[str] = Timers()
    timers.set("later", 10)
    timers.set("later", 20)
    timers.set("earlier", 20)
    timers.set("earlier", 5)
    timers.set("never", 10)
    timers.set("never", None)
    assert list(timers.take_due(10)) == ["earlier"]
    assert list(timers.take_due(20)) == ["later"]


def test_a_timer_may_be_set_anew_while_due_ones_are_taken() -> None:
    timers: Timers[str] = Timers()
    timers.set("again", 10)
    for key in timers.take_due(10):
        timers.set(key, 20)
    assert list(timers.take_due(20)) == ["again"]


def test_replaced_timers_do_not_pile_up() -> None:
    timers: Timers[str] = Timers()
    timers.set("other", 10**9)
    for due in range(10_000):
        timers.set("often", 10**6 + due)
    assert len(timers._heap) < 100
    assert list(timers.take_due(10**6 + 9_998)) == []
    assert list(timers.take_due(10**9)) == ["often", "other"]
