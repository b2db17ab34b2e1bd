"""The live jobs, and the views, that a change of one fact affects."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Final, cast

from projector.domain import fact_keys
from projector.domain.entities import (
    Agent,
    Configuration,
    EndedToken,
    Entity,
    Group,
    Job,
    Member,
    Project,
    SharedAgent,
)
from projector.domain.fact_keys import Key
from projector.domain.facts import AnyFact, is_same_json
from projector.domain.index.dirty_views import WritePriority
from projector.domain.index.grant_index import GrantIndex, granted_targets
from projector.domain.index.live_job_index import LiveJobIndex
from projector.domain.views import ViewId, view_id

Scope = Group | Project
_GRANTING: Final = (Configuration, SharedAgent)


class AffectedJobs:
    """Finds the live jobs whose view depends on one fact.

    The answer holds for the facts as they are. To find all that a change affects, ask before the
    change for the old data and after the change for the new data.
    """

    def __init__(
        self,
        facts: Mapping[Key, AnyFact],
        live_jobs: LiveJobIndex,
        grants: GrantIndex,
        agents_of_project: Mapping[Key, set[int]],
    ) -> None:
        self._facts = facts
        self._live_jobs = live_jobs
        self._grants = grants
        self._agents_of_project = agents_of_project

    def view_ids(self, key: Key, data: Entity | None, other: Entity | None) -> Iterable[ViewId]:
        """Return the ids of views that may differ with `other` in place of `data`."""
        if isinstance(data, Job):
            return [view_id(key, data)]
        if isinstance(data, EndedToken):
            return [ViewId(fact_keys.name_of(key))]
        return self._ids(self.jobs(key, data, other))

    def names(self, key: Key) -> Iterator[str]:
        """Yield what a change of the fact takes something from: views that name one of these.

        A view loses an agent, or its user's role, only to a change of what it has in its body. A
        project that comes or goes also decides about the agents that it configures.
        """
        match fact_keys.kind_of(key):
            case "member":
                _, user = fact_keys.membership_of(key)
                yield f"user:{user}"
            case "group" | "project" | "user" as kind:
                yield f"{kind}:{fact_keys.id_of(key)}"
                for agent in self._agents_of_project.get(key, ()):
                    yield f"agent:{agent}"
            case _:
                yield f"agent:{fact_keys.id_of(key)}"

    def view_ids_in(self, scope: Key) -> Iterator[ViewId]:
        """Return the ids of the views of all live jobs in a project, or below a group."""
        return self._ids(self._live_jobs.in_scope(scope))

    def _ids(self, jobs: Iterable[Key]) -> Iterator[ViewId]:
        return (view_id(job, cast(Job, self._facts[job].data)) for job in jobs)

    def jobs(self, key: Key, data: Entity | None, other: Entity | None) -> Iterable[Key]:
        """Return the live jobs whose view may differ with `other` in place of `data`."""
        match fact_keys.kind_of(key):
            case "group" | "project":
                return self._of_scope(key, cast(Scope | None, data), cast(Scope | None, other))
            case "member":
                return self._of_member(*fact_keys.membership_of(key))
            case "user":
                return self._live_jobs.of_user(fact_keys.id_of(key))
            case "agent":
                return self._of_agent(key, cast(Agent | None, data), cast(Agent | None, other))
            case "configuration":
                return self._of_configuration(key, data, other)
            case "shared-agent":
                return self._of_shared_agent(key, data, other)
            case "instance-agent":
                return self._live_jobs
        return ()

    def _of_scope(self, key: Key, data: Scope | None, other: Scope | None) -> Iterable[Key]:
        """A new or removed scope also decides whether grants of the agents in it count."""
        if data is None or other is None:
            return chain(self._live_jobs.in_scope(key), self._of_agents_in(key))
        has_moved = _parent(data) != _parent(other)
        if has_moved or any(self._grants.names_path(key, scope) for scope in (data, other)):
            return self._live_jobs.in_scope(key)
        return ()

    def _of_agents_in(self, project: Key) -> Iterator[Key]:
        """The live jobs that are granted any agent that the project configures."""
        for agent in self._agents_of_project.get(project, ()):
            yield from self._granted(fact_keys.configuration_key(fact_keys.root_of(project), agent))

    def _of_agent(self, key: Key, data: Agent | None, other: Agent | None) -> Iterable[Key]:
        """An agent's own project, and all that it is granted to; its name affects nothing.

        A new or removed agent also decides whether the grants of its shared-agent count.
        """
        if data is None or (other is not None and other.project == data.project):
            return ()
        root, agent = fact_keys.root_of(key), fact_keys.id_of(key)
        own = self._live_jobs.in_scope(fact_keys.project_key(root, data.project))
        granted = self._granted(fact_keys.configuration_key(root, agent))
        shared = () if other else self._granted(fact_keys.shared_agent_key(root, agent))
        return chain(own, granted, shared)

    def _granted(self, key: Key) -> Iterable[Key]:
        """The live jobs that a configuration, or a shared agent, grants an agent to."""
        fact = self._facts.get(key)
        return self._of_configuration(key, fact.data if fact else None, None)

    def _of_shared_agent(
        self, key: Key, data: Entity | None, other: Entity | None
    ) -> Iterable[Key]:
        """All that it is granted to, if its configuration project is another; else what differs."""
        if isinstance(data, SharedAgent) and isinstance(other, SharedAgent):
            other = other if other.project == data.project else None
        return self._of_configuration(key, data, other)

    def _of_configuration(
        self, key: Key, data: Entity | None, other: Entity | None
    ) -> Iterable[Key]:
        return self._live_jobs.in_scopes(self._changed_scopes(key, data, other))

    def _changed_scopes(self, key: Key, data: Entity | None, other: Entity | None) -> Iterator[Key]:
        """Yield every scope whose grant is not the same in `other`."""
        if not isinstance(data, _GRANTING):
            return
        kept = dict(granted_targets(key, other)) if isinstance(other, _GRANTING) else {}
        for target, grant in dict(granted_targets(key, data)).items():
            if not is_same_json(grant, kept.get(target)):
                yield from self._grants.scopes_of(target)

    def _of_member(self, scope: Key, user: int) -> Iterator[Key]:
        """The live jobs of the user in the project, or below the group, of a membership."""
        for key in self._live_jobs.of_user(user):
            job = cast(Job, self._facts[key].data)
            project = fact_keys.project_key(fact_keys.root_of(key), job.project)
            if self._live_jobs.is_in_scope(project, scope):
                yield key


def write_priority(before: Entity | None, after: Entity | None) -> WritePriority:
    """Return how urgent a change is; only what certainly takes nothing away may wait.

    A new grant to an agent may take away: it is closer than the one that counted, and may have
    more filters.
    """
    if isinstance(after, EndedToken) or (isinstance(after, Job) and after.finished):
        return WritePriority.ENDS
    if before is None and isinstance(after, Job | Member | Group):
        return WritePriority.ONLY_GRANTS
    return WritePriority.MAY_REVOKE


def _parent(scope: Scope) -> int | None:
    return scope.parent if isinstance(scope, Group) else scope.group
