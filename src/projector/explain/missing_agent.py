"""Why an agent does not reach a job's project, and what is known about it all the same."""

from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from typing import Final, NamedTuple

from projector.domain import fact_keys
from projector.domain.authorizations import AgentAuthorization, AuthorizationSource
from projector.domain.entities import Agent, Configuration, InstanceAgent
from projector.domain.fact_index import FactIndex
from projector.domain.fact_keys import Key, Root
from projector.events import ci_access as grants
from projector.events.ci_access import MAX_REJECTIONS_SHOWN, MAX_ENTRIES

MAX_GRANTS: Final = 20


class MissingReason(StrEnum):
    """Why an agent is no candidate. Public, beside `rules.Rule`: what refuses an agent."""

    AGENT_UNKNOWN = "agent_unknown"
    AGENT_REMOVED = "agent_removed"
    AGENT_ELSEWHERE = "agent_elsewhere"
    CONFIG_PROJECT_UNKNOWN = "config_project_unknown"
    ENTRY_UNREADABLE = "entry_unreadable"
    NOT_GRANTED = "not_granted"


class MissingAgent(NamedTuple):
    """Why an agent does not reach a project, and what its file grants instead."""

    rule: MissingReason
    sentence: str
    grants: list[str]
    more_grants: int


class About(NamedTuple):
    """What is known of an agent, also of one that is no candidate; `key` is that of its fact."""

    key: Key
    name: str | None
    config_project: int | None


def about(facts: FactIndex, root: Root, agent: int, way: AgentAuthorization | None) -> About:
    """The agent that the way is of; without one as the root namespace knows it, else shared."""
    shared, own = fact_keys.instance_agent_key(agent), fact_keys.agent_key(root, agent)
    of_instance = way.source == AuthorizationSource.INSTANCE if way else facts.get(own) is None
    key = shared if of_instance and facts.get(shared) else own
    fact = facts.get(key)
    if fact and isinstance(fact.data, Agent | InstanceAgent):
        return About(key, fact.data.name, fact.data.project)
    return About(key, None, None)


def find_missing_agent(facts: FactIndex, root: Root, agent: int, place: list[Key]) -> MissingAgent:
    """Why the agent does not reach the job; `place` is its project, then the groups above it."""
    granted = _grants(_configuration(facts, root, agent))
    shown = granted[:MAX_GRANTS]
    rule, sentence = _reason(facts, root, agent, place)
    return MissingAgent(rule, sentence, shown, len(granted) - len(shown))


def rejected_entries(facts: FactIndex, root: Root, agent: int, place: list[Key]) -> list[str]:
    """The entries that name the place and do not count, as KAS cannot read them: why, each."""
    return list(islice(_left_out(facts, root, agent, place), MAX_REJECTIONS_SHOWN))


def _reason(
    facts: FactIndex, root: Root, agent: int, place: list[Key]
) -> tuple[MissingReason, str]:
    known = facts.agent(root, agent)
    unreadable = rejected_entries(facts, root, agent, place)
    if known is None:
        if unreadable:
            return MissingReason.ENTRY_UNREADABLE, unreadable[0]
        return _not_there(facts, root, agent)
    if any(agent in facts.grants(scope) for scope in place):
        return MissingReason.CONFIG_PROJECT_UNKNOWN, _without_project(facts, root, known)
    if unreadable:
        return MissingReason.ENTRY_UNREADABLE, unreadable[0]
    return MissingReason.NOT_GRANTED, _not_granted(facts, root, agent, known, place)


