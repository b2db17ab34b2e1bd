"""Tests of the fault suite's expected answers: over-grants, and answers that are allowed."""

import time

from tests import builders
from tests.faults.expected_answers import TOLERANCE_S, ExpectedAnswers
from tests.faults.namespaces import Event, Token, instant
from tests.faults.observer import Lookup
from tests.faults.traffic import History, SentEvent

BOUND_S = 3.0
TOKEN = Token("secret", 9, "3")
WORLD = [
    builders.group(3), builders.project(7, 3), builders.member(1, "developer", group_id=3),
    builders.agent(5, 7), builders.user(1),
]  # fmt: skip
STARTED = builders.started(9, 7, token=TOKEN.secret, expires_at=instant(3600))


def history(events: list[Event], start: float, took: float = 0.0) -> History:
    """Send the events a millisecond apart; the last one is acknowledged after `took` seconds."""
    found = History("3")
    found.events = [SentEvent(e, start + n / 1000, start + n / 1000) for n, e in enumerate(events)]
    last = found.events[-1]
    found.events[-1] = last._replace(acked=last.sent + took)
    return found


def over_grants(events: History, after: float) -> list[str]:
    """Check an answer that lists agent 5, `after` seconds after the last event."""
    at = events.events[-1].sent + after
    return list(ExpectedAnswers(events).over_grants(Lookup(TOKEN, at, at, 200, (5,)), BOUND_S))


def test_a_user_blocked_before_the_first_job_may_be_answered_for_the_bound_and_no_longer() -> None:
    """Topics need not be in step: the job may be applied before the user is blocked."""
    events = history([*WORLD, builders.user(1, "blocked"), STARTED], time.monotonic() - 60)
    assert over_grants(events, 0.1) == []
    (found,) = over_grants(events, BOUND_S + TOLERANCE_S + 0.1)
    assert "its user: not allowed since user.set" in found


def test_a_membership_that_ended_while_kafka_was_slow_has_counted() -> None:
    """The worker may have applied the event long before Kafka acknowledged it."""
    brief = builders.member(1, "maintainer", project_id=7, via="share:9", expires_at=instant(-29))
    without_members = [*WORLD[:2], *WORLD[3:], STARTED, brief]
    events = history(without_members, time.monotonic() - 30, took=5.0)
    assert over_grants(events, 0.5) == []
    assert over_grants(events, 1 + BOUND_S + TOLERANCE_S + 0.5)


def test_a_user_who_never_was_a_member_is_an_over_grant() -> None:
    events = history([*WORLD[:2], *WORLD[3:], STARTED], time.monotonic() - 60)
    assert over_grants(events, 0.1) == ["job 9 (root 3) got agent 5; its user: was never allowed"]


def short_answers(events: History, agents: tuple[int, ...]) -> list[str]:
    """Check an answer with these agents, a second after the last event."""
    at = events.events[-1].sent + 1
    return list(ExpectedAnswers(events).short_answers(Lookup(TOKEN, at, at, 200, agents)))


def test_an_agent_from_before_the_jobs_start_is_in_every_answer() -> None:
    events = history([*WORLD, STARTED], time.monotonic() - 60)
    assert short_answers(events, (5,)) == []
    assert short_answers(events, ()) == ["job 9 (root 3) lacks agent 5, which was there before it"]


def test_an_agent_from_after_the_jobs_start_or_removed_since_need_not_be_in_the_answer() -> None:
    start = time.monotonic() - 60
    for later in ([*WORLD, STARTED, builders.removed("agent", 5)],
                  [*WORLD, STARTED, builders.user(1, "blocked")],
                  [*WORLD[:3], WORLD[4], STARTED, WORLD[3]]):  # fmt: skip
        assert short_answers(history(later, start), ()) == []


def test_a_membership_that_expires_by_itself_demands_nothing() -> None:
    brief = builders.member(1, "developer", project_id=7, expires_at=instant(-57))
    events = history([*WORLD[:2], brief, *WORLD[3:], STARTED], time.monotonic() - 60)
    assert short_answers(events, ()) == []
