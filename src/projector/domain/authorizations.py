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
from projector.domain.fact_keys import Key, Root
from projector.domain.index.fact_index import FactIndex
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
    `is_shared` marks the grant of an agent of another root namespace.
    """

    agent: int
    source: AuthorizationSource
    config_project: int
    configuration: dict[str, Any]
    group: int | None = None
    is_shared: bool = False


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


def _project_authorizations(facts: FactIndex, root: Root, project: int) -> list[AgentAuthorization]:
    return _granted(facts, root, fact_keys.project_key(root, project))


def _implicit_authorizations(
    facts: FactIndex, root: Root, project: int
) -> Iterator[AgentAuthorization]:
    for agent in facts.agents_of_project(root, project):
        yield AgentAuthorization(agent, AuthorizationSource.OWN_PROJECT, project, {})


def _group_authorizations(
    facts: FactIndex, root: Root, groups: list[int]
) -> list[AgentAuthorization]:
    """By agent, and for each agent the nearest group first."""
    granted = (_granted(facts, root, fact_keys.group_key(root, group), group) for group in groups)
    return sorted(chain.from_iterable(granted), key=attrgetter("agent"))


def _instance_authorizations(facts: FactIndex) -> Iterator[AgentAuthorization]:
    for number, agent in facts.instance_agents():
        if unreadable_reason(agent.configuration) is None:
            configuration = {k: v for k, v in agent.configuration.items() if k != "id"}
            yield AgentAuthorization(
                number, AuthorizationSource.INSTANCE, agent.project, configuration
            )


def _granted(
    facts: FactIndex, root: Root, scope: Key, group: int | None = None
) -> list[AgentAuthorization]:
    """Of all agents that are granted to exactly this project or group, by agent."""
    source = AuthorizationSource.PROJECT_GRANT if group is None else AuthorizationSource.GROUP_GRANT
    found = list(_local_grants(facts, root, scope, source, group))
    if shared := facts.shared_grants(scope):
        found += _shared_grants(facts, root, shared, source, group)
        found.sort(key=attrgetter("agent"))
    return found


def _local_grants(
    facts: FactIndex, root: Root, scope: Key, source: AuthorizationSource, group: int | None
) -> Iterator[AgentAuthorization]:
    """Only of agents whose configuration project is known in the same root namespace."""
    grants = facts.grants(scope)
    for number in sorted(grants):
        agent = facts.agent(root, number)
        if agent and facts.project(root, agent.project):
            yield AgentAuthorization(
                number, source, agent.project, grants[number].configuration, group
            )


def _shared_grants(
    facts: FactIndex,
    root: Root,
    grants: dict[int, Grant],
    source: AuthorizationSource,
    group: int | None,
) -> Iterator[AgentAuthorization]:
    """Only of agents that are not known in this root namespace themselves.

    An agent that moves may have both for a while. Its own configuration then decides alone.
    """
    for number, grant in grants.items():
        agent = facts.shared_agent(root, number)
        if agent and not facts.agent(root, number):
            yield AgentAuthorization(
                number, source, agent.project, grant.configuration, group, is_shared=True
            )
