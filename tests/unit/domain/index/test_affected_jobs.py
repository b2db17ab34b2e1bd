"""The jobs that a change affects, how urgent it is, and what finding them costs."""

import sys
from collections.abc import Callable, Iterable
from random import Random
from types import FrameType
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from projector.domain import entities, fact_keys
from projector.domain.fact_keys import Key
from projector.domain.facts import Fact
from projector.domain.index.dirty_views import WritePriority
from projector.domain.views import View, ViewId
from tests import builders
from tests.builders import NOW, Message
from tests.unit.domain.drawn import (
    BASE,
    EVENTS,
    new_projection,
    numbered,
    schedule,
    views_of,
)
from tests.unit.domain.world import (
    HIERARCHY,
    World,
)


def test_a_change_writes_only_the_views_that_it_touches() -> None:
    world = World(
        *HIERARCHY, builders.project(8, 12), builders.started(9, 7), builders.started(10, 8, 2),
        builders.started(11, 7, 2),
    )  # fmt: skip
    changes = {
        "agent": (builders.agent(5, 7), {9, 11}),
        "member of project": (builders.member(2, project_id=7), {11}),
        "member of group": (builders.member(2, group_id=3), {10, 11}),
        "user": (builders.user(1), {9}),
        "project": (builders.project(8, 3), {10}),
        "group": (builders.group(12), {9, 11}),
        "nothing below it": (builders.group(99, 3), set()),
        "the same again": (builders.group(12), set()),
        "finish": (builders.removed("job", 9), {9}),
        "a group above the job that is left": (builders.group(12, 3), {11}),
        "the project of the finished job": (builders.project(7, 3), {11}),
    }
    for what, (message, jobs) in changes.items():
        world.take(message)
        assert {view.job for view in world.written.values()} == jobs, what


def test_a_grant_whose_zero_becomes_false_is_written_again() -> None:
    """Both are equal in Python; the view has the grant as it was sent."""
    world = World(*HIERARCHY, builders.member(1, group_id=3), builders.project(8, 3))
    world.take(builders.agent(5, 8), builders.started(9, 7))
    for value in (0, False):
        world.take(configured(5, [{"id": 7, "later": value}], []))
        assert {view.job for view in world.written.values()} == {9}
        assert world.body()["allowed_agents"][0]["configuration"]["later"] is value


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=20), st.integers(0, 2**32))
def test_a_change_touches_every_view_that_it_changes_and_what_it_revokes_is_urgent(
    drawn: list[Message], seed: int
) -> None:
    projection, now = new_projection(), NOW
    before: dict[ViewId, View] = {}
    for record in schedule(numbered(BASE + drawn), Random(seed)):
        projection.apply(record)
        after = views_of(projection, now)
        dirty = projection.facts.dirty
        # Whether a view is current decides about the job's pointer alone, which is marked apart.
        changed = {id_ for id_, view in after.items() if content(view) != content(before.get(id_))}
        assert changed <= set(dirty)
        urgent = {
            t for u in (WritePriority.ENDS, WritePriority.MAY_REVOKE) for t in dirty._waiting[u]
        }
        lost = {t for t in changed if not allowed(before.get(t)) <= allowed(after[t])}
        assert lost <= urgent
        dirty.clear()
        before = after


def content(view: View | None) -> View | None:
    return view and view._replace(is_current=True)


def allowed(view: View | None) -> set[str]:
    """The agents that the view allows, each with the entry that grants it."""
    if view is None or view.status != 200:
        return set()
    return {orjson.dumps(agent).decode() for agent in orjson.loads(view.body)["allowed_agents"]}


# the order of writes


def test_revocations_are_written_before_what_only_grants() -> None:
    world = World(*HIERARCHY, builders.member(1, group_id=3), builders.agent(5, 7))
    world.take(*(builders.started(job, 7) for job in (9, 10)), builders.started(11, 7, 2))
    feed, projection = world.feed, world.projection
    for message in (
        builders.started(12, 7), builders.member(2, group_id=3), builders.removed("job", 10),
        builders.member(1, "guest", group_id=3),
    ):  # fmt: skip
        projection.apply(feed(message))
    views = builders.take_changes(projection, NOW).views
    assert [view.job for view in views[:1]] == [10]
    assert {view.job for view in views[1:3]} == {9, 12}
    assert [view.job for view in views[3:]] == [11]


def test_a_grant_that_is_new_may_take_away() -> None:
    """It is closer than the agent's own project, and lets fewer jobs in."""
    world = World(
        *HIERARCHY, builders.member(1, group_id=3), builders.agent(5, 7), builders.started(9, 7)
    )
    assert world.agents() == [5]
    filtered = builders.configured(5, projects=[{"id": 7, "environments": ["production"]}])
    world.projection.apply(world.feed(filtered))
    world.projection.apply(world.feed(builders.started(10, 7)))
    first, second = builders.take_changes(world.projection, NOW).views
    assert (first.job, orjson.loads(first.body)["allowed_agents"]) == (9, [])
    assert second.job == 10


# the cost of an event


GROUP, PROJECT, OTHER, AGENT = 2, 1_000_001, 1_000_002, 2_000_000
SIZES = (10, 1000, 100_000)


