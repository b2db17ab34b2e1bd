"""The latest of everything in one partition, and which tokens a change to it touches."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Final, TypeVar, cast

import msgspec

from projector.domain import fact_keys
from projector.domain.dirty_tokens import DirtyTokens, WritePriority
from projector.domain.entities import (
    Agent,
    Configuration,
    EndedToken,
    Entity,
    Group,
    InstanceAgent,
    Job,
    Member,
    Project,
    User,
)
from projector.domain.fact_keys import Key, Root, group_key, project_key
from projector.domain.facts import AnyFact, decode_fact, decode_member
from projector.domain.membership_index import MembershipIndex
from projector.events import ci_access as grants
from projector.events.ci_access import Grant

T = TypeVar("T", bound=Entity)
K = TypeVar("K")
V = TypeVar("V")
Scope = Group | Project


# What tells a user's standing, and what tells which agents reach a project.
ROLE_KINDS: Final = ("member", "user")
SCOPE_KINDS: Final = ("group", "project", "agent", "configuration", "instance-agent")

# GitLab allows 20 levels of groups; a bound keeps hostile chains from costing quadratic time.
MAX_DEPTH: Final = 100


class FactIndex:
    """All facts of one partition.

    The indexes keep the cost of a change at what it touches, however large the namespace. Every
    change adds to `touched` the tokens (SHA-256 digests) whose view may be another now.
    """

    def __init__(self) -> None:
        self._facts: dict[Key, AnyFact] = {}
        self.dirty = DirtyTokens()
        # What several views may depend on: each rises with every change of the one or the other.
        self.scope_version = 0
        self.role_version = 0
        # Of jobs that have started and neither finished nor expired.
        self.live_tokens = 0
        self._members = MembershipIndex()
        self._agents_of_project: defaultdict[Key, set[int]] = defaultdict(set)
        # The known projects and groups by path, and what agents' configurations grant to each
        # project or group, by its key or its path, and by agent.
        self._by_path: defaultdict[Key, set[Key]] = defaultdict(set)
        self._grants: defaultdict[Key, dict[int, Grant]] = defaultdict(dict)
        self._instance_agents: set[int] = set()
        self._job_of_token: dict[str, Key] = {}
        # Live jobs only, by the project and by the user that they run for.
        self._jobs_of_project: defaultdict[Key, set[Key]] = defaultdict(set)
        self._jobs_of_user: defaultdict[int, set[Key]] = defaultdict(set)
        # Projects with live jobs, under every group of their chain, known or not.
        self._busy_projects: defaultdict[Key, set[Key]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._facts)

    def items(self) -> Iterable[tuple[Key, AnyFact]]:
        """Every fact with its key."""
        return self._facts.items()

    def get(self, key: Key) -> AnyFact | None:
        """The fact under `key`, also of a removed thing."""
        return self._facts.get(key)

    def put(self, key: Key, fact: AnyFact) -> None:
        """Take `fact` as the newest state of `key`."""
        before = self._data(key)
        if key in self._facts and _same(before, fact.data):
            self._facts[key] = fact
            return
        urgency = _urgency(before, fact.data)
        projects = self._hanging_on(key)
        self._mark_dependents(key, before, fact.data, urgency)
        self._unlink(projects)
        self._unindex(key, before)
        self._facts[key] = fact
        self._index(key, fact.data)
        self._link(projects)
        self._mark_dependents(key, fact.data, before, urgency)
        self._note_name(before, fact.data)
        self._note_version(key)

    def load(self, fields: Mapping[Key, bytes]) -> Iterator[tuple[Key, AnyFact]]:
        """Take a part of a checkpoint while no view depends on any fact, in steps of one fact.

        Parts may come in any order, and repeat what came before; `settle` must follow the last.
        Yields those facts that time alone may change.
        """
        yield from self._load_members(
            {k: raw for k, raw in fields.items() if fact_keys.MEMBER in k}
        )
        for key in [key for key in fields if fact_keys.MEMBER not in key]:
            if key not in self._facts:
                fact = self._facts[key] = decode_fact(key, fields[key])
                self._index(key, fact.data)
                yield key, fact

    def _load_members(self, fields: Mapping[Key, bytes]) -> Iterator[tuple[Key, AnyFact]]:
        """Nearly all facts are memberships: these pass through as few lines as may be."""
        found = list(map(decode_member, fields.values()))
        self._facts.update(zip(fields, found, strict=True))
        mortal = [
            (key, fact)
            for key, fact in zip(fields, found, strict=True)
            if fact.data is None or fact.data.expires_at is not None
        ]
        gone = [key for key, fact in mortal if fact.data is None]
        self._members.add(fields.keys() - gone if gone else fields)
        yield from mortal

    def settle(self) -> Iterator[None]:
        """Find all groups above the jobs that were loaded, in steps of one project."""
        self.scope_version += 1
        for project in list(self._jobs_of_project):
            self._link([project])
            yield

    def is_needed(self, key: Key) -> bool:
        """Whether a view still depends on the thing being removed: a live job's project."""
        return self.is_removed(key) and key in self._jobs_of_project

    def forget(self, key: Key) -> None:
        """Drop the fact altogether; only of things that no view depends on any more."""
        self._unindex(key, self._data(key))
        del self._facts[key]
        self._note_version(key)

    def expire_job(self, key: Key) -> None:
        """The job's `expires_at` has passed: changes no longer touch it."""
        if job := self.job(key):
            self._unindex_live(key, job)

    def mark_dependents(self, key: Key) -> None:
        """Mark the tokens that depend on `key`, whose meaning changed with time alone."""
        self._mark_dependents(key, self._data(key), None, WritePriority.MAY_REVOKE)

    # what is known

    def group(self, root: Root, group: int) -> Group | None:
        """The group, if it is known in this root namespace."""
        return self._known(Group, group_key(root, group))

    def project(self, root: Root, project: int) -> Project | None:
        """The project, if it is known in this root namespace."""
        return self._known(Project, project_key(root, project))

    def user(self, user: int) -> User | None:
        """The user, if a `user.set` came."""
        return self._known(User, fact_keys.user_key(user))

    def job(self, key: Key) -> Job | None:
        """The job, if it has started."""
        fact = self._facts.get(key)
        job = fact.data if fact else None
        return job if isinstance(job, Job) else None

    def ended_token(self, root: Root, digest: str) -> EndedToken | None:
        """The token, if it ended before its job."""
        return self._known(EndedToken, fact_keys.token_key(root, digest))

    def is_removed(self, key: Key) -> bool:
        """Whether the thing was known and is gone."""
        fact = self._facts.get(key)
        return fact is not None and fact.data is None

    def agents_of_project(self, root: Root, project: int) -> list[int]:
        """The ids of the agents that the project configures, ascending."""
        return sorted(self._agents_of_project.get(project_key(root, project), ()))

    def agent(self, root: Root, agent: int) -> Agent | None:
        """The agent, if it is known in this root namespace."""
        return self._known(Agent, fact_keys.agent_key(root, agent))

    def grants(self, scope: Key) -> dict[int, Grant]:
        """What agents' configurations grant to exactly this project or group, by agent."""
        found = dict(self._grants.get(scope, {}))
        data = cast(Group | Project | None, self._data(scope))
        by_path = self._grants.get(fact_keys.path_of(scope, data.path), {}) if data else {}
        for agent, grant in by_path.items():
            found[agent] = max(grant, found.get(agent, grant), key=lambda g: g.position)
        return found

    def instance_agents(self) -> list[tuple[int, InstanceAgent]]:
        """The agents shared with the whole instance, by id."""
        keys = (
            (agent, fact_keys.instance_agent_key(agent)) for agent in sorted(self._instance_agents)
        )
        return [(agent, cast(InstanceAgent, self._data(key))) for agent, key in keys]

    def memberships(self, scope: Key, user: int) -> list[tuple[Key, Member]]:
        """The user's memberships in exactly this group or project, with their keys."""
        keys = self._members.of(scope, user)
        return [(key, cast(Member, self._facts[key].data)) for key in keys]

    def membership_keys(self, scope: Key) -> list[Key]:
        """The keys of everybody's memberships in exactly this group or project."""
        return self._members.within(scope)

    def chain(self, root: Root, group: int | None) -> tuple[list[int], bool]:
        """The ids of the group and all above it, nearest first, and whether all are known.

        A chain that runs in a circle, or deeper than any GitLab allows, counts as not known.
        """
        ids: dict[int, None] = {}
        while group is not None and group not in ids and len(ids) < MAX_DEPTH:
            ids[group] = None
            known = self.group(root, group)
            if known is None:
                return list(ids), False
            group = known.parent
        return list(ids), group is None

    def is_in_circle(self, root: Root, group: int) -> bool:
        """Whether the group is above itself."""
        ids, complete = self.chain(root, group)
        last = self.group(root, ids[-1])
        return not complete and last is not None and last.parent == group

    def job_of_token(self, digest: str) -> Key | None:
        """The job that the token belongs or belonged to."""
        return self._job_of_token.get(digest)

    def tokens(self) -> Iterable[str]:
        """The digests of all tokens, live and ended."""
        return self._job_of_token.keys()

    def _known(self, kind: type[T], key: Key) -> T | None:
        data = self._data(key)
        return data if isinstance(data, kind) else None

    def _data(self, key: Key) -> Entity | None:
        fact = self._facts.get(key)
        return fact.data if fact else None

    # what depends on what

    def _mark_dependents(
        self, key: Key, data: Entity | None, other: Entity | None, urgency: WritePriority
    ) -> None:
        """Touch what depends on `data`, as far as it is not the same with `other`."""
        if isinstance(data, Job):
            self.dirty.add([data.digest], urgency)
        elif isinstance(data, EndedToken):
            self.dirty.add([fact_keys.name_of(key)], urgency)
        else:
            jobs = self._dependents(key, data, other)
            self.dirty.add((cast(Job, self._facts[job].data).digest for job in jobs), urgency)

    def _note_name(self, before: Entity | None, after: Entity | None) -> None:
        if isinstance(after, Job) and _name(before) != _name(after):
            self.dirty.mark_job_key(after.digest)

    def _note_version(self, key: Key) -> None:
        kind = fact_keys.kind_of(key)
        self.role_version += kind in ROLE_KINDS
        self.scope_version += kind in SCOPE_KINDS

    def _dependents(self, key: Key, data: Entity | None, other: Entity | None) -> Iterable[Key]:
        """The live jobs whose view may be another with `other` in place of `data`."""
        match fact_keys.kind_of(key):
            case "group" | "project":
                return self._jobs_of_scope(key, cast(Scope | None, data), cast(Scope | None, other))
            case "member":
                return self._jobs_of_member(*fact_keys.membership_of(key))
            case "user":
                return self._jobs_of_user.get(fact_keys.id_of(key), ())
            case "agent":
                return self._jobs_of_agent(key, cast(Agent | None, data), cast(Agent | None, other))
            case "configuration":
                return self._jobs_of_configuration(key, data, other)
            case "instance-agent":
                return chain.from_iterable(self._jobs_of_project.values())
        return ()

    def _jobs_of_scope(self, key: Key, data: Scope | None, other: Scope | None) -> Iterable[Key]:
        if data is None or other is None:
            return chain(self._jobs_in(key), self._jobs_of_agents_of(key))
        same_place = _parent(data) == _parent(other)
        paths = (fact_keys.path_of(key, scope.path) for scope in (data, other))
        if same_place and not any(path in self._grants for path in paths):
            return ()
        return self._jobs_in(key)

    def _jobs_in(self, scope: Key) -> Iterable[Key]:
        """The live jobs in a project, or in all projects below a group."""
        if scope in self._jobs_of_project:
            return self._jobs_of_project[scope]
        projects = self._busy_projects.get(scope, ())
        return [job for project in projects for job in self._jobs_of_project[project]]

    def _jobs_of_agents_of(self, project: Key) -> Iterable[Key]:
        """The live jobs that the agents which the project configures are granted to."""
        for agent in self._agents_of_project.get(project, ()):
            key = fact_keys.configuration_key(fact_keys.root_of(project), agent)
            yield from self._jobs_of_configuration(key, self._data(key))

    def _jobs_of_agent(self, key: Key, data: Agent | None, other: Agent | None) -> Iterable[Key]:
        if data is None or (other is not None and other.project == data.project):
            return ()
        configuration = fact_keys.configuration_key(fact_keys.root_of(key), fact_keys.id_of(key))
        granted = self._jobs_of_configuration(configuration, self._data(configuration))
        return chain(self._jobs_of_project.get(_project_of(key, data), ()), granted)

    def _jobs_of_configuration(
        self, key: Key, data: Entity | None, other: Entity | None = None
    ) -> Iterable[Key]:
        stays = dict(_granted(key, other))
        for target, grant in dict(_granted(key, data)).items():
            if not _same(grant, stays.get(target)):
                for scope in self._by_path.get(target, ()) or (target,):
                    yield from self._jobs_in(scope)

    def _jobs_of_member(self, scope: Key, user: int) -> list[Key]:
        jobs = ((key, self.job(key)) for key in self._jobs_of_user.get(user, ()))
        return [key for key, job in jobs if job and self._counts_for(scope, _project_of(key, job))]

    def _counts_for(self, scope: Key, project: Key) -> bool:
        return scope == project or project in self._busy_projects.get(scope, ())

    # indexes

    def _index(self, key: Key, data: Entity | None) -> None:
        match data:
            case Member():
                self._members.add([key])
            case Group() | Project():
                self._by_path[fact_keys.path_of(key, data.path)].add(key)
            case Agent():
                self._agents_of_project[_project_of(key, data)].add(fact_keys.id_of(key))
            case Configuration():
                for target, grant in _granted(key, data):
                    self._grants[target][fact_keys.id_of(key)] = grant
            case InstanceAgent():
                self._instance_agents.add(fact_keys.id_of(key))
            case EndedToken():
                self._job_of_token[fact_keys.name_of(key)] = fact_keys.job_key(
                    fact_keys.root_of(key), data.job
                )
            case Job():
                self._job_of_token[data.digest] = key
                if not data.finished:
                    self._index_live(key, data)

    def _unindex(self, key: Key, data: Entity | None) -> None:
        match data:
            case Member():
                self._members.discard(key)
            case Group() | Project():
                _discard(self._by_path, fact_keys.path_of(key, data.path), key)
            case Agent():
                _discard(self._agents_of_project, _project_of(key, data), fact_keys.id_of(key))
            case Configuration():
                for target, _ in _granted(key, data):
                    self._ungrant(target, fact_keys.id_of(key))
            case InstanceAgent():
                self._instance_agents.discard(fact_keys.id_of(key))
            case EndedToken():
                del self._job_of_token[fact_keys.name_of(key)]
            case Job():
                del self._job_of_token[data.digest]
                self._unindex_live(key, data)

    def _ungrant(self, target: Key, agent: int) -> None:
        grants = self._grants.get(target, {})
        grants.pop(agent, None)
        if not grants:
            self._grants.pop(target, None)

    def _index_live(self, key: Key, job: Job) -> None:
        project = _project_of(key, job)
        if project not in self._jobs_of_project:
            self._link([project])
        self._jobs_of_user[job.user].add(key)
        self._jobs_of_project[project].add(key)
        self.live_tokens += 1

    def _unindex_live(self, key: Key, job: Job) -> None:
        project = _project_of(key, job)
        self.live_tokens -= key in self._jobs_of_project.get(project, ())
        _discard(self._jobs_of_user, job.user, key)
        _discard(self._jobs_of_project, project, key)
        if project not in self._jobs_of_project:
            self._unlink([project])

    def _hanging_on(self, key: Key) -> list[Key]:
        """The busy projects whose chain of groups a change of `key` may change."""
        if fact_keys.kind_of(key) == "group":
            return list(self._busy_projects.get(key, ()))
        return [key] if key in self._jobs_of_project else []

    def _link(self, projects: Iterable[Key]) -> None:
        for project in projects:
            for group in self._groups_above(project):
                self._busy_projects[group].add(project)

    def _unlink(self, projects: Iterable[Key]) -> None:
        for project in projects:
            for group in self._groups_above(project):
                _discard(self._busy_projects, group, project)

    def _groups_above(self, key: Key) -> list[Key]:
        root, project = fact_keys.root_of(key), cast(Project | None, self._data(key))
        groups, _ = self.chain(root, project.group if project else None)
        return [group_key(root, group) for group in groups]


