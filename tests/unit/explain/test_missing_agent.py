"""Why an agent is not authorized for a project: the sentence of each reason."""

import pytest

from projector.events.ci_access import MAX_ENTRIES
from projector.explain.missing_agent import MissingReason
from tests import builders
from tests.builders import Message
from tests.unit.explain.world import COMPANY, IN_PRODUCTION, STARTED, UNREADABLE, World

NOT_KNOWN = "no such agent is known in root namespace 3: no agent.set came for it"
LOOK = "(`projector inspect agent 6` looks everywhere)"


MISSING: list[tuple[str, list[Message], str | None, str]] = [
    ("unknown", [builders.removed("agent", 6)], "agent_removed", "it was removed"),
    (
        "unreadable",
        [builders.configured(6, groups=[UNREADABLE])],
        "entry_unreadable",
        "its entry `ci_access.groups[0]` does not count: "
        "`access_as` must name exactly one of agent, ci_job, impersonate",
    ),
    (
        "no longer shared",
        [
            builders.removed("agent", 6),
            builders.shared_agent(6, 400, groups=[{"id": 3}]),
            builders.removed("shared-agent", 6),
        ],
        "agent_removed",
        "it was removed",
    ),
    (
        "unreadable where it is shared",
        [builders.removed("agent", 6), builders.shared_agent(6, 400, groups=[UNREADABLE])],
        "entry_unreadable",
        "its entry `ci_access.groups[0]` does not count: "
        "`access_as` must name exactly one of agent, ci_job, impersonate",
    ),
    (
        "shared with others",
        [builders.removed("agent", 6), builders.shared_agent(6, 400, groups=[{"id": 13}])],
        "not_granted",
        "it is configured in project 400 of another root namespace, and its shared-agent.set "
        "grants neither project 7 nor a group above it",
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
    ("more", "rule", "sentence"), [e[1:] for e in MISSING], ids=[e[0] for e in MISSING]
)
def test_what_is_said_of_another_projects_agent(
    more: list[Message], rule: str | None, sentence: str
) -> None:
    started = [] if IN_PRODUCTION in more else [STARTED]
    found = World(*COMPANY, *started, *more).agent(6)
    assert (found.rule, found.sentence) == (rule, sentence)


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
        "it belongs to root namespace 40 and the job to 3, where no shared-agent.set shares it"
    )


def test_an_agent_that_was_only_shared_is_not_called_removed() -> None:
    shared = builders.shared_agent(50, 400, projects=[{"id": 7}])
    found = World(*COMPANY, STARTED, shared, builders.removed("shared-agent", 50)).agent(50)
    assert (found.rule, found.sentence) == (
        "agent_removed", "it is no longer shared with root namespace 3",
    )  # fmt: skip


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
    world.apply(builders.shared_agent(50, 400, projects=[{"id": "acme/X"}]))
    assert (world.agent(50).name, world.agent(50).grants) == ("a50", ["project acme/x"])


def test_every_reason_is_among_the_examples() -> None:
    covered = {rule for _, _, rule, _ in MISSING} | {"agent_unknown", "agent_elsewhere"}
    assert covered == {*MissingReason}