def filled(projects: int) -> World:
    """A namespace of any size with seven live jobs: five in PROJECT, two in OTHER."""
    world = World(
        builders.group(1), builders.group(GROUP, 1), builders.group(3, 1), builders.group(4, 1)
    )
    facts = world.projection.facts
    for key, entity in _bystanders(projects):
        _ = list(facts.put(key, Fact(0, NOW, None, entity)))
    world.take(
        builders.member(1, group_id=1),
        builders.project(PROJECT, GROUP), builders.project(OTHER, 3),
        builders.agent(AGENT, OTHER), builders.agent(AGENT + 1, PROJECT),
        *(builders.started(job, PROJECT) for job in range(1, 6)),
        *(builders.started(job, OTHER, 2) for job in (6, 7)),
    )  # fmt: skip
    return world


def _bystanders(projects: int) -> Iterable[tuple[Key, entities.Entity]]:
    """In the busy project's own group, with members, agents and grants of their own."""
    for number in range(10, 10 + projects):
        project = fact_keys.project_key(builders.ROOT, number)
        yield project, entities.Project(GROUP, f"acme/{number}")
        if number % 10 == 0:
            grant = {"id": f"acme/{number + 1}"}
            yield fact_keys.agent_key(builders.ROOT, number), entities.Agent("a", number)
            yield (
                fact_keys.configuration_key(builders.ROOT, number),
                entities.Configuration(projects=[grant], groups=[]),
            )
            yield fact_keys.member_key(project, number, "direct"), entities.Member(30)


class Steps:
    """Counts the bytecodes that are executed meanwhile: the same on every machine."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> "Steps":
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.count += event == "opcode"
        return self._trace


def configured(agent: int, projects: list[Any], groups: list[Any]) -> Message:
    config = {"ci_access": {"projects": projects, "groups": groups}}
    return builders.event("agent.configured", {"id": agent, "config": config})


SHARED = {"id": 9, "name": "shared", "project_id": 3, "configuration": {}}


COSTLY: dict[str, tuple[Message, set[int]]] = {
    "a member of the project": (builders.member(1, "owner", project_id=PROJECT), {1, 2, 3, 4, 5}),
    "a member of its group": (builders.member(1, "owner", group_id=GROUP), {1, 2, 3, 4, 5}),
    "a member of the root group": (builders.member(2, group_id=1), {6, 7}),
    "a user": (builders.user(2), {6, 7}),
    "an own agent": (builders.agent(AGENT + 2, PROJECT), {1, 2, 3, 4, 5}),
    "a grant to the project": (configured(AGENT, [{"id": PROJECT}], []), {1, 2, 3, 4, 5}),
    "a grant to its group": (
        configured(AGENT, [{"id": PROJECT}], [{"id": GROUP}]),
        {1, 2, 3, 4, 5},
    ),
    "a grant to the other project alone is new": (
        configured(AGENT, [{"id": PROJECT}], [{"id": GROUP}, {"id": 3}]),
        {6, 7},
    ),
    "the granted agent's configuration project": (
        builders.removed("project", OTHER),
        set(range(1, 8)),
    ),
    "the same, back again": (builders.project(OTHER, 3), set(range(1, 8))),
    "the group moved": (builders.group(GROUP, 4), {1, 2, 3, 4, 5}),
    "the project moved": (builders.project(PROJECT, 4), {1, 2, 3, 4, 5}),
    "a project without jobs moved": (builders.project(11, 4), set()),
    "a shared agent": (
        builders.shared_agent(AGENT + 3, 99, projects=[{"id": PROJECT}]),
        {1, 2, 3, 4, 5},
    ),
    "the same, from another project": (
        builders.shared_agent(AGENT + 3, 98, projects=[{"id": PROJECT}]),
        {1, 2, 3, 4, 5},
    ),
    "the same, renamed, and shared with more": (
        builders.shared_agent(AGENT + 3, 98, projects=[{"id": PROJECT}, {"id": OTHER}]),
        {6, 7},
    ),
    "the shared agent itself": (builders.agent(AGENT + 3, 11), set(range(1, 8))),
    "the same, removed": (builders.removed("agent", AGENT + 3), set(range(1, 8))),
    "the end of its sharing": (builders.removed("shared-agent", AGENT + 3), set(range(1, 8))),
    "an agent of the instance": (builders.event("instance-agent.set", SHARED), set(range(1, 8))),
    "a job started": (builders.started(8, PROJECT), {8}),
    "a job finished": (builders.removed("job", 1), {1}),
}


def test_the_cost_of_an_event_depends_on_the_views_that_it_changes() -> None:
    """Not on the size of the namespace: these have 10, 1,000 and 100,000 projects."""
    worlds = {size: filled(size) for size in SIZES}
    for what, (message, jobs) in COSTLY.items():
        steps = {size: _steps(world, message, jobs, what) for size, world in worlds.items()}
        # Python 3.14 counts fewer for the smallest. A cost of the size would be 10,000 times.
        assert max(steps.values()) <= 2 * min(steps.values()), (what, steps)


def _steps(world: World, message: Message, jobs: set[int], what: str) -> int:
    record = world.feed(message)
    with Steps() as steps:
        world.projection.apply(record)
        views = builders.take_changes(world.projection, NOW).views
    assert {view.job for view in views} == jobs, what
    return steps.count
