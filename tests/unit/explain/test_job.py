"""Why a token gets what it gets: always the answer that is served, each reason with its event."""

from random import Random
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projector.domain import decision, entities
from projector.domain.decision import Rule
from projector.domain.fact_keys import Key
from projector.domain.projection import Policy, Projection, compute_view
from projector.events.ci_access import MAX_ENTRIES
from projector.explain import job as explain
from projector.explain.context import Question
from projector.explain.missing_agent import MissingReason
from projector.explain.model import EventRef, ExplainedAgent, Explanation
from tests import builders
from tests.builders import LATER, NOW, digest
from tests.unit.domain.test_projection_properties import (
    BASE,
    EVENTS,
    Message,
    new_projection,
    numbered,
    schedule,
)

AGENTS = range(1, 6)
REASONS = {*Rule, *MissingReason}
PRODUCTION = {"name": "production", "slug": "production", "tier": "production"}


# whatever the world: what is explained is what is served


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.lists(EVENTS, max_size=30), st.integers(0, 2**32))
def test_an_explanation_allows_what_the_view_allows_and_has_a_rule_for_everything_else(
    with_base: bool, drawn: list[Message], seed: int
) -> None:
    projection = new_projection()
    for record in schedule(numbered((BASE if with_base else []) + drawn), Random(seed)):
        projection.apply(record)
    for now in (NOW, NOW + 10_000):
        for token in list(projection.facts.tokens()):
            check(projection, token, now)


def check(projection: Projection, token: str, now: int) -> None:
    facts = projection.facts
    key = facts.job_of_token(token)
    assert key is not None
    view = compute_view(facts, token, 30, now)
    found = explain.explain_job(facts, 0, Question(key, 30, now, digest=token))
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
        asked = explain.explain_job(facts, 0, Question(key, 30, now, number, token)).agent
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


# examples: what exactly is said


COMPANY: list[Message] = [
    builders.group(3, path="acme"),
    builders.group(12, 3, path="acme/platform"),
    builders.project(7, 12, path="acme/platform/shop"),
    builders.project(8, 3, path="acme/web"),
    builders.member(1, "developer", group_id=3),
    builders.agent(5, 7),
    builders.agent(6, 8),
]


class World:
    """Events in Kafka's order; `offset` tells where in its topic one of them stands."""

    def __init__(self, *messages: Message, minimum_level: int = 30) -> None:
        self.projection = Projection(0, Policy(1, minimum_level, 1000))
        self.level = minimum_level
        self.feed = builders.Feed()
        self.places: list[tuple[Message, EventRef]] = []
        for message in messages:
            self.apply(message)

    def apply(self, message: Message) -> None:
        record = self.feed(message, NOW - 1000 + len(self.places))
        self.projection.apply(record)
        time = f"2027-01-15T07:59:59.{len(self.places):03}+00:00"
        self.places.append((message, EventRef(record.topic, 0, record.offset, time)))

    def event(self, message: Message) -> EventRef:
        return next(event for sent, event in reversed(self.places) if sent == message)

    def explain(
        self, agent: int | None = None, job: int = 9, now: int = NOW, token: str | None = None
    ) -> Explanation:
        key = Key(f"3/job/{job}")
        question = Question(key, self.level, now, agent, token and digest(token))
        return explain.explain_job(self.projection.facts, 0, question)

    def agent(self, number: int) -> ExplainedAgent:
        found = self.explain(number).agent
        assert found is not None
        return found


def only_for(patterns: Any) -> Message:
    configured: Message = builders.configured(6, groups=[{"id": 12, "environments": patterns}])
    return configured


STARTED = builders.started(9, 7)
IN_PRODUCTION = builders.started(9, 7, environment=PRODUCTION)
UNREADABLE = {"id": "acme", "access_as": {}}

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
]


@pytest.mark.parametrize(
    ("more", "rule", "says"), [e[1:] for e in EXAMPLES], ids=[e[0] for e in EXAMPLES]
)
def test_what_is_said_of_the_projects_own_agent(
    more: list[Message], rule: str | None, says: str
) -> None:
    found = World(*COMPANY, *more).explain(5)
    assert found.sentence == says
    assert found.agent is not None
    assert found.agent.rule == rule
    assert found.agent.verdict == ("refused" if rule else "allowed")


