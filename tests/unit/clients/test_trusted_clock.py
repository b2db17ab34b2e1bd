"""The clock of a Redis server: believed while it goes with the process's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.clients import trusted_clock
from projector.clients.trusted_clock import (
    HOLD_S,
    LATEST_MS,
    START_TOLERANCE_MS,
    TOLERANCE_MS,
    TrustedClock,
    Verdict,
)

WALL = 1_800_000_000_000.0
BEGIN = 5000.0
STEP = 0.25
jumps = st.floats(2 * TOLERANCE_MS, 10**10) | st.floats(-(10**10), -2 * TOLERANCE_MS)


class Server:
    """A clock that is read four times a second; `ahead` (ms) is its jump."""

    def __init__(self, ahead: float = 0.0, wall: float = WALL) -> None:
        self.clock = TrustedClock(wall, BEGIN)
        self.now = BEGIN
        self.ahead = ahead

    def read(self, seconds: float = STEP, late: float = 0.0) -> Verdict:
        self.now += seconds
        reading = WALL + (self.now - BEGIN) * 1000 + self.ahead
        return self.clock.note(reading, self.now, self.now + late)

    def read_for(self, seconds: float) -> list[Verdict]:
        return [self.read() for _ in range(int(seconds / STEP))]


def test_a_clock_that_goes_on_is_believed() -> None:
    assert {*Server().read_for(60)} == {Verdict.AGREES}


@given(st.floats(-START_TOLERANCE_MS, START_TOLERANCE_MS))
def test_the_first_reading_may_be_minutes_from_the_wall_clock(ahead: float) -> None:
    server = Server(ahead * 0.99)
    assert server.read() is Verdict.AGREES
    expected = server.clock.expected(server.now)
    assert expected == pytest.approx(WALL + (server.now - BEGIN) * 1000 + ahead * 0.99)


def test_a_first_reading_far_from_the_wall_clock_waits() -> None:
    server = Server(3600_000)
    assert server.read() is Verdict.JUMPED
    assert server.clock.expected(server.now) is None
    assert server.read_for(HOLD_S + 1)[-1] is Verdict.AGREES


@given(jumps, st.floats(STEP, HOLD_S - 2 * STEP))
def test_a_short_jump_is_never_believed(ahead: float, seconds: float) -> None:
    server = Server()
    server.read()
    server.ahead = ahead
    first, *more = server.read_for(seconds)
    assert first is Verdict.JUMPED
    assert {*more} <= {Verdict.STRAYS}
    server.ahead = 0
    assert server.read() is Verdict.CAME_BACK
    assert server.read() is Verdict.AGREES
    assert server.clock.expected(server.now) == pytest.approx(WALL + (server.now - BEGIN) * 1000)


@given(jumps)
def test_a_jump_that_stays_is_believed_at_last(ahead: float) -> None:
    server = Server()
    server.read()
    server.ahead = ahead
    verdicts = server.read_for(HOLD_S)
    assert not any(verdict.is_believed for verdict in verdicts)
    later = server.read_for(1)
    assert later.count(Verdict.STOOD) == 1
    assert later[-1] is Verdict.AGREES
    server.ahead = 0
    assert server.read() is Verdict.JUMPED


def test_a_jump_that_changes_begins_to_stand_anew() -> None:
    server = Server()
    server.read()
    for ahead in (3600_000, 7200_000, -3600_000):
        server.ahead = ahead
        assert not any(verdict.is_believed for verdict in server.read_for(HOLD_S - 1))


@given(st.lists(st.floats(-0.9, 0.9), max_size=200))
def test_small_steps_are_believed(parts: list[float]) -> None:
    server = Server()
    server.read()
    for part in parts:
        server.ahead = part * TOLERANCE_MS
        assert server.read() is Verdict.AGREES


def test_many_small_steps_are_a_jump() -> None:
    """A clock that runs twice as fast must not be followed."""
    server = Server()
    verdicts = []
    for _ in range(40):
        server.ahead += STEP * 1000
        verdicts.append(server.read())
    assert Verdict.JUMPED in verdicts


def test_a_slow_drift_is_followed_for_ever() -> None:
    server = Server()
    for _ in range(20_000):
        server.ahead += trusted_clock.DRIFT / 2 * 1000
        assert server.read(1.0) is Verdict.AGREES


@given(st.floats(0, TOLERANCE_MS / 1000))
def test_a_late_answer_is_no_jump(late: float) -> None:
    server = Server()
    server.read()
    assert server.read(late=late) is Verdict.AGREES


def test_the_end_of_epochs_is_never_believed() -> None:
    server = Server()
    server.read()
    server.ahead = LATEST_MS
    assert not any(verdict.is_believed for verdict in server.read_for(10 * HOLD_S))
