"""The indexes: they follow the facts, hold nothing for ever, and keep changes cheap."""

import sys
from collections.abc import Callable, Iterable, Iterator
from random import Random
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projector.domain import entities, fact_keys
from projector.domain.fact_index import FactIndex
from projector.domain.fact_keys import Key
from projector.domain.facts import Fact, decode_fact
from projector.domain.projection import Policy, Projection
from tests import builders
from tests.builders import NOW
from tests.compat.table import Case, Message, load
from tests.unit.domain.test_projection import RETENTION, World
from tests.unit.domain.test_projection_properties import BASE, new_projection
from tests.unit.domain.test_projection_properties import EVENTS as DRAWN

CASES = load()


def indexes(facts: FactIndex) -> dict[str, Any]:
    parts = (facts, facts._memberships, facts._grants, facts._live_jobs)
    others = {"_facts", "dirty", "scope_version", "role_version", "_affected_jobs"}
    found = {name: index for part in parts for name, index in vars(part).items()}
    return {name: found[name] for name in found if name not in others and found[name] not in parts}


def world_of(case: Case) -> World:
    return World(*case.messages(NOW / 1000))


def ending(key: Key) -> Message | None:
    """The event that takes the thing away, or as much of it as can be."""
    root, kind = fact_keys.root_of(key), fact_keys.kind_of(key)
    root = "1" if root == "*" else root
    match kind:
        case "member":
            scope, user = fact_keys.membership_of(key)
            data = {"user_id": user, "via": key.split("/", 4)[4]}
            data[f"{fact_keys.kind_of(scope)}_id"] = fact_keys.id_of(scope)
            return builders.event("member.removed", data, root)
        case "configuration":
            data = {"id": fact_keys.id_of(key), "config": {}}
            return builders.event("agent.configured", data, root)
        case "user" | "token":
            return None
    return builders.removed(kind, fact_keys.id_of(key), root=root)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_when_all_is_removed_the_indexes_are_empty(case: Case) -> None:
    world = world_of(case)
    facts = world.projection.facts
    endings = [ending(key) for key, fact in facts.items() if fact.data is not None]
    world.take(*filter(None, endings))
    world.at(NOW + 61 * RETENTION)
    assert not any(indexes(facts).values()), indexes(facts)
    assert {fact_keys.kind_of(key) for key, _ in facts.items()} <= {"user", "configuration"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_indexes_are_those_of_the_facts_alone(case: Case) -> None:
    """Whatever happened before: a restored projection has the same."""
    world = world_of(case)
    restored = Projection(0, Policy(1, 30, RETENTION))
    builders.restore(restored, world.projection.fields())
    assert indexes(restored.facts) == indexes(world.projection.facts)


# a checkpoint


@settings(max_examples=200, deadline=None)
@given(st.booleans(), st.lists(DRAWN, max_size=30), st.integers(0, 2**32))
def test_a_checkpoint_loads_in_any_order_as_if_put_one_by_one(
    with_base: bool, drawn: list[Message], seed: int
) -> None:
    """Also in parts that repeat each other, and after some was forgotten or has expired."""
    dice, world, feed = Random(seed), new_projection(), builders.Feed()
    for message in (BASE if with_base else []) + drawn:
        world.apply(feed(message))
    for now in (NOW, NOW + 10_000, NOW + RETENTION, NOW + 61 * RETENTION):
        world.advance(now)
        fields = world.fields()
        loaded, put = new_projection(), new_projection()
        builders.restore(loaded, *_parts(fields, dice))
        for key in dice.sample(list(fields), len(fields)):
            put._put(key, decode_fact(key, fields[key]))
        assert not loaded.facts.dirty
        _assert_alike(loaded, put)
        for each in (loaded, put):
            each.advance(now + 10_000)
        _assert_alike(loaded, put)


def _parts(fields: dict[Key, bytes], dice: Random) -> Iterator[dict[Key, bytes]]:
    keys = dice.sample(list(fields), len(fields))
    while keys:
        size = dice.randint(1, len(keys))
        again = dice.sample(list(fields), dice.randint(0, 3)) if len(fields) > 3 else []
        yield {key: fields[key] for key in [*keys[:size], *again]}
        keys = keys[size:]


def _assert_alike(one: Projection, other: Projection) -> None:
    assert dict(one.facts.items()) == dict(other.facts.items())
    assert indexes(one.facts) == indexes(other.facts)
    assert one._timers._due == other._timers._due


def test_a_membership_may_come_from_anywhere() -> None:
    """`via` is any text: also one that looks like the key around it."""
    vias = ["direct", "x/user:2/y", "/member/", "group:3/user:1/direct"]
    scope = fact_keys.group_key("1", 3)
    world = World(
        *(builders.member(1, group_id=3, via=via, root="1") for via in vias),
        builders.member(1, project_id=3, root="1"),
    )
    loaded = Projection(0, Policy(1, 30, RETENTION))
    builders.restore(loaded, world.projection.fields())
    for facts in (world.projection.facts, loaded.facts):
        assert {fact_keys.via_of(key) for key, _ in facts.memberships(scope, 1)} == {*vias}
        assert sorted(facts.membership_keys(scope)) == sorted(
            fact_keys.member_key(scope, 1, via) for via in vias
        )
    for via in vias[1:]:
        left = {"user_id": 1, "group_id": 3, "via": via}
        world.take(builders.event("member.removed", left, "1"))
    loaded = Projection(0, Policy(1, 30, RETENTION))
    builders.restore(loaded, world.projection.fields())
    assert indexes(loaded.facts) == indexes(world.projection.facts)


# the cost of an event


GROUP, PROJECT, OTHER, AGENT = 2, 1_000_001, 1_000_002, 2_000_000
SIZES = (10, 1000, 100_000)


def filled(projects: int) -> World:
    """A namespace in which seven jobs run, whatever its size: five in PROJECT, two in OTHER."""
    world = World(
        builders.group(1), builders.group(GROUP, 1), builders.group(3, 1), builders.group(4, 1)
    )
    facts = world.projection.facts
    for key, thing in _bystanders(projects):
        facts.put(key, Fact(0, NOW, None, thing))
    world.take(
        builders.project(PROJECT, GROUP), builders.project(OTHER, 3), builders.member(1, group_id=1),
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
EVENTS: dict[str, tuple[Message, set[int]]] = {
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
    "an agent of the instance": (builders.event("instance-agent.set", SHARED), set(range(1, 8))),
    "a job started": (builders.started(8, PROJECT), {8}),
    "a job finished": (builders.removed("job", 1), {1}),
}


def test_the_cost_of_an_event_depends_on_the_views_that_it_changes() -> None:
    """Not on the size of the namespace: these have 10, 1,000 and 100,000 projects."""
    worlds = {size: filled(size) for size in SIZES}
    for what, (message, jobs) in EVENTS.items():
        steps = {size: _steps(world, message, jobs, what) for size, world in worlds.items()}
        assert max(steps.values()) <= 1.1 * min(steps.values()), (what, steps)


def _steps(world: World, message: Message, jobs: set[int], what: str) -> int:
    record = world.feed(message)
    with Steps() as steps:
        world.projection.apply(record)
        views = builders.take_changes(world.projection, NOW).views
    assert {view.job for view in views} == jobs, what
    return steps.count


def test_live_tokens_are_those_of_jobs_that_run() -> None:
    world = World()
    world.take(
        builders.project(7),
        builders.started(9, 7),
        builders.started(10, 7),
        builders.started(11, 7),
    )
    assert world.projection.facts.live_tokens == 3
    world.take(builders.started(10, 8, token="another"), builders.removed("job", 9))
    assert world.projection.facts.live_tokens == 2
    world.take(builders.removed("job", 9), builders.removed("job", 99))
    assert world.projection.facts.live_tokens == 2
    world.at(NOW + 10**10)
    assert world.projection.facts.live_tokens == 0
