"""Agents that are authorized for a project, before any filter.

GitLab: app/finders/clusters/agents/authorizations/ci_access/finder.rb. The most specific
authorization is effective: of the project, of the project's own agents, of the nearest group, of
the instance.
"""

from collections.abc import Iterator
from enum import StrEnum
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

from projector.domain import fact_keys
from projector.domain.fact_index import FactIndex
from projector.domain.fact_keys import Root
from projector.events.ci_access import Grant, unreadable_reason


class AuthorizationSource(StrEnum):
    """The sources of authorizations, the most specific first."""

    PROJECT_GRANT = "project_grant"
    OWN_PROJECT = "own_project"
    GROUP_GRANT = "group_grant"
    INSTANCE = "instance"


class AgentAuthorization(NamedTuple):
    """One authorization of an agent for a project; `group` is the one that a grant names.

    `configuration` is the entry of the grant without its `id`; `{}` for the project's own agents.
    """

    agent: int
    source: AuthorizationSource
    config_project: int
    configuration: dict[str, Any]
    group: int | None = None


def authorizations_by_agent(
    facts: FactIndex, root: Root, project: int, groups: list[int]
) -> dict[int, list[AgentAuthorization]]:
    """Return every authorized agent in the answer's order, with its effective authorization first.

    `groups` are the ids of the groups above the project, nearest first.
    """
    found: dict[int, list[AgentAuthorization]] = {}
    for authorization in chain(
        _project_authorizations(facts, root, project),
        _implicit_authorizations(facts, root, project),
        _group_authorizations(facts, root, groups),
        _instance_authorizations(facts),
    ):
        found.setdefault(authorization.agent, []).append(authorization)
    return found


def _project_authorizations(
    facts: FactIndex, root: Root, project: int
) -> Iterator[AgentAuthorization]:
    return _granted(facts, root, facts.grants(fact_keys.project_key(root, project)))


def _implicit_authorizations(
    facts: FactIndex, root: Root, project: int
) -> Iterator[AgentAuthorization]:
    for agent in facts.agents_of_project(root, project):
        yield AgentAuthorization(agent, AuthorizationSource.OWN_PROJECT, project, {})


def _group_authorizations(
    facts: FactIndex, root: Root, groups: list[int]
) -> list[AgentAuthorization]:
    """By agent, and for each agent the nearest group first."""
    grants = ((group, facts.grants(fact_keys.group_key(root, group))) for group in groups)
    granted = (_granted(facts, root, grant, group) for group, grant in grants)
    return sorted(chain.from_iterable(granted), key=attrgetter("agent"))


def _instance_authorizations(facts: FactIndex) -> Iterator[AgentAuthorization]:
    for number, agent in facts.instance_agents():
        if unreadable_reason(agent.configuration) is None:
            configuration = {k: v for k, v in agent.configuration.items() if k != "id"}
            yield AgentAuthorization(
                number, AuthorizationSource.INSTANCE, agent.project, configuration
            )


def _granted(
    facts: FactIndex, root: Root, grants: dict[int, Grant], group: int | None = None
) -> Iterator[AgentAuthorization]:
    """Only of agents whose configuration project is known in the same root namespace."""
    source = AuthorizationSource.PROJECT_GRANT if group is None else AuthorizationSource.GROUP_GRANT
    for number in sorted(grants):
        agent = facts.agent(root, number)
        if agent and facts.project(root, agent.project):
            yield AgentAuthorization(
                number, source, agent.project, grants[number].configuration, group
            )