GRANTED = "the agent's configuration grants it to group 12 (acme/platform), above project 7"
NOT_KNOWN = "no such agent is known in root namespace 3: no agent.set came for it"
LOOK = "(`projector inspect agent 6` looks everywhere)"
MISSING: list[tuple[str, list[Message], str | None, str]] = [
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
    ("unknown", [builders.removed("agent", 6)], "agent_removed", "it was removed"),
    (
        "unreadable",
        [builders.configured(6, groups=[UNREADABLE])],
        "entry_unreadable",
        "its entry `ci_access.groups[0]` does not count: "
        "`access_as` must name exactly one of agent, ci_job, impersonate",
    ),
    (
        "unreadable for the instance",
        [builders.removed("agent", 6), builders.shared(6, 99, {"access_as": {}})],
        "entry_unreadable",
        "its configuration for the whole instance does not count: "
        "`access_as` must name exactly one of agent, ci_job, impersonate",
    ),
    (
        "configuration project removed",
        [builders.configured(6, groups=[{"id": 12}]), builders.removed("project", 8)],
        "config_project_unknown",
        "its configuration project 8 was removed, so none of its grants count",
    ),
    (
        "configuration project unknown",
        [builders.configured(6, groups=[{"id": 12}]), builders.agent(6, 88)],
        "config_project_unknown",
        "its configuration project 88 is not known in root namespace 3, "
        "so none of its grants count",
    ),
    (
        "not configured",
        [],
        "not_granted",
        "it is configured in project 8, not in 7, and no configuration that grants it came",
    ),
    (
        "granted to others",
        [builders.configured(6, groups=[{"id": 13}])],
        "not_granted",
        "it is configured in project 8, and its configuration grants neither project 7 "
        "nor a group above it",
    ),
    (
        "too many entries",
        [builders.configured(6, groups=[{"id": 13}] * MAX_ENTRIES + [{"id": 12}])],
        "not_granted",
        "it is configured in project 8, and its configuration grants neither project 7 "
        "nor a group above it; only the first 500 entries of a list count",
    ),
]


@pytest.mark.parametrize(
    ("more", "rule", "says"), [e[1:] for e in MISSING], ids=[e[0] for e in MISSING]
)
def test_what_is_said_of_another_projects_agent(
    more: list[Message], rule: str | None, says: str
) -> None:
    started = [] if IN_PRODUCTION in more else [STARTED]
    found = World(*COMPANY, *started, *more).agent(6)
    assert (found.rule, found.sentence) == (rule, says)


def test_an_agent_that_never_came_is_told_from_one_that_only_its_configuration_came_for() -> None:
    world = World(*COMPANY, STARTED)
    assert world.agent(99).sentence == f"{NOT_KNOWN} {LOOK.replace('6', '99')}"
    world.apply(builders.configured(99, groups=[{"id": 12}]))
    assert world.agent(99).rule == "agent_unknown"
    assert "though its configuration did" in world.agent(99).sentence


def test_an_agent_of_another_root_namespace_in_the_same_partition_is_said_to_be_there() -> None:
    world = World(*COMPANY, STARTED, builders.agent(50, 400, root="40"))
    assert world.agent(50).rule == "agent_elsewhere"
    assert world.agent(50).sentence == (
        "it belongs to root namespace 40 and the job to 3; "
        "agents reach only jobs of their own root namespace"
    )


def test_an_agent_that_is_not_granted_shows_what_it_does_grant_and_how_much_more() -> None:
    world = World(*COMPANY, STARTED)
    world.apply(
        builders.configured(6, projects=[{"id": "acme/X"}], groups=[{"id": 13}, UNREADABLE])
    )
    assert (world.agent(6).grants, world.agent(6).more_grants) == (
        ["project acme/x", "group 13"],
        0,
    )
    world.apply(builders.configured(6, groups=[{"id": n} for n in range(100, 130)]))
    assert (len(world.agent(6).grants), world.agent(6).more_grants) == (20, 10)


# the events behind it


def test_every_part_names_the_event_that_last_changed_it() -> None:
    configured = builders.configured(6, groups=[{"id": 12}])
    user = builders.user(1)
    world = World(*COMPANY, user, STARTED, configured)
    found = world.explain(6)
    group_3, group_12, project_7, project_8, member, _, agent_6 = COMPANY
    assert found.job is not None
    assert found.job.event == world.event(STARTED)
    assert found.project is not None
    assert found.project.event == world.event(project_7)
    assert [g.event for g in found.groups] == [world.event(group_12), world.event(group_3)]
    assert found.user is not None
    assert found.user.event == world.event(user)
    assert found.role is not None
    assert [m.event for m in found.role.memberships] == [world.event(member)]
    assert found.agent is not None
    assert found.agent.event == world.event(agent_6)
    assert found.agent.configuration_event == world.event(configured)
    assert found.agent.config_project_event == world.event(project_8)
    world.apply(agent_6)
    assert world.agent(6).event == world.event(agent_6)
    assert world.agent(6).event != found.agent.event


