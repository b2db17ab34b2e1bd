"""Look-ups of one partition's facts, by key and by what refers to them."""

from collections.abc import Collection, Iterable, Iterator
from itertools import chain, islice
from typing import Final, TypeVar, cast

from projector.domain import fact_keys, group_chain
from projector.domain.entities import (
    Agent,
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
from projector.domain.facts import AnyFact
from projector.domain.index.fact_table import FactTable
from projector.domain.index.grant_index import GrantIndex
from projector.domain.index.live_job_index import LiveJobIndex
from projector.domain.index.membership_index import MembershipIndex
from projector.domain.index.multimap import Multimap
from projector.domain.views import ViewId
from projector.events.ci_access import Grant

T = TypeVar("T", bound=Entity)

# Jobs that are looked at in one step.
STEP: Final = 1000


class FactLookups:
    """All facts of one partition, and the indexes over them; `FactIndex` changes them."""

    def __init__(self) -> None:
        self._facts = FactTable()
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

    def __len__(self) -> int:
        return len(self._facts)

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
