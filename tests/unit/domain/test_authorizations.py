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


def test_a_grant_of_an_agent_without_a_known_project_does_not_authorize_it() -> None:
    world = World(*HIERARCHY, builders.agent(1, 8), builders.configured(1, projects=[{"id": 7}]))
    facts = world.projection.facts
    assert not authorizations_by_agent(facts, builders.ROOT, 7, [12, 3])
    world.take(builders.project(8, 12))
    assert list(authorizations_by_agent(facts, builders.ROOT, 7, [12, 3])) == [1]
