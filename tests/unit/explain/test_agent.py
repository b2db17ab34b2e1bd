"""The explanation of an agent: the effective authorization, and those that lost."""

from tests import builders
from tests.unit.explain.world import COMPANY, STARTED, UNREADABLE, World


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
    assert [(lost.source, lost.group, lost.rule) for lost in found.lost] == [
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


def test_a_shared_agent_is_explained_by_the_event_that_shares_it() -> None:
    shared = builders.shared_agent(
        50, 400, groups=[{"id": 3, "environments": ["a"]}, UNREADABLE | {"id": 12}]
    )
    instance = builders.shared(50, 401)
    world = World(*COMPANY, STARTED, instance, shared, builders.configured(50, groups=[{"id": 3}]))
    found = world.agent(50)
    assert (found.verdict, found.rule, found.source, found.group) == (
        "refused", "environments", "group_grant", 3,
    )  # fmt: skip
    assert found.sentence == (
        "its shared-agent.set grants it to group 3 (acme), above project 7, "
        "but only for the environments a, and the job has none"
    )
    assert (found.name, found.config_project) == ("a50", 400)
    assert found.event == found.configuration_event == world.event(shared)
    assert [lost.source for lost in found.lost] == ["instance"]
    assert [s.split(":")[0] for s in found.left_out] == [
        "its entry `ci_access.groups[1]` does not count"
    ]


def test_a_shared_agent_that_does_not_count_is_named_beside_the_agent_itself() -> None:
    """Both are there for a moment while the agent moves from one root namespace to another."""
    own, shared = builders.agent(6, 8), builders.shared_agent(6, 400, projects=[{"id": 7}])
    configured = builders.configured(6, groups=[{"id": 3}])
    ignored = (
        "its shared-agent.set does not count, because the agent itself is known in root namespace 3"
    )
    world = World(*COMPANY, STARTED, own, shared)
    assert (world.agent(6).rule, world.agent(6).left_out) == ("not_granted", [ignored])
    world.apply(configured)
    found = world.agent(6)
    assert (found.verdict, found.config_project, found.group) == ("allowed", 8, 3)
    assert (found.event, found.configuration_event) == (world.event(own), world.event(configured))
    assert found.left_out == [ignored]
    world.apply(builders.removed("agent", 6))
    found = world.agent(6)
    assert (found.verdict, found.config_project, found.left_out) == ("allowed", 400, [])
    assert found.event == found.configuration_event == world.event(shared)
    assert found.sentence == "its shared-agent.set grants it to project 7"


def test_an_entry_too_large_to_show_is_left_out_and_nothing_else() -> None:
    large = {"id": 12, "default_namespace": "n" * 20_000}
    found = World(*COMPANY, STARTED, builders.configured(6, groups=[large])).agent(6)
    assert (found.verdict, found.configuration) == ("allowed", None)
