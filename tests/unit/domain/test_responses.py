"""HTTP bodies: the list field by field, and the texts of refusals."""

from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projector.domain import evaluator, fact_keys, responses
from projector.domain.decision import ViewRules
from projector.domain.projection import Projection, compute_view
from projector.domain.views import ViewId
from projector.events.model import ROLES
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
from tests.unit.domain.world import HIERARCHY, World


def test_the_answer_for_an_agent_of_the_own_project_field_by_field() -> None:
    environment = {"name": "production", "slug": "production", "tier": "production"}
    world = World(
        builders.group(3), builders.group(12, 3), builders.project(123213, 12),
        builders.member(1, "developer", group_id=3), builders.agent(5, 123213),
        builders.started(9, 123213, environment=environment),
    )  # fmt: skip
    assert world.body() == {
        "allowed_agents": [{"id": 5, "config_project": {"id": 123213}, "configuration": {}}],
        "job": {"id": 9},
        "pipeline": {"id": 2009},
        "project": {"id": 123213, "groups": [{"id": 12}, {"id": 3}]},
        "user": {
            "id": 1,
            "username": "root",
            "roles_in_project": ["guest", "planner", "reporter", "developer"],
        },
        "environment": {"slug": "production", "tier": "production"},
    }


def test_a_blocked_user_gets_403_until_active_again() -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.user(1, "blocked"))
    assert world.status() == 403
    assert world.body() == {"message": "403 Forbidden - Your account has been blocked."}
    world.take(builders.user(1))
    assert world.status() == 200
    assert world.body()["user"]["username"] == "u1"


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("deactivated", "deactivated by"),
        ("blocked_pending_approval", "pending"),
        ("new", "blocked"),
    ],
)
def test_every_state_but_active_is_refused_with_gitlabs_text(state: str, text: str) -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.user(1, state))
    assert world.status() == 403
    assert text in world.body()["message"]


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=20), st.integers(0, 2**32))
def test_views_that_share_their_parts_are_those_computed_one_by_one(
    drawn: list[Message], seed: int
) -> None:
    projection, now, dice = new_projection(), NOW, Random(seed)
    for record in schedule(numbered(BASE + drawn), dice):
        projection.apply(record)
        if dice.random() < 0.2:
            now += dice.choice([1000, 6000])
            projection.advance(now)
        for token, view in views_of(projection, now).items():
            assert view == compute_view(projection.facts, token, ViewRules(30), now)
            if view.status == 200:
                assert view.body == plainly(projection, token, now)


def plainly(projection: Projection, token: ViewId, now: int) -> bytes:
    """The body as one encoding of one document, without shared parts."""
    facts, key = projection.facts, projection.facts.job_of_view(token)
    assert key is not None
    job, decision = facts.job(key), evaluator.decide(facts, key, token, ViewRules(30), now)
    assert job is not None
    user, levels = facts.user(job.user), {n: ROLES[n] for n in responses.NAMED_ROLES}
    effective = [c.effective for c in decision.candidates if not c.refused_by]
    document: dict[str, Any] = {
        "allowed_agents": [
            {
                "id": authorization.agent,
                "config_project": {"id": authorization.config_project},
                "configuration": authorization.configuration,
            }
            for authorization in effective
        ],
        "job": {"id": fact_keys.id_of(key)},
        "pipeline": {"id": job.pipeline},
        "project": {"id": job.project, "groups": [{"id": group} for group in decision.groups]},
        "user": {
            "id": job.user,
            "username": user.username if user else job.username,
            "roles_in_project": [n for n, level in levels.items() if level <= decision.level],
        },
    }
    if job.environment:
        document["environment"] = {"slug": job.environment.slug, "tier": job.environment.tier}
    return msgspec.json.encode(document)