def _not_there(facts: FactIndex, root: Root, agent: int) -> tuple[MissingReason, str]:
    if roots := _elsewhere(facts, root, agent):
        there = " and ".join(roots)
        return (
            MissingReason.AGENT_ELSEWHERE,
            f"it belongs to root namespace {there} and the job to {root}; agents reach only jobs "
            "of their own root namespace",
        )
    keys = (fact_keys.agent_key(root, agent), fact_keys.instance_agent_key(agent))
    if any(facts.is_removed(key) for key in keys):
        return MissingReason.AGENT_REMOVED, "it was removed"
    configured = " though its configuration did" if _configuration(facts, root, agent) else ""
    return (
        MissingReason.AGENT_UNKNOWN,
        f"no such agent is known in root namespace {root}: no agent.set came for it{configured} "
        f"(`projector inspect agent {agent}` looks everywhere)",
    )


def _elsewhere(facts: FactIndex, root: Root, agent: int) -> list[str]:
    """Other root namespaces of this partition that know the agent."""
    roots = {fact_keys.root_of(key) for key, fact in facts.items() if fact.data is not None}
    return sorted(other for other in roots - {root, "*"} if facts.agent(other, agent))


def _without_project(facts: FactIndex, root: Root, agent: Agent) -> str:
    removed = facts.is_removed(fact_keys.project_key(root, agent.project))
    what = "was removed" if removed else f"is not known in root namespace {root}"
    return f"its configuration project {agent.project} {what}, so none of its grants count"


def _not_granted(facts: FactIndex, root: Root, agent: int, known: Agent, place: list[Key]) -> str:
    project = fact_keys.id_of(place[0])
    where = f"it is configured in project {known.project}"
    configuration = _configuration(facts, root, agent)
    if configuration is None:
        return f"{where}, not in {project}, and no configuration that grants it came"
    target = f"project {project}" if len(place) == 1 else f"project {project} nor a group above it"
    verb = "does not grant" if len(place) == 1 else "grants neither"
    lists = (configuration.projects, configuration.groups)
    cut = any(len(entries) >= MAX_ENTRIES for entries in lists)
    limit = f"; only the first {MAX_ENTRIES} entries of a list count" if cut else ""
    return f"{where}, and its configuration {verb} {target}{limit}"


def _configuration(facts: FactIndex, root: Root, agent: int) -> Configuration | None:
    fact = facts.get(fact_keys.configuration_key(root, agent))
    return fact.data if fact and isinstance(fact.data, Configuration) else None


def _grants(configuration: Configuration | None) -> list[str]:
    """`project acme/shop`, `group 12`: what counts of the agent's file, by name."""
    if configuration is None:
        return []
    lists = (("project", configuration.projects), ("group", configuration.groups))
    return [
        f"{kind} {grant.target}" for kind, entries in lists for grant in grants.read_grants(entries)
    ]


def _left_out(facts: FactIndex, root: Root, agent: int, place: list[Key]) -> Iterator[str]:
    if configuration := _configuration(facts, root, agent):
        targets = {target for scope in place for target in _names(facts, scope)}
        for kind, entries in (("project", configuration.projects), ("group", configuration.groups)):
            for position, entry in enumerate(entries):
                if _target(root, kind, entry) in targets and (
                    why := grants.rejection_reason(entry)
                ):
                    yield f"its entry `ci_access.{kind}s[{position}]` does not count: {why}"
    fact = facts.get(fact_keys.instance_agent_key(agent))
    shared = fact.data if fact else None
    if isinstance(shared, InstanceAgent) and (
        why := grants.unreadable_reason(shared.configuration)
    ):
        yield f"its configuration for the whole instance does not count: {why}"


def _names(facts: FactIndex, scope: Key) -> Iterator[Key]:
    """What a grant to the project or group may name: its id, and its path."""
    yield scope
    fact = facts.get(scope)
    path = getattr(fact.data, "path", None) if fact else None
    if path is not None:
        yield fact_keys.path_of(scope, path)


def _target(root: Root, kind: str, entry: grants.Entry) -> Key | None:
    target = entry.get("id")
    if isinstance(target, str):
        return fact_keys.target_key(root, kind, target.lower())
    return fact_keys.target_key(root, kind, target) if type(target) is int else None
