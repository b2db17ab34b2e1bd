"""Made-up companies, one in each partition, of the size that a benchmark needs.

Their views have about 1.2 KB: seven agents, each with a namespace and an identity.
"""

import itertools
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
from tests import builders

from projector.domain import entities
from projector.events.model import EVENT_TYPES, KafkaRecord, Topic
from projector.events.partitioning import partition_of

AGENTS: Final = 7
FAR: Final = "2099-01-01T00:00:00Z"
FAR_MS: Final = 4_070_908_800_000
Message = dict[str, Any]


def token(job: int) -> str:
    """Return the token of a job; `lookups.lua` makes the same ones."""
    return f"bench-token-{job}"


def root_in(partition: int, partitions: int) -> int:
    """Return the first root namespace that belongs in the partition."""
    return next(n for n in itertools.count(1) if partition_of(str(n), partitions) == partition)


def topic_of(message: Message) -> Topic:
    """Return the topic of the event."""
    return EVENT_TYPES[message["type"]].topic


def encode(message: Message) -> bytes:
    """Encode the event as a producer sends it."""
    return msgspec.json.encode(message)


def record(message: Message, partition: int, offset: int, timestamp: int) -> KafkaRecord:
    """Return the event as it comes from Kafka; `timestamp` in milliseconds."""
    key = str(message["partitionkey"]).encode()
    return KafkaRecord(topic_of(message), partition, offset, timestamp, key, encode(message))


class Company(NamedTuple):
    """One root namespace: a group with subgroups, projects, agents for all of them, and members."""

    partition: int
    partitions: int
    projects: int = 100
    users: int = 100

    @property
    def root(self) -> int:
        """The id of its top-level group."""
        return root_in(self.partition, self.partitions)

    def base(self) -> Iterator[Message]:
        """Yield all events but those of jobs."""
        yield self._put(builders.group(self.root, path="company"))
        for group in range(1, 11):
            yield self._put(builders.group(self._id(group), self.root, path=f"company/g{group}"))
        for project in range(self.projects):
            path = f"company/g{project % 10 + 1}/p{project}"
            group = self._id(project % 10 + 1)
            yield self._put(builders.project(self._id(project), group, path=path))
        for user in range(self.users):
            yield self.member(user, "developer")
        for agent in range(AGENTS):
            yield self._put(builders.agent(self._id(agent), self._id(0)))
            yield self.configured(agent)

    def configured(self, agent: int, namespace: str = "default") -> Message:
        """Share the agent with the whole company; with an empty `namespace` with no project."""
        entry = {
            "id": "company",
            "default_namespace": namespace,
            "access_as": {"impersonate": {"username": "deployer"}},
        }
        groups = [entry] if namespace else []
        return self._put(builders.configured(self._id(agent), projects=[], groups=groups))

    def member(self, user: int, role: str) -> Message:
        """Return the user's membership of the whole company."""
        return self._put(builders.member(self._id(user), role, group_id=self.root, via="direct"))

    def agent_id(self, agent: int) -> int:
        """Return the id of an agent; 0 is the first."""
        return self._id(agent)

    def started(self, job: int, user: int | None = None) -> Message:
        """Start a job of the next project and, by default, of the next user."""
        who = job % self.users if user is None else user
        return self._put(
            builders.started(
                job, self._id(job % self.projects), self._id(who), token=token(job), expires_at=FAR
            )
        )

    def job(self, job: int) -> entities.Job:
        """Return the same job as a fact."""
        return entities.Job(
            digest=builders.digest(token(job)),
            project=self._id(job % self.projects),
            pipeline=job,
            user=self._id(job % self.users),
            username="root",
            ref_protected=False,
            expires_at=FAR_MS,
        )

    def finished(self, job: int) -> Message:
        """Finish the job."""
        return self._put(builders.removed("job", job))

    def _id(self, number: int) -> int:
        """Return an id of this company alone."""
        return 1_000_000 * (self.partition + 1) + number

    def _put(self, message: Message) -> Message:
        return message | {"partitionkey": str(self.root)}


def companies(partitions: int, projects: int = 100, users: int = 100) -> list[Company]:
    """Return one company for each partition."""
    return [Company(partition, partitions, projects, users) for partition in range(partitions)]
