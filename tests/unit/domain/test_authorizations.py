"""The order of authorized agents, and which authorization is effective."""

from projector.domain.authorizations import AuthorizationSource, authorizations_by_agent
from tests import builders
from tests.unit.domain.world import HIERARCHY, World


def test_own_agents_come_by_id() -> None:
    agents = [builders.agent(number, 7) for number in (5, 3, 11)]
    world = World(*HIERARCHY, builders.member(1, group_id=3), *agents, builders.started(9, 7))
    assert world.agents() == [3, 5, 11]


def test_the_most_specific_authorization_comes_first_and_agents_follow_it() -> None:
    world = World(
        *HIERARCHY, builders.project(8, 12), *(builders.agent(number, 8) for number in (1, 2, 3)),
        builders.agent(4, 7), builders.shared(4, 8), builders.shared(5, 8),
        builders.configured(1, groups=[{"id": 3}, {"id": 12, "default_namespace": "near"}]),
        builders.configured(2, projects=[{"id": 7}], groups=[{"id": 12}]),
        builders.configured(4, groups=[{"id": 3}]),
    )  # fmt: skip
    found = authorizations_by_agent(world.projection.facts, builders.ROOT, 7, [12, 3])
    by_agent = {agent: [(a.source, a.group) for a in found[agent]] for agent in found}
    source = AuthorizationSource
    assert list(by_agent.items()) == [
        (2, [(source.PROJECT_GRANT, None), (source.GROUP_GRANT, 12)]),
        (4, [(source.OWN_PROJECT, None), (source.GROUP_GRANT, 3), (source.INSTANCE, None)]),
        (1, [(source.GROUP_GRANT, 12), (source.GROUP_GRANT, 3)]),
        (5, [(source.INSTANCE, None)]),
    ]
    assert found[1][0].configuration == {"default_namespace": "near"}


def test_shared_agents_are_authorized_by_their_entries_in_the_order_of_local_ones() -> None:
    world = World(
        *HIERARCHY, builders.project(8, 12), builders.agent(2, 8), builders.agent(4, 8),
        builders.configured(2, projects=[{"id": 7}]), builders.configured(4, groups=[{"id": 3}]),
        builders.shared_agent(1, 99, projects=[{"id": 7}], groups=[{"id": 12}]),
        builders.shared_agent(3, 99, groups=[{"id": 3}, {"id": 12, "default_namespace": "near"}]),
        builders.shared_agent(6, 99, projects=[{"id": 8}]),
        builders.shared(3, 98), builders.shared(6, 98),
    )  # fmt: skip
    found = authorizations_by_agent(world.projection.facts, builders.ROOT, 7, [12, 3])
    by_agent = {agent: [(a.source, a.group, a.is_shared) for a in found[agent]] for agent in found}
    source = AuthorizationSource
    assert list(by_agent.items()) == [
        (1, [(source.PROJECT_GRANT, None, True), (source.GROUP_GRANT, 12, True)]),
        (2, [(source.PROJECT_GRANT, None, False)]),
        (3, [
            (source.GROUP_GRANT, 12, True), (source.GROUP_GRANT, 3, True),
            (source.INSTANCE, None, False),
        ]),
        (4, [(source.GROUP_GRANT, 3, False)]),
        (6, [(source.INSTANCE, None, False)]),
    ]  # fmt: skip
    assert found[3][0] == (3, source.GROUP_GRANT, 99, {"default_namespace": "near"}, 12, True)


def test_a_shared_agent_does_not_count_while_the_agent_itself_is_known() -> None:
    """Whatever the agent's own configuration grants, and whether its project is known."""
    everything = {"projects": [{"id": 7}], "groups": [{"id": 3}]}
    shared = builders.shared_agent(1, 99, **everything)
    world = World(*HIERARCHY, shared, builders.configured(1, groups=[{"id": 12, "mine": 1}]))
    facts = world.projection.facts

    def found() -> list[tuple[int, dict[str, object]]]:
        authorizations = authorizations_by_agent(facts, builders.ROOT, 7, [12, 3]).get(1, [])
        return [(one.config_project, one.configuration) for one in authorizations]

    assert found() == [(99, {}), (99, {})]
    world.take(builders.agent(1, 8))
    assert found() == []
    world.take(builders.project(8, 12))
    assert found() == [(8, {"mine": 1})]
    world.take(builders.configured(1))
    assert found() == []
    world.take(builders.configured(1, **everything), builders.removed("agent", 1))
    assert found() == [(99, {}), (99, {})]
    world.take(builders.removed("shared-agent", 1))
    assert found() == []


def test_a_grant_of_an_agent_without_a_known_project_does_not_authorize_it() -> None:
    world = World(*HIERARCHY, builders.agent(1, 8), builders.configured(1, projects=[{"id": 7}]))
    facts = world.projection.facts
    assert not authorizations_by_agent(facts, builders.ROOT, 7, [12, 3])
    world.take(builders.project(8, 12))
    assert list(authorizations_by_agent(facts, builders.ROOT, 7, [12, 3])) == [1]