def test_the_end_of_a_job_and_the_removal_of_an_agent_name_their_events() -> None:
    finished, removed = builders.removed("job", 9), builders.removed("agent", 6)
    world = World(*COMPANY, STARTED, removed)
    assert world.agent(6).event == world.event(removed)
    world.apply(finished)
    found = world.explain()
    assert found.job is not None
    assert found.job.event == world.event(finished)
    assert found.sentence == "Job 9 gets 401: the job has finished"


def test_a_token_that_a_later_start_replaced_is_told_from_the_jobs_own() -> None:
    again = builders.started(9, 7, token="second")
    world = World(*COMPANY, STARTED, again)
    former = world.explain(token="token-9")
    assert (former.status, former.rule) == (401, "token_replaced")
    assert former.sentence == (
        "Job 9 gets 401: this token ended when the job started again with another one"
    )
    assert former.job is not None
    assert former.job.event == world.event(again)
    assert world.explain().status == 200
    finished = builders.removed("job", 9)
    world.apply(finished)
    former, current = world.explain(token="token-9"), world.explain()
    assert former.job is not None
    assert current.job is not None
    assert (former.job.event, current.job.event) == (world.event(again), world.event(finished))


# roles and ways


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


def test_the_closest_way_decides_and_those_that_lost_say_what_they_would_have_said() -> None:
    near = {"id": 7, "environments": ["review/*"]}
    far = {"id": 3, "protected_branches_only": True}
    world = World(
        *COMPANY, STARTED, builders.configured(5, projects=[near], groups=[{"id": 12}, far]),
        builders.shared(5, 99),
    )  # fmt: skip
    found = world.agent(5)
    assert (found.verdict, found.rule, found.source) == (
        "refused", "environments", "project_grant",
    )  # fmt: skip
    assert [(way.source, way.group, way.rule) for way in found.lost] == [
        ("own_project", None, None),
        ("group_grant", 12, None),
        ("group_grant", 3, "protected_branches_only"),
        ("instance", None, None),
    ]
    assert found.lost[0].sentence == "it is configured in project 7, the job's own"
    assert found.configuration == {"environments": ["review/*"]}


def test_entries_that_do_not_count_are_named_beside_the_one_that_wins() -> None:
    entries = [{"id": "acme/PLATFORM", "access_as": {}}, {"id": 3}]
    world = World(*COMPANY, STARTED, builders.configured(6, groups=entries))
    found = world.agent(6)
    assert (found.verdict, found.group) == ("allowed", 3)
    assert [s.split(":")[0] for s in found.left_out] == [
        "its entry `ci_access.groups[0]` does not count"
    ]


# bounds


def test_what_is_listed_is_bounded_and_says_how_much_more_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(explain, "MAX_AGENTS", 1)
    monkeypatch.setattr(explain, "MAX_MEMBERSHIPS", 1)
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


def test_an_entry_too_large_to_show_is_left_out_and_nothing_else() -> None:
    large = {"id": 12, "default_namespace": "n" * 20_000}
    found = World(*COMPANY, STARTED, builders.configured(6, groups=[large])).agent(6)
    assert (found.verdict, found.configuration) == ("allowed", None)


def test_the_answer_counts_agents_where_none_was_asked_for() -> None:
    world = World(*COMPANY, STARTED)
    assert world.explain().sentence == "Job 9 may use 1 of the 1 agent that reaches its project"
    world.apply(builders.removed("agent", 5))
    assert world.explain().sentence == "Job 9 may use no agent: none reaches its project"


def test_a_job_that_the_facts_do_not_know_is_an_error() -> None:
    with pytest.raises(KeyError):
        World(*COMPANY).explain()


def test_levels_without_a_name_are_numbers() -> None:
    world = World(*COMPANY, builders.member(1, 33, group_id=3), STARTED)
    role = world.explain().role
    assert role is not None
    assert role.role == "level 33"


def test_every_rule_of_the_rules_is_among_the_examples() -> None:
    told = {rule for _, _, rule, _ in EXAMPLES + MISSING}
    told |= {"token_replaced", "agent_unknown", "agent_elsewhere", None}
    assert told == {*Rule, *MissingReason, None}
    assert entities.TOPIC_OF_KIND.keys() == entities.ENTITY_KINDS.keys()
    assert decision.FINAL_RULES
