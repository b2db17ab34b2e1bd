"""All facts of one partition, with look-ups."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Final, TypeVar, cast

from projector.domain import fact_keys, group_chain
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
    SharedAgent,
    User,
)
from projector.domain.fact_keys import Key, Root
from projector.domain.facts import AnyFact, is_same_json
from projector.domain.index.affected_jobs import AffectedJobs, write_priority
from projector.domain.index.dirty_views import DirtyViews, WritePriority
from projector.domain.index.fact_table import FactTable
from projector.domain.index.grant_index import GrantIndex
from projector.domain.index.live_job_index import LiveJobIndex
from projector.domain.index.membership_index import MembershipIndex
from projector.domain.index.multimap import Multimap
from projector.domain.views import ViewId, view_id
from projector.events.ci_access import Grant

T = TypeVar("T", bound=Entity)

# Views that are marked in one step, of some 0.5 ms.
STEP: Final = 1000
# A change that may revoke more views than this is named. Fewer are written in some 25 ms.
BULK: Final = 1000
# The kinds that decide a user's role, and those that decide which agents a project has.
ROLE_KINDS: Final = ("member", "user")
SCOPE_KINDS: Final = (
    "group", "project", "agent", "configuration", "shared-agent", "instance-agent",
)  # fmt: skip


class FactIndex:
    """All facts of one partition, by key and by what refers to them.

    The indexes keep the cost of a change at what it affects, however large the namespace. Every
    change adds the ids of the views that may be outdated to `dirty`.

    A checkpoint and a history are taken in before any view exists: by `load` and `replace`, which
    index only what later events ask for. `settle` then indexes the rest, each fact once.
    """

    def __init__(self) -> None:
        self._facts = FactTable()
        self.dirty = DirtyViews()
        # Each rises with every change of a fact of `SCOPE_KINDS` or `ROLE_KINDS`.
        self.scope_version = 0
        self.role_version = 0
        self._memberships = MembershipIndex()
        self._agents_of_project: Multimap[Key, int] = Multimap()
        self._instance_agents: set[int] = set()
        self._job_of_view: dict[ViewId, Key] = {}
        # The number of jobs without a digest; 0 spares each view a look at them.
        self.without_digest = 0
        self._grants = GrantIndex()
        # Parts share the facts instead of a reference back: without reference cycles, facts that no
        # owner refers to any more are freed at once.
        self._live_jobs = LiveJobIndex(self._facts.unpacked)
        self._affected_jobs = AffectedJobs(
            self._facts.unpacked, self._live_jobs, self._grants, self._agents_of_project
        )

    def __len__(self) -> int:
        return len(self._facts)

    # changes

    def put(self, key: Key, fact: AnyFact) -> Iterable[None]:
        """Store `fact` as the newest state of `key`, and mark the views that it affects.

        The caller takes the returned steps. It may do other work between them, but change no fact
        and compute no view.
        """
        known = self._facts.get(key)
        before, after = known.data if known else None, fact.data
        if known and is_same_json(before, after):
            self.replace(key, fact)
            return ()
        if isinstance(after, Job | EndedToken) or isinstance(before, Job):
            self._put_job(key, before, fact)
            return ()
        return self._put_in_steps(key, before, fact)

    def _put_job(self, key: Key, before: Entity | None, fact: AnyFact) -> None:
        """Store a job or an ended token, which affects no other job."""
        after = fact.data
        if isinstance(after, Job):
            id_ = view_id(key, after)
            is_new = id_ not in self._job_of_view and not after.finished
            if is_new and not self._is_written(key, before):
                self.dirty.mark_new(id_)
            if after.digest and _pointer_fields(before) != _pointer_fields(after):
                self.dirty.mark_pointer(id_)
        ids = chain(
            self._affected_jobs.view_ids(key, before, after),
            self._affected_jobs.view_ids(key, after, before),
        )
        self.dirty.add(ids, write_priority(before, after))
        self._store(key, before, fact)

    def _is_written(self, key: Key, job: Entity | None) -> bool:
        """Whether Redis has the answer under the job's id, from before the job had a digest.

        It is not updated any more, so the view of the digest must not be held back.
        """
        if not isinstance(job, Job) or job.digest:
            return False
        return not self.dirty.is_unwritten(view_id(key, job))

    def _put_in_steps(self, key: Key, before: Entity | None, fact: AnyFact) -> Iterator[None]:
        after = fact.data
        priority = write_priority(before, after)
        linked = self._live_jobs.linked_projects(key)
        yield from self._mark(key, self._affected_jobs.view_ids(key, before, after), priority)
        for project in linked:
            self._live_jobs.unlink([project])
            yield
        self._store(key, before, fact)
        for project in linked:
            self._live_jobs.link([project])
            yield
        yield from self._mark(key, self._affected_jobs.view_ids(key, after, before), priority)

    def _store(self, key: Key, before: Entity | None, fact: AnyFact) -> None:
        self._unindex_for_views(key, before)
        self.replace(key, fact)
        self._index_for_views(key, fact.data)
        self._raise_version(key)

    def _mark(self, key: Key, ids: Iterable[ViewId], priority: WritePriority) -> Iterator[None]:
        """Mark the views that a change of the fact affects, in steps of `STEP`.

        A bulk change is named with the first views beyond `BULK`, long before the last is marked.
        """
        remaining, marked = iter(ids), 0
        while step := list(islice(remaining, STEP)):
            before, marked = marked, marked + len(step)
            if before <= BULK < marked and priority is WritePriority.MAY_REVOKE:
                self.dirty.bulk_names.update(self._affected_jobs.names(key))
            self.dirty.add(step, priority)
            if len(step) == STEP:
                yield

    def replace(self, key: Key, fact: AnyFact) -> None:
        """Store `fact` as the newest state of `key`, without a look at the views it affects.

        Every fact of an event is stored here. Even the same data may be packed before and not after
        it, or the reverse, since the place of a sequence counts; what is packed is in no index.
        """
        if before := self._facts.unpacked.get(key):
            self._unindex_for_events(key, before.data)
        self._facts[key] = fact
        if key in self._facts.unpacked:
            self._index_for_events(key, fact.data)

    def end_membership(self, key: Key, fact: AnyFact) -> None:
        """Store that a membership ended with its group or project; see `mark_scope`."""
        self.replace(key, fact)
        self._raise_version(key)

    def mark_scope(self, scope: Key) -> Iterator[None]:
        """Mark the views of all jobs in a project, or below a group, in steps."""
        ids = self._affected_jobs.view_ids_in(scope)
        yield from self._mark(scope, ids, WritePriority.MAY_REVOKE)

    def drop(self, key: Key) -> None:
        """Delete a fact that no view depends on any more."""
        data = self._data(key)
        self._unindex_for_views(key, data)
        self._unindex_for_events(key, data)
        del self._facts[key]
        self._raise_version(key)

    def expire_job(self, key: Key) -> None:
        """Remove a job whose `expires_at` has passed from the live jobs."""
        if job := self.job(key):
            self._live_jobs.discard(key, job)

    def revive_job(self, key: Key) -> None:
        """Add a job that has not finished to the live jobs again, since time went back."""
        job = self.job(key)
        if job and not job.finished:
            self._live_jobs.add(key, job)

    def mark_affected(self, key: Key) -> Iterator[None]:
        """Mark the views that depend on a fact whose effect time alone has changed, in steps."""
        ids = self._affected_jobs.view_ids(key, self._data(key), None)
        yield from self._mark(key, ids, WritePriority.MAY_REVOKE)

    # a checkpoint, a history

    def load(self, fields: Mapping[bytes, bytes]) -> Iterator[None]:
        """Load a part of a checkpoint, in steps; parts may come in any order and repeat facts."""
        for key, fact in self._facts.load(fields):
            self._index_for_events(key, fact.data)
            yield

    def settle(self) -> Iterator[tuple[Key, AnyFact]]:
        """Index what only views need, in steps of one fact.

        Yields all facts that time alone may change, among others.
        """
        self.scope_version += 1
        self.role_version += 1
        for key, fact in self._facts.unpacked.items():
            self._index_for_views(key, fact.data)
            yield key, fact

    # look-ups

    def items(self) -> Iterable[tuple[Key, AnyFact]]:
        """Return every fact with its key."""
        return self._facts.items()

    def keys(self) -> Iterable[Key]:
        """Return the key of every fact."""
        return self._facts

    def changing_items(self) -> Iterable[tuple[Key, AnyFact]]:
        """Return all facts that time alone may change, among others, with their keys."""
        return self._facts.unpacked.items()

    def get(self, key: Key) -> AnyFact | None:
        """Return the fact under `key`, also of a removed entity."""
        return self._facts.get(key)

    def known_fact(self, key: Key) -> AnyFact:
        """Return the fact under `key`; KeyError without one."""
        return self._facts[key]

    def is_removed(self, key: Key) -> bool:
        """Return whether the entity was known and is removed."""
        fact = self._facts.get(key)
        return fact is not None and fact.data is None

    def is_needed(self, key: Key) -> bool:
        """Return whether a view depends on a removed entity: a live job's project."""
        return self.is_removed(key) and self._live_jobs.is_busy(key)

    @property
    def live_tokens(self) -> int:
        """The number of live jobs."""
        return len(self._live_jobs)

    def group(self, root: Root, group: int) -> Group | None:
        """Return the group, if it is known in this root namespace."""
        return self._known(Group, fact_keys.group_key(root, group))

    def project(self, root: Root, project: int) -> Project | None:
        """Return the project, if it is known in this root namespace."""
        return self._known(Project, fact_keys.project_key(root, project))

    def user(self, user: int) -> User | None:
        """Return the user, if a `user.set` came."""
        return self._known(User, fact_keys.user_key(user))

    def job(self, key: Key) -> Job | None:
        """Return the job, if it has started."""
        fact = self._facts.unpacked.get(key)
        job = fact.data if fact else None
        return job if isinstance(job, Job) else None

    def ended_token(self, root: Root, digest: str) -> EndedToken | None:
        """Return the token, if it ended before its job."""
        return self._known(EndedToken, fact_keys.token_key(root, digest))

    def job_of_view(self, id_: ViewId) -> Key | None:
        """Return the key of the job that the view belongs or belonged to."""
        return self._job_of_view.get(id_)

    def has_job_by_id(self, number: int) -> bool:
        """Return whether a job with this id has no digest, so that its view is under the id."""
        return ViewId(str(number)) in self._job_of_view

    def find_jobs(self, ids: Collection[str], found: list[Key]) -> Iterator[None]:
        """Add the jobs with these ids to `found`, in steps: each takes a look at `STEP` jobs."""
        keys = iter(self._job_of_view.values())
        while step := list(islice(keys, STEP)):
            found += [key for key in step if fact_keys.name_of(key) in ids]
            yield

    def view_ids(self) -> Iterable[ViewId]:
        """Return the ids of all views, of live and of ended tokens."""
        return self._job_of_view.keys()

    def agent(self, root: Root, agent: int) -> Agent | None:
        """Return the agent, if it is known in this root namespace."""
        return self._known(Agent, fact_keys.agent_key(root, agent))

    def shared_agent(self, root: Root, agent: int) -> SharedAgent | None:
        """Return the agent of another root namespace, if it is shared with this one."""
        return self._known(SharedAgent, fact_keys.shared_agent_key(root, agent))

    def agents_of_project(self, root: Root, project: int) -> list[int]:
        """Return the ids of the agents that the project configures, ascending."""
        return sorted(self._agents_of_project.get(fact_keys.project_key(root, project), ()))

    def instance_agents(self) -> list[tuple[int, InstanceAgent]]:
        """Return the agents shared with the whole instance, by id."""
        keys = (
            (agent, fact_keys.instance_agent_key(agent)) for agent in sorted(self._instance_agents)
        )
        return [(agent, cast(InstanceAgent, self._data(key))) for agent, key in keys]

    def grants(self, scope: Key) -> dict[int, Grant]:
        """Return the grants that name exactly this project or group, by agent."""
        return self._grants.of_scope(scope, cast(Group | Project | None, self._data(scope)))

    def shared_grants(self, scope: Key) -> dict[int, Grant]:
        """Return the grants of shared agents that name exactly this project or group, by agent."""
        return self._grants.shared_with(scope, cast(Group | Project | None, self._data(scope)))

    def memberships(self, scope: Key, user: int) -> list[tuple[Key, Member]]:
        """Return the user's memberships in exactly this group or project, with their keys."""
        packed = self._facts.packed.of(scope, user)
        found = [packed] if packed else []
        for key in self._memberships.of(scope, user):
            found.append((key, cast(Member, self._facts[key].data)))
        return found

    def membership_keys(self, scope: Key) -> Iterator[Key]:
        """Yield the keys of all memberships in exactly this group or project."""
        return chain(self._facts.packed.within(scope), self._memberships.within(scope))

    def chain(self, root: Root, group: int | None) -> tuple[list[int], bool]:
        """Return the group and all groups above it, nearest first, and whether all are known."""
        return group_chain.chain(self._facts.unpacked, root, group)

    def is_in_circle(self, root: Root, group: int) -> bool:
        """Return whether the group is above itself."""
        ids, complete = self.chain(root, group)
        last = self.group(root, ids[-1])
        return not complete and last is not None and last.parent == group

    def _known(self, kind: type[T], key: Key) -> T | None:
        data = self._data(key)
        return data if isinstance(data, kind) else None

    def _data(self, key: Key) -> Entity | None:
        fact = self._facts.get(key)
        return fact.data if fact else None

    # indexes

    def _index_for_events(self, key: Key, data: Entity | None) -> None:
        """Index the holders of tokens, and the memberships that end with their scope."""
        match data:
            case Job():
                self._job_of_view[view_id(key, data)] = key
                self.without_digest += data.digest is None
            case Member():
                if key in self._facts.unpacked:
                    self._memberships.add(key)
            case EndedToken():
                job = fact_keys.job_key(fact_keys.root_of(key), data.job)
                self._job_of_view[ViewId(fact_keys.name_of(key))] = job

    def _unindex_for_events(self, key: Key, data: Entity | None) -> None:
        match data:
            case Job():
                del self._job_of_view[view_id(key, data)]
                self.without_digest -= data.digest is None
            case Member():
                if key in self._facts.unpacked:
                    self._memberships.discard(key)
            case EndedToken():
                del self._job_of_view[ViewId(fact_keys.name_of(key))]

    def _index_for_views(self, key: Key, data: Entity | None) -> None:
        match data:
            case Job(finished=False):
                self._live_jobs.add(key, data)
            case Group() | Project():
                self._grants.add_scope(key, data)
            case Agent():
                self._agents_of_project[_project_of(key, data)].add(fact_keys.id_of(key))
            case Configuration() | SharedAgent():
                self._grants.add(key, data)
            case InstanceAgent():
                self._instance_agents.add(fact_keys.id_of(key))

    def _unindex_for_views(self, key: Key, data: Entity | None) -> None:
        match data:
            case Job():
                self._live_jobs.discard(key, data)
            case Group() | Project():
                self._grants.discard_scope(key, data)
            case Agent():
                self._agents_of_project.discard(_project_of(key, data), fact_keys.id_of(key))
            case Configuration() | SharedAgent():
                self._grants.discard(key, data)
            case InstanceAgent():
                self._instance_agents.discard(fact_keys.id_of(key))

    def _raise_version(self, key: Key) -> None:
        kind = fact_keys.kind_of(key)
        self.role_version += kind in ROLE_KINDS
        self.scope_version += kind in SCOPE_KINDS


def _project_of(key: Key, agent: Agent) -> Key:
    return fact_keys.project_key(fact_keys.root_of(key), agent.project)


def _pointer_fields(job: Entity | None) -> tuple[str | None, int] | None:
    """Return the content of a job's pointer in Redis, its digest, and its expiry."""
    return (job.digest, job.expires_at) if isinstance(job, Job) else None
