"""The sentence of each rule."""

from typing import Any

import pytest

from projector.domain.decision import Rule
from tests import builders
from tests.builders import Message
from tests.unit.explain.world import COMPANY, IN_PRODUCTION, STARTED, World

TOO_LARGE: list[Message] = [
    message
    for agent in range(20, 32)
    for message in (
        builders.agent(agent, 8),
        builders.configured(agent, groups=[{"id": 12, "note": "x" * 100_000}]),
    )
]
EXAMPLES: list[tuple[str, list[Message], str | None, str]] = [
    ("own", [STARTED], None, "Job 9 may use agent 5: it is configured in project 7, the job's own"),
    (
        "role",
        [builders.member(1, "reporter", group_id=3), STARTED],
        "role",
        "Job 9 may not use agent 5: user 1 (root) has only the role reporter in project 7, "
        "where developer is needed",
    ),
    (
        "no role",
        [builders.started(9, 7, 2)],
        "role",
        "Job 9 may not use agent 5: user 2 (root) has no role in project 7, "
        "where developer is needed",
    ),
    (
        "blocked",
        [builders.user(1, "blocked"), STARTED],
        "user_not_active",
        "Job 9 may not use agent 5: user 1 (u1) is not active but blocked",
    ),
    (
        "finished",
        [STARTED, builders.removed("job", 9)],
        "job_finished",
        "Job 9 may not use agent 5: the job has finished",
    ),
    (
        "finished before its start",
        [builders.removed("job", 9)],
        "job_finished",
        "Job 9 may not use agent 5: the job has finished, and its start never came",
    ),
    (
        "expired",
        [builders.started(9, 7, expires_at="2027-01-15T08:00:00Z")],
        "token_expired",
        "Job 9 may not use agent 5: the job's token expired at 2027-01-15T08:00:00.000+00:00",
    ),
    (
        "project removed",
        [STARTED, builders.removed("project", 7)],
        "project_removed",
        "Job 9 may not use agent 5: project 7 was removed",
    ),
    (
        "project unknown",
        [builders.started(9, 99)],
        "project_unknown",
        "Job 9 may not use agent 5: project 99 is not known yet",
    ),
    (
        "group removed",
        [STARTED, builders.removed("group", 3)],
        "group_unknown",
        "Job 9 may not use agent 5: group 3 above project 7 is not known yet",
    ),
    (
        "circle",
        [STARTED, builders.group(3, 12)],
        "groups_in_circle",
        "Job 9 may not use agent 5: the groups above project 7 run in a circle, or are too many",
    ),
    (
        "too large",
        [STARTED, *TOO_LARGE],
        "view_too_large",
        "Job 9 may not use agent 5: the agents of project 7 take more than 1048576 bytes; grant it "
        "fewer, or with smaller configurations",
    ),
]


@pytest.mark.parametrize(
    ("more", "rule", "sentence"), [e[1:] for e in EXAMPLES], ids=[e[0] for e in EXAMPLES]
)
def test_what_is_said_of_the_projects_own_agent(
    more: list[Message], rule: str | None, sentence: str
) -> None:
    found = World(*COMPANY, *more).explain(5)
    assert found.sentence == sentence
    assert found.agent is not None
    assert found.agent.rule == rule
    assert found.agent.verdict == ("refused" if rule else "allowed")


GRANTED = "the agent's configuration grants it to group 12 (acme/platform), above project 7"


def only_for(patterns: Any) -> Message:
    configured: Message = builders.configured(6, groups=[{"id": 12, "environments": patterns}])
    return configured


FILTERED: list[tuple[str, list[Message], str | None, str]] = [
    ("group grant", [builders.configured(6, groups=[{"id": "ACME/platform"}])], None, GRANTED),
    (
        "project grant",
        [builders.configured(6, projects=[{"id": 7}])],
        None,
        "the agent's configuration grants it to project 7",
    ),
    (
        "instance",
        [builders.shared(6, 99)],
        None,
        "it is shared with the whole instance",
    ),
    (
        "environments",
        [only_for(["review/*", "staging"])],
        "environments",
        f"{GRANTED}, but only for the environments review/*, staging, and the job has none",
    ),
    (
        "other environment",
        [only_for(["review/*"]), IN_PRODUCTION],
        "environments",
        f"{GRANTED}, but only for the environments review/*, and the job's is production",
    ),
    (
        "many patterns",
        [only_for([f"p{n}" for n in range(12)])],
        "environments",
        f"{GRANTED}, but only for the environments "
        "p0, p1, p2, p3, p4, p5, p6, p7, p8, p9 and 2 more, and the job has none",
    ),
    (
        "environments no list",
        [only_for("review/*"), IN_PRODUCTION],
        "environments",
        f"{GRANTED}, but its `environments` is not a list, so it allows no job",
    ),
    (
        "protected",
        [builders.configured(6, groups=[{"id": 12, "protected_branches_only": True}])],
        "protected_branches_only",
        f"{GRANTED}, but only for protected refs, and the job's ref is not protected",
    ),
]


@pytest.mark.parametrize(
    ("more", "rule", "sentence"), [e[1:] for e in FILTERED], ids=[e[0] for e in FILTERED]
)
def test_what_is_said_of_a_grant_and_its_filters(
    more: list[Message], rule: str | None, sentence: str
) -> None:
    started = [] if IN_PRODUCTION in more else [STARTED]
    found = World(*COMPANY, *started, *more).agent(6)
    assert (found.rule, found.sentence) == (rule, sentence)


def test_levels_without_a_name_are_numbers() -> None:
    world = World(*COMPANY, builders.member(1, 33, group_id=3), STARTED)
    role = world.explain().role
    assert role is not None
    assert role.role == "level 33"


def test_every_rule_is_among_the_examples() -> None:
    covered = {rule for _, _, rule, _ in EXAMPLES + FILTERED} | {"token_replaced"}
    assert covered == {*Rule, None}
