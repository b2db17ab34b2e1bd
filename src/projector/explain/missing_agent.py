"""Reasons why an agent is not authorized for a job's project."""

from collections.abc import Iterator
from enum import StrEnum
from itertools import chain, islice
from typing import Final, NamedTuple

from projector.domain import fact_keys
from projector.domain.authorizations import AgentAuthorization, AuthorizationSource
from projector.domain.entities import Agent, Configuration, InstanceAgent, SharedAgent
from projector.domain.fact_keys import Key, Root
from projector.domain.index.fact_index import FactIndex
from projector.events import ci_access
from projector.events.ci_access import MAX_ENTRIES, MAX_REJECTIONS_SHOWN

MAX_GRANTS: Final = 20
Granting = Configuration | SharedAgent


class MissingReason(StrEnum):
    """A reason that an agent is not a candidate; public, like `decision.Rule`."""

    AGENT_UNKNOWN = "agent_unknown"
    AGENT_REMOVED = "agent_removed"
    AGENT_ELSEWHERE = "agent_elsewhere"
    CONFIG_PROJECT_UNKNOWN = "config_project_unknown"
    ENTRY_UNREADABLE = "entry_unreadable"
    NOT_GRANTED = "not_granted"


class MissingAgent(NamedTuple):
    """The reasons that an agent is not authorized for a project, and the grants of its file."""

    rule: MissingReason
    sentence: str
    grants: list[str]
    more_grants: int


class KnownAgent(NamedTuple):
    """The key of an agent's fact, and its name and project if the agent is known."""

    key: Key
    name: str | None
    config_project: int | None


def find_agent(
    facts: FactIndex, root: Root, agent: int, effective: AgentAuthorization | None
) -> KnownAgent:
    """Return the agent of the authorization; without one, that of the root namespace or shared."""
    key = _authorized_key(root, effective) if effective else _known_key(facts, root, agent)
    fact = facts.get(key)
    if fact and isinstance(fact.data, Agent | SharedAgent | InstanceAgent):
        return KnownAgent(key, fact.data.name, fact.data.project)
    return KnownAgent(key, None, None)


def granting_key(facts: FactIndex, root: Root, agent: int) -> Key:
    """Return the key of what may grant the agent: its configuration, or its shared-agent."""
    if facts.shared_agent(root, agent) and not facts.agent(root, agent):
        return fact_keys.shared_agent_key(root, agent)
    return fact_keys.configuration_key(root, agent)


def ignored_grant(facts: FactIndex, root: Root, agent: int, scopes: list[Key]) -> str | None:
    """Return why a grant of the agent's shared-agent to one of the scopes does not count."""
    if facts.agent(root, agent) and any(agent in facts.shared_grants(scope) for scope in scopes):
        return (
            "its shared-agent.set does not count, because the agent itself is known in root "
            f"namespace {root}"
        )
    return None


def find_missing_agent(facts: FactIndex, root: Root, agent: int, scopes: list[Key]) -> MissingAgent:
    """Find why the agent is not authorized; `scopes` are the project, then the groups above it."""
    granted = _grants(_granting(facts, root, agent))
    shown = granted[:MAX_GRANTS]
    rule, sentence = _reason(facts, root, agent, scopes)
    return MissingAgent(rule, sentence, shown, len(granted) - len(shown))


def rejected_entries(facts: FactIndex, root: Root, agent: int, scopes: list[Key]) -> list[str]:
    """Return why KAS cannot read each entry that names one of the scopes and is rejected."""
    return list(islice(_rejected(facts, root, agent, scopes), MAX_REJECTIONS_SHOWN))


def _keys(root: Root, agent: int) -> tuple[Key, ...]:
    """The keys under which an agent may be known, the one of its own root namespace first."""
    return (
        fact_keys.agent_key(root, agent),
        fact_keys.shared_agent_key(root, agent),
        fact_keys.instance_agent_key(agent),
    )


def _known_key(facts: FactIndex, root: Root, agent: int) -> Key:
    """Return the first key of an agent that is there, else of one that was removed."""
    keys = _keys(root, agent)
    there = (key for key in keys if (fact := facts.get(key)) and fact.data is not None)
    removed = (key for key in keys if facts.get(key))
    return next(chain(there, removed), keys[0])


def _authorized_key(root: Root, authorization: AgentAuthorization) -> Key:
    own, shared, of_instance = _keys(root, authorization.agent)
    if authorization.source == AuthorizationSource.INSTANCE:
        return of_instance
    return shared if authorization.is_shared else own


def _reason(
    facts: FactIndex, root: Root, agent: int, scopes: list[Key]
) -> tuple[MissingReason, str]:
    known = facts.agent(root, agent)
    unreadable = rejected_entries(facts, root, agent, scopes)
    if known is None:
        if unreadable:
            return MissingReason.ENTRY_UNREADABLE, unreadable[0]
        if shared := facts.shared_agent(root, agent):
            where = f"it is configured in project {shared.project} of another root namespace"
            refused = _names_none(scopes, shared)
            return MissingReason.NOT_GRANTED, f"{where}, and its shared-agent.set {refused}"
        return _unknown(facts, root, agent)
    if any(agent in facts.grants(scope) for scope in scopes):
        return MissingReason.CONFIG_PROJECT_UNKNOWN, _without_project(facts, root, known)
    if unreadable:
        return MissingReason.ENTRY_UNREADABLE, unreadable[0]
    return MissingReason.NOT_GRANTED, _not_granted(facts, root, agent, known, scopes)


