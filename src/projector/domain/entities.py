"""Entities: groups, projects, members, users, agents, configurations, jobs, ended tokens."""

import sys
from typing import Any, Final

from msgspec import UNSET, Struct, UnsetType, structs, to_builtins

from projector.events import model
from projector.events.model import Topic


class Group(Struct, frozen=True, gc=False):
    """A group; `parent` is None at the top."""

    parent: int | None
    path: str


class Project(Struct, frozen=True, gc=False):
    """A project; `group` is None in a user namespace."""

    group: int | None
    path: str


class Member(Struct, frozen=True, omit_defaults=True, gc=False):
    """One membership of a user; `expires_at` in milliseconds, None for never."""

    level: int
    expires_at: int | None = None

    def is_in_force(self, now: int) -> bool:
        """Return whether the membership counts at `now` (milliseconds)."""
        return self.expires_at is None or now < self.expires_at


class User(Struct, frozen=True, gc=False):
    """A user; only the state `active` gets a list of agents."""

    username: str
    state: str


class Agent(Struct, frozen=True, gc=False):
    """A cluster agent and the project that configures it."""

    name: str
    project: int


class Configuration(Struct, frozen=True, gc=False):
    """The grants of an agent's configuration file, entry by entry, as written."""

    projects: list[dict[str, Any]]
    groups: list[dict[str, Any]]


class SharedAgent(Struct, frozen=True, gc=False):
    """An agent of another root namespace, and its grants in this one, as in `Configuration`."""

    name: str
    project: int
    projects: list[dict[str, Any]]
    groups: list[dict[str, Any]]


class InstanceAgent(Struct, frozen=True, gc=False):
    """An agent shared with the whole instance."""

    name: str
    project: int
    configuration: dict[str, Any]


class DigestStart(Struct, frozen=True, omit_defaults=True, gc=False):
    """The position of the start that brought a job's digest, as in `Fact`."""

    offset: int
    sequence: int | None = None
    sequence_offset: int | None = None


class Job(Struct, frozen=True, omit_defaults=True, gc=False):
    """A job that has started, and may have finished; `expires_at` in milliseconds.

    Without a `digest` only signed tokens name the job. `digest_start` is set if the digest is from
    another start than the rest. Jobs of one user share the username's string.
    """

    digest: str | None
    project: int
    pipeline: int
    user: int
    username: str
    ref_protected: bool
    expires_at: int
    environment: model.JobEnvironment | None = None
    finished: bool = False
    digest_start: DigestStart | UnsetType = UNSET

    def __post_init__(self) -> None:
        structs.force_setattr(self, "username", sys.intern(self.username))


class EndedToken(Struct, frozen=True, gc=False):
    """A token that a later start of the same job replaced."""

    job: int
    expires_at: int


Entity = (
    Group | Project | Member | User | Agent | Configuration | SharedAgent | InstanceAgent | Job
    | EndedToken
)  # fmt: skip


def fields_of(entity: Entity) -> dict[str, Any]:
    """Return all fields of an entity as JSON values, also those that its fact leaves out."""
    fields = structs.asdict(entity)
    return {name: to_builtins(value) for name, value in fields.items() if value is not UNSET}


ENTITY_KINDS: Final[dict[str, type[Entity]]] = {
    "group": Group,
    "project": Project,
    "member": Member,
    "user": User,
    "agent": Agent,
    "configuration": Configuration,
    "shared-agent": SharedAgent,
    "instance-agent": InstanceAgent,
    "job": Job,
    "token": EndedToken,
}
# The kinds that an export can list. Tokens that ended before their job are known here alone.
AUDITED_KINDS: Final = tuple(kind for kind in ENTITY_KINDS if kind != "token")

# The topic with the events about each kind.
TOPIC_OF_KIND: Final[dict[str, Topic]] = {
    "group": Topic.MEMBERSHIP,
    "project": Topic.MEMBERSHIP,
    "member": Topic.MEMBERSHIP,
    "user": Topic.MEMBERSHIP,
    "agent": Topic.AGENT_CONFIG,
    "configuration": Topic.AGENT_CONFIG,
    "shared-agent": Topic.AGENT_CONFIG,
    "instance-agent": Topic.AGENT_CONFIG,
    "job": Topic.JOB_LIFECYCLE,
    "token": Topic.JOB_LIFECYCLE,
}