def _urgency(before: Entity | None, after: Entity | None) -> WritePriority:
    """What the change may do to views. That it takes nothing away must be certain.

    It is not where an agent's grant is new: the closer way to it wins, and may have more filters.
    """
    if isinstance(after, EndedToken) or (isinstance(after, Job) and after.finished):
        return WritePriority.ENDS
    if before is None and isinstance(after, Job | Member | Group):
        return WritePriority.ONLY_GRANTS
    return WritePriority.MAY_REVOKE


def _name(job: Entity | None) -> tuple[str, int] | None:
    """The token that belongs to the job, and until when."""
    return (job.digest, job.expires_at) if isinstance(job, Job) else None


def _same(one: object, other: object) -> bool:
    """Whether both are the same JSON: to Python alone 0 equals false, to GitLab's rules not."""
    return one == other and msgspec.json.encode(one) == msgspec.json.encode(other)


def _project_of(key: Key, data: Agent | Job) -> Key:
    return project_key(fact_keys.root_of(key), data.project)


def _parent(scope: Scope) -> int | None:
    return scope.parent if isinstance(scope, Group) else scope.group


def _granted(key: Key, data: Entity | None) -> Iterator[tuple[Key, Grant]]:
    """What a configuration grants: the key or the path of each project and group."""
    if not isinstance(data, Configuration):
        return
    root = fact_keys.root_of(key)
    for kind, entries in (("project", data.projects), ("group", data.groups)):
        for grant in grants.read_grants(entries):
            yield fact_keys.target_key(root, kind, grant.target), grant


def _discard(index: dict[K, set[V]], key: K, value: V) -> None:
    """Take `value` out of the index, and the key with its last value: indexes must not grow."""
    values = index.get(key, set())
    values.discard(value)
    if not values:
        index.pop(key, None)