def _unknown(facts: FactIndex, root: Root, agent: int) -> tuple[MissingReason, str]:
    if roots := _other_roots(facts, root, agent):
        other = " and ".join(roots)
        return (
            MissingReason.AGENT_ELSEWHERE,
            f"it belongs to root namespace {other} and the job to {root}, where no "
            "shared-agent.set shares it",
        )
    removed = [key for key in _keys(root, agent) if facts.is_removed(key)]
    if removed:
        is_shared = removed[0] == fact_keys.shared_agent_key(root, agent)
        ended = f"it is no longer shared with root namespace {root}"
        return MissingReason.AGENT_REMOVED, ended if is_shared else "it was removed"
    configured = " though its configuration did" if _granting(facts, root, agent) else ""
    return (
        MissingReason.AGENT_UNKNOWN,
        f"no such agent is known in root namespace {root}: no agent.set came for it{configured} "
        f"(`projector inspect agent {agent}` looks everywhere)",
    )


def _other_roots(facts: FactIndex, root: Root, agent: int) -> list[str]:
    """The other root namespaces of this partition that have the agent."""
    roots = {fact_keys.root_of(key) for key, fact in facts.items() if fact.data is not None}
    return sorted(other for other in roots - {root, "*"} if facts.agent(other, agent))


def _without_project(facts: FactIndex, root: Root, agent: Agent) -> str:
    removed = facts.is_removed(fact_keys.project_key(root, agent.project))
    state = "was removed" if removed else f"is not known in root namespace {root}"
    return f"its configuration project {agent.project} {state}, so none of its grants count"


def _not_granted(facts: FactIndex, root: Root, agent: int, known: Agent, scopes: list[Key]) -> str:
    project = fact_keys.id_of(scopes[0])
    configured = f"it is configured in project {known.project}"
    configuration = _granting(facts, root, agent)
    if configuration is None:
        return f"{configured}, not in {project}, and no configuration that grants it came"
    return f"{configured}, and its configuration {_names_none(scopes, configuration)}"


def _names_none(scopes: list[Key], granting: Granting) -> str:
    project = fact_keys.id_of(scopes[0])
    target = f"project {project}" if len(scopes) == 1 else f"project {project} nor a group above it"
    verb = "does not grant" if len(scopes) == 1 else "grants neither"
    cut = any(len(entries) >= MAX_ENTRIES for entries in (granting.projects, granting.groups))
    limit = f"; only the first {MAX_ENTRIES} entries of a list count" if cut else ""
    return f"{verb} {target}{limit}"


def _granting(facts: FactIndex, root: Root, agent: int) -> Granting | None:
    fact = facts.get(granting_key(facts, root, agent))
    return fact.data if fact and isinstance(fact.data, Configuration | SharedAgent) else None


def _grants(granting: Granting | None) -> list[str]:
    """The grants that count, as `project acme/shop` or `group 12`."""
    if granting is None:
        return []
    lists = (("project", granting.projects), ("group", granting.groups))
    return [
        f"{kind} {grant.target}"
        for kind, entries in lists
        for grant in ci_access.read_grants(entries)
    ]


def _rejected(facts: FactIndex, root: Root, agent: int, scopes: list[Key]) -> Iterator[str]:
    if granting := _granting(facts, root, agent):
        targets = {target for scope in scopes for target in _targets(facts, scope)}
        for kind, entries in (("project", granting.projects), ("group", granting.groups)):
            for position, entry in enumerate(entries):
                if _target(root, kind, entry) in targets and (
                    reason := ci_access.rejection_reason(entry)
                ):
                    yield f"its entry `ci_access.{kind}s[{position}]` does not count: {reason}"
    fact = facts.get(fact_keys.instance_agent_key(agent))
    shared = fact.data if fact else None
    if isinstance(shared, InstanceAgent) and (
        reason := ci_access.unreadable_reason(shared.configuration)
    ):
        yield f"its configuration for the whole instance does not count: {reason}"


def _targets(facts: FactIndex, scope: Key) -> Iterator[Key]:
    """The keys that a grant to the project or group may have: of its id, and of its path."""
    yield scope
    fact = facts.get(scope)
    path = getattr(fact.data, "path", None) if fact else None
    if path is not None:
        yield fact_keys.path_of(scope, path)


def _target(root: Root, kind: str, entry: ci_access.Entry) -> Key | None:
    target = entry.get("id")
    if isinstance(target, str):
        return fact_keys.target_key(root, kind, target.lower())
    return fact_keys.target_key(root, kind, target) if type(target) is int else None
