"""Timers: one for each key, due in order, without a trace of replaced ones."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.domain import timers as timers_module
from projector.domain.timers import SORTED_MS, Timers

TIMES = st.integers(0, 5).map(lambda n: n * SORTED_MS // 2) | st.integers(0, 3 * SORTED_MS)


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
    assert list(timers.take_due(10**6 - 1)) == []
    timers.set("other", 10**9)
    for due in range(10_000):
        timers.set("often", 10**6 + due % 5_000)
        assert list(timers.take_due(10**6 - 1)) == []
        assert len(timers._heap) < 100
    assert list(timers.take_due(10**6 + 4_998)) == []
    assert list(timers.take_due(10**9)) == ["often", "other"]


def test_a_look_at_all_timers_is_taken_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers_module, "STEP", 10)
    timers: Timers[int] = Timers()
    for number in range(100):
        timers.set(number, number * 10**6)
    assert len(list(timers.sort_in_steps(0))) == 10
    assert list(timers.sort_in_steps(0)) == []
    assert list(timers.take_due(SORTED_MS - 1)) == [0]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | TIMES) | TIMES, max_size=30))
def test_each_timer_is_due_at_its_time_near_or_far(steps: list[Any]) -> None:
    """Time may go back, as when a wrong clock was believed."""
    timers: Timers[str] = Timers()
    model: dict[str, int] = {}
    for step in steps:
        match step:
            case (key, None):
                timers.set(key, None)
                model.pop(key, None)
            case (key, due):
                timers.set(key, due)
                model[key] = due
            case now:
                due_now = sorted((due, key) for key, due in model.items() if due <= now)
                taken = [(model.pop(key), key) for key in timers.take_due(now)]
                assert sorted(taken) == due_now
                assert [due for due, _ in taken] == [due for due, _ in due_now]
        near = [key for key, due in timers._due.items() if due < timers._sorted_until]
        assert len(timers._heap) == len(near) + timers._replaced
