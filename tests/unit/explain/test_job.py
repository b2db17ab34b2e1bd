"""The explanation of a job: always the answer that is served."""

from random import Random
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projector.domain.decision import Rule, ViewRules
from projector.domain.projection import Projection, compute_view
from projector.domain.views import ViewId
from projector.explain.context import Question
from projector.explain.job import explain_job
from projector.explain.missing_agent import MissingReason
from projector.explain.model import ExplainedAgent, Explanation
from tests import builders
from tests.builders import LATER, NOW, Message
from tests.unit.domain.drawn import BASE, EVENTS, new_projection, numbered, schedule
from tests.unit.explain.world import COMPANY, STARTED, World

AGENTS = range(1, 6)
REASONS = {*Rule, *MissingReason}


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.lists(EVENTS, max_size=30), st.integers(0, 2**32))
def test_an_explanation_allows_what_the_view_allows_and_has_a_rule_for_everything_else(
    with_base: bool, drawn: list[Message], seed: int
) -> None:
    projection = new_projection()
    for record in schedule(numbered((BASE if with_base else []) + drawn), Random(seed)):
        projection.apply(record)
    for now in (NOW, NOW + 10_000):
        for token in list(projection.facts.view_ids()):
            check(projection, token, now)


def check(projection: Projection, token: ViewId, now: int) -> None:
    facts = projection.facts
    key = facts.job_of_view(token)
    assert key is not None
    view = compute_view(facts, token, ViewRules(30), now)
    found = explain_job(facts, 0, Question(key, ViewRules(30), now, view_id=token))
    assert found.status == view.status
    assert (found.rule is None) == (found.reason is None) == (view.status == 200)
    document = orjson.loads(view.body) if view.status == 200 else {"allowed_agents": []}
    assert [served(agent) for agent in found.agents if agent.verdict == "allowed"] == document[
        "allowed_agents"
    ]
    for agent in found.agents:
        assert (agent.rule in REASONS) == (agent.verdict == "refused")
    if view.status == 200:
        agree_about_job(found, document)
    listed = {agent.id: agent for agent in found.agents}
    for number in AGENTS:
        asked = explain_job(facts, 0, Question(key, ViewRules(30), now, number, token)).agent
        assert asked is not None
        assert asked.sentence
        if number in listed:
            assert asked == listed[number]
        else:
            assert (asked.verdict, asked.rule in REASONS) == ("refused", True)
            assert found.status not in (200, 403) or asked.rule in {*MissingReason}
    msgspec.json.encode(found)


def served(agent: ExplainedAgent) -> Any:
    return {
        "id": agent.id,
        "config_project": {"id": agent.config_project},
        "configuration": agent.configuration,
    }


def agree_about_job(found: Explanation, document: Any) -> None:
    assert found.job is not None
    assert found.user is not None
    assert found.role is not None
    assert found.project is not None
    assert found.job.id == document["job"]["id"]
    assert found.project.id == document["project"]["id"]
    assert [{"id": group.id} for group in found.groups] == document["project"]["groups"]
    assert found.user.username == document["user"]["username"]
    named = [name for name in document["user"]["roles_in_project"] if name == found.role.role]
    assert bool(named) == (found.role.level > 0)
    deciding = [m.level for m in found.role.memberships if m.decides]
    assert deciding == ([found.role.level] if any(m.counts for m in found.role.memberships) else [])


# roles


def test_the_highest_membership_in_force_decides_and_the_others_are_shown() -> None:
    share = builders.member(
        1, "owner", group_id=12, via="share:4", expires_at="2027-01-15T08:00:00Z"
    )
    own = builders.member(1, "maintainer", project_id=7, expires_at=LATER)
    world = World(*COMPANY, share, own, STARTED)
    role = world.explain().role
    assert role is not None
    assert (role.role, role.level, role.required_role, role.suffices) == (
        "maintainer", 40, "developer", True,
    )  # fmt: skip
    shown = [(m.scope, m.scope_id, m.via, m.role, m.counts, m.decides) for m in role.memberships]
    assert shown == [
        ("project", 7, "direct", "maintainer", True, True),
        ("group", 3, "direct", "developer", True, False),
        ("group", 12, "share:4", "owner", False, False),
    ]
    assert role.memberships[2].expires_at == "2027-01-15T08:00:00.000+00:00"
    assert role.memberships[2].event == world.event(share)


def test_where_all_memberships_have_expired_none_decides() -> None:
    expired = builders.member(1, "owner", group_id=3, expires_at="2027-01-15T08:00:00Z")
    role = World(*COMPANY, expired, STARTED).explain().role
    assert role is not None
    assert (role.role, role.suffices) == ("none", False)
    assert [(m.role, m.counts, m.decides) for m in role.memberships] == [("owner", False, False)]


def test_without_a_minimum_role_nobody_is_refused_for_it() -> None:
    world = World(*COMPANY, builders.started(9, 7, 2), minimum_level=0)
    found = world.explain(5)
    assert found.agent is not None
    assert found.agent.verdict == "allowed"
    assert found.role is not None
    assert (found.role.role, found.role.required_role, found.role.suffices) == (
        "none", "none", True,
    )  # fmt: skip


# bounds


def test_what_is_listed_is_bounded_and_says_how_much_more_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("projector.explain.job.MAX_AGENTS", 1)
    monkeypatch.setattr("projector.explain.job.MAX_MEMBERSHIPS", 1)
    vias = [builders.member(1, "owner", group_id=3, via=f"share:{n}") for n in range(3)]
    world = World(*COMPANY, *vias, builders.agent(4, 7), STARTED)
    found = world.explain(5)
    assert ([a.id for a in found.agents], found.more_agents) == ([4], 1)
    assert found.agent is not None
    assert found.agent.id == 5
    assert found.role is not None
    assert (len(found.role.memberships), found.role.more) == (1, 3)
    assert found.role.memberships[0].decides
    assert world.explain().sentence == "Job 9 may use 2 of the 2 agents that reach its project"


def test_the_answer_counts_agents_where_none_was_asked_for() -> None:
    world = World(*COMPANY, STARTED)
    assert world.explain().sentence == "Job 9 may use 1 of the 1 agent that reaches its project"
    world.apply(builders.removed("agent", 5))
    assert world.explain().sentence == "Job 9 may use no agent: none reaches its project"
