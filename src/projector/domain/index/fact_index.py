"""The changes of one partition's facts: they keep the indexes, and mark the views they affect."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Final

from projector.domain import fact_keys
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
)
from projector.domain.fact_keys import Key
from projector.domain.facts import AnyFact, is_same_json
from projector.domain.index.affected_jobs import AffectedJobs, write_priority
from projector.domain.index.dirty_views import DirtyViews, WritePriority
from projector.domain.index.fact_lookups import FactLookups
from projector.domain.views import ViewId, view_id

# Views that are marked in one step, of some 0.5 ms.
STEP: Final = 1000
# A change that may revoke more views than this is named. Fewer are written in some 25 ms.
BULK: Final = 1000
# The kinds that decide a user's role, and those that decide which agents a project has.
ROLE_KINDS: Final = ("member", "user")
SCOPE_KINDS: Final = (
    "group", "project", "agent", "configuration", "shared-agent", "instance-agent",
)  # fmt: skip


class FactIndex(FactLookups):
    """All facts of one partition, by key and by what refers to them.

    The indexes keep the cost of a change at what it affects, however large the namespace. Every
    change adds the ids of the views that may be outdated to `dirty`.

    A checkpoint and a history are taken in before any view exists: by `load` and `replace`, which
    index only what later events ask for. `settle` then indexes the rest, each fact once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dirty = DirtyViews()
        # Each rises with every change of a fact of `SCOPE_KINDS` or `ROLE_KINDS`.
        self.scope_version = 0
        self.role_version = 0
        self._affected_jobs = AffectedJobs(
            self._facts.unpacked, self._live_jobs, self._grants, self._agents_of_project
        )

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
