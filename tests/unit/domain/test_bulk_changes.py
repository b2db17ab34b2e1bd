"""Bulk changes are named, early, and after what every view that they shorten has in its body."""

from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projector.domain.index import fact_index
from projector.domain.projection import Projection
from projector.domain.views import View
from projector.events.model import Topic
from projector.store import overlay
from projector.store.schema import Version, ViewRecord
from tests import builders
from tests.builders import NOW, Message
from tests.unit.domain.drawn import BASE, EVENTS, new_projection, numbered, schedule, views_of

JOBS = 30
REMOVED = builders.removed("agent", 5)


def company(jobs: int = JOBS) -> tuple[Projection, builders.Feed]:
    """A company whose jobs all get agent 5."""
    projection, feed = new_projection(), builders.Feed()
    for message in [
        builders.group(3), builders.group(12, 3), builders.project(7, 12), builders.agent(5, 7),
        builders.member(1, group_id=3), *(builders.started(job, 7) for job in range(1, jobs + 1)),
    ]:  # fmt: skip
        assert projection.apply(feed(message)) is None
    projection.facts.dirty.clear()
    return projection, feed


@pytest.fixture
def bulk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fact_index, "STEP", 5)
    monkeypatch.setattr(fact_index, "BULK", 10)


@pytest.mark.usefixtures("bulk")
@pytest.mark.parametrize(
    ("message", "names"),
    [
        (REMOVED, {"agent:5"}),
        (builders.configured(5, groups=[{"id": 3}]), {"agent:5"}),
        (builders.shared_agent(6, 9, groups=[{"id": 3}]), {"agent:6"}),
        (builders.shared(6, 9), {"agent:6"}),
        (builders.user(1, "blocked"), {"user:1"}),
        (builders.member(1, "guest", group_id=3), {"user:1"}),
        (builders.project(7, 3), {"project:7", "agent:5"}),
        (builders.removed("project", 7), {"project:7", "agent:5"}),
        (builders.group(12), {"group:12"}),
        (builders.removed("group", 3), {"group:3"}),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_a_bulk_change_is_named_before_most_of_its_views_are_marked(
    message: Message, names: set[str]
) -> None:
    projection, feed = company()
    dirty, marked = projection.facts.dirty, []
    for _ in projection.apply_in_steps(feed(message)) or ():
        if dirty.bulk_names:
            marked.append(len(set(dirty)))
    assert dirty.bulk_names == names
    assert marked[0] == fact_index.BULK + fact_index.STEP
    dirty.clear()
    assert not dirty.bulk_names


@pytest.mark.usefixtures("bulk")
@pytest.mark.parametrize(
    ("message", "jobs"),
    [(REMOVED, 10), (builders.group(99), JOBS), (builders.removed("job", 9), JOBS)],
    ids=["few", "affects none", "a job"],
)
def test_other_changes_are_not_named(message: Message, jobs: int) -> None:
    projection, feed = company(jobs)
    projection.apply(feed(message))
    assert not projection.facts.dirty.bulk_names


@pytest.mark.usefixtures("bulk")
def test_what_only_grants_is_not_named() -> None:
    projection, feed = company()
    projection.apply(feed(builders.member(1, project_id=7)))
    assert len(set(projection.facts.dirty)) == JOBS
    assert not projection.facts.dirty.bulk_names


@pytest.mark.usefixtures("bulk")
def test_a_membership_that_ends_by_time_is_named() -> None:
    projection, feed = company()
    projection.apply(feed(builders.member(1, group_id=3, expires_at="2027-01-15T08:00:05Z")))
    projection.facts.dirty.clear()
    projection.advance(NOW + 10_000)
    assert projection.facts.dirty.bulk_names == {"user:1"}


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=20), st.integers(0, 2**32))
def test_every_view_that_loses_something_has_the_changes_name_in_its_body(
    drawn: list[Message], seed: int
) -> None:
    dice = Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fact_index, "BULK", 0)
        projection, now = new_projection(), NOW
        before = views_of(projection, now)
        for record in schedule(numbered(BASE + drawn), dice):
            projection.facts.dirty.clear()
            projection.apply(record)
            if record.topic is not Topic.JOB_LIFECYCLE:
                refuse_unnamed_losses(projection, before, now)
            before = views_of(projection, now)
            if dice.random() < 0.3:
                now += dice.choice([0, 1000, 4000])
                projection.facts.dirty.clear()
                projection.advance(now)
                refuse_unnamed_losses(projection, before, now)
                before = views_of(projection, now)


def refuse_unnamed_losses(projection: Projection, before: dict[Any, View], now: int) -> None:
    """Assert that the names of the changes hold back every view that lost something."""
    after = views_of(projection, now)
    names = projection.facts.dirty.bulk_names
    line = overlay.encode_line(0, Version(1, 1), names or {"agent:0"}).encode()
    for id_, view in before.items():
        record = ViewRecord(view.status, 0, Version(1, 0), view.body)
        if view.expires_at > now and id_ in after and has_lost(view, after[id_]):
            assert overlay.is_held_back(record, line), (view, after[id_], names)


def has_lost(old: View, new: View) -> bool:
    """Whether the new view lacks an agent, or a role, of the old one, or the list as a whole."""
    if old.status != 200 or new.status != 200:
        return old.status == 200
    was, now = orjson.loads(old.body), orjson.loads(new.body)
    if any(agent not in now["allowed_agents"] for agent in was["allowed_agents"]):
        return True
    return not set(was["user"]["roles_in_project"]) <= set(now["user"]["roles_in_project"])
