"""Event types with their fields, and the Kafka records that carry events.

An event carries the whole new state of one entity, never a difference.
"""

import re
from datetime import UTC, date, datetime, time
from enum import StrEnum
from typing import Annotated, Any, Final, NamedTuple, Self

import msgspec
from msgspec import Meta, Struct

from projector.events import redaction

MAX_EVENT_BYTES: Final = 1024 * 1024
# The list of agents in one answer, unless set otherwise. 4,000 agents with 200 bytes each fit.
MAX_VIEW_BYTES: Final = 1024 * 1024
MAX_NESTING: Final = 64
# Characters. A reason may quote the event, and goes into logs and headers.
MAX_REASON: Final = 1000


class Topic(StrEnum):
    """The three topics that feed the projection, without the deployment's prefix."""

    MEMBERSHIP = "membership"
    AGENT_CONFIG = "agent-config"
    JOB_LIFECYCLE = "job-lifecycle"


DEAD_LETTERS: Final = "dead-letters"
# Of the headers that a dead letter has beside the original's.
LETTER_HEADERS: Final = "dead-letter-"
# The topic of heartbeats, with one partition. It feeds no facts, so it is not a `Topic`.
SOURCES: Final = "sources"
HEARTBEAT: Final = "source.heartbeat"


class KafkaRecord(NamedTuple):
    """A record of one of the three topics. `timestamp` is Kafka's, in milliseconds.

    `fault` is a sentence if the record could not be read as it was written.
    """

    topic: Topic
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: redaction.Headers = ()
    fault: str | None = None

    @property
    def size(self) -> int:
        """Approximate bytes in memory, for bounds on queues."""
        size = len(self.value or b"") + len(self.key or b"")
        for name, content in self.headers:
            size += len(name) + len(content or b"")
        return size


class SourceRecord(NamedTuple):
    """A record of the topic `sources`; `fault` as in `KafkaRecord`."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: redaction.Headers = ()
    fault: str | None = None


class ReplayPosition(NamedTuple):
    """The offset and Kafka's timestamp (ms) of the record that was replayed."""

    offset: int
    timestamp: int


class BadEvent(ValueError):
    """A record is not a valid event; the message has the reasons."""

    def __init__(self, reason: str) -> None:
        super().__init__(redaction.redact_text(reason)[:MAX_REASON])


# The start of a warning about an event that is applied, except for the wrong part.
APPLIED: Final = "applied all the same: "


_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
# Much faster than `msgspec.convert`, which inspects the type in each call.
_DATETIME: Final = msgspec.json.Decoder(Annotated[datetime, Meta(tz=True)])


class Instant(int):
    """A point in time in milliseconds since 1970 UTC; in JSON RFC 3339 or a date."""

    @classmethod
    def parse(cls, text: object) -> Self:
        """Parse RFC 3339 with an offset, or a date as its midnight in UTC."""
        if not isinstance(text, str):
            raise ValueError("must be a time as text")  # noqa: TRY004  msgspec wraps ValueError
        if _DATE.fullmatch(text):
            parsed = datetime.combine(date.fromisoformat(text), time(), UTC)
        else:
            try:
                parsed = _DATETIME.decode(msgspec.json.encode(text))
            except msgspec.ValidationError:
                raise ValueError("must be a time: RFC 3339 with an offset, or a date") from None
        return cls(int(parsed.timestamp() * 1000))


MAX_ID: Final = 2**63 - 1
Id = Annotated[int, Meta(ge=1, le=MAX_ID)]
Text = Annotated[str, Meta(min_length=1)]
# Bounded because it becomes part of a key in Redis.
MembershipSource = Annotated[str, Meta(min_length=1, max_length=255)]
_DIGEST: Final = r"^[0-9a-fA-F]{64}\Z"
ROOT_PATTERN: Final = r"^[1-9][0-9]{0,18}\Z"
_SEQUENCE: Final = r"^[0-9]{1,40}\Z"
SOURCE_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,62}\Z"
# The patterns in words, for messages.
PATTERNS: Final = {
    _DIGEST: "of 64 hex digits",
    ROOT_PATTERN: "of 1 to 19 digits without a leading zero",
    _SEQUENCE: "of 1 to 40 digits",
    SOURCE_PATTERN: "of a source's name: 1 to 63 of a-z, 0-9, . _ and -, a letter or digit first",
}
Digest = Annotated[str, Meta(pattern=_DIGEST)]
RootNamespace = Annotated[str, Meta(pattern=ROOT_PATTERN)]
# Forty digits hold any 128-bit number; int() of unbounded digits would cost quadratic time.
Sequence = Annotated[str, Meta(pattern=_SEQUENCE)]

ROLES: Final = {
    "minimal_access": 5,
    "guest": 10,
    "planner": 15,
    "reporter": 20,
    "security_manager": 25,
    "developer": 30,
    "maintainer": 40,
    "owner": 50,
}


class GroupSet(Struct, frozen=True):
    """A group exists; `parent_id` is null for the top-level group."""

    id: Id
    parent_id: Id | None
    path: Text


class GroupRemoved(Struct, frozen=True):
    """A group is gone, and its memberships with it."""

    id: Id


class ProjectSet(Struct, frozen=True):
    """A project exists; `group_id` is null in a user namespace."""

    id: Id
    group_id: Id | None
    path: Text


class ProjectRemoved(Struct, frozen=True):
    """A project is gone, and its memberships with it."""

    id: Id


class _Membership(Struct, frozen=True, kw_only=True):
    user_id: Id
    group_id: Id | None = None
    project_id: Id | None = None
    via: MembershipSource = "direct"

    def __post_init__(self) -> None:
        if (self.group_id is None) == (self.project_id is None):
            raise ValueError("must have either `group_id` or `project_id`")


class MemberSet(_Membership, frozen=True, kw_only=True):
    """A user holds a role in a group or a project; `via` is the source of the membership."""

    role: Annotated[int, Meta(ge=0, le=50)] | Text
    expires_at: Instant | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.role, str) and self.role.lower() not in ROLES:
            raise ValueError(f"`$.role` must be one of {', '.join(ROLES)}, or 0 to 50")

    @property
    def level(self) -> int:
        """The role as GitLab's access level, 0 to 50."""
        return ROLES[self.role.lower()] if isinstance(self.role, str) else self.role


class MemberRemoved(_Membership, frozen=True, kw_only=True):
    """A user no longer holds the membership that came from `via`."""


class UserSet(Struct, frozen=True):
    """A user; any `state` but `active` is refused at lookup."""

    id: Id
    username: Text
    state: Text


class AgentSet(Struct, frozen=True):
    """A cluster agent and its configuration project."""

    id: Id
    name: Text
    project_id: Id


class AgentRemoved(Struct, frozen=True):
    """A cluster agent is gone."""

    id: Id


class CiAccess(Struct, frozen=True):
    """Whom an agent's `config.yaml` shares it with, as written."""

    projects: list[dict[str, Any]] | None = None
    groups: list[dict[str, Any]] | None = None


class AgentFile(Struct, frozen=True):
    """The part of an agent's `config.yaml` that matters here."""

    ci_access: CiAccess | None = None


class AgentConfigured(Struct, frozen=True):
    """An agent's configuration file changed; may come before `agent.set`."""

    id: Id
    config: AgentFile


class SharedAgentSet(Struct, frozen=True):
    """An agent of another root namespace, granted in this one by the entries of `config` alone."""

    id: Id
    name: Text
    project_id: Id
    config: AgentFile


class SharedAgentRemoved(Struct, frozen=True):
    """An agent of another root namespace is no longer shared with this one."""

    id: Id


class InstanceAgentSet(Struct, frozen=True):
    """An agent shared with every project of the instance."""

    id: Id
    name: Text
    project_id: Id
    configuration: dict[str, Any]


class InstanceAgentRemoved(Struct, frozen=True):
    """An agent is no longer shared with the instance."""

    id: Id


class JobUser(Struct, frozen=True):
    """The user that runs a job."""

    id: Id
    username: Text


class JobEnvironment(Struct, frozen=True, gc=False):
    """The environment that a job deploys to."""

    name: Text
    slug: Text
    tier: Text


class JobStarted(Struct, frozen=True):
    """A job started; `token_sha256` names its token, unless its tokens are signed."""

    id: Id
    project_id: Id
    pipeline_id: Id
    user: JobUser
    ref_protected: bool
    expires_at: Instant
    environment: JobEnvironment | None = None
    token_sha256: Digest | None = None


class JobCanceling(Struct, frozen=True):
    """A job is being cancelled: its token stays valid until it has finished."""

    id: Id


class JobFinished(Struct, frozen=True):
    """A job is over, with any status, and so is its token."""

    id: Id


Data = (
    GroupSet | GroupRemoved | ProjectSet | ProjectRemoved | MemberSet | MemberRemoved | UserSet
    | AgentSet | AgentRemoved | AgentConfigured | SharedAgentSet | SharedAgentRemoved
    | InstanceAgentSet | InstanceAgentRemoved | JobStarted | JobCanceling | JobFinished
)  # fmt: skip


class EventType(NamedTuple):
    """The topic and data of an event type, whether it revokes, and whether it is a broadcast."""

    topic: Topic
    data: type[Data]
    revokes: bool = False
    broadcast: bool = False


EVENT_TYPES: Final[dict[str, EventType]] = {
    "group.set": EventType(Topic.MEMBERSHIP, GroupSet),
    "group.removed": EventType(Topic.MEMBERSHIP, GroupRemoved, revokes=True),
    "project.set": EventType(Topic.MEMBERSHIP, ProjectSet),
    "project.removed": EventType(Topic.MEMBERSHIP, ProjectRemoved, revokes=True),
    "member.set": EventType(Topic.MEMBERSHIP, MemberSet),
    "member.removed": EventType(Topic.MEMBERSHIP, MemberRemoved, revokes=True),
    "user.set": EventType(Topic.MEMBERSHIP, UserSet, broadcast=True),
    "agent.set": EventType(Topic.AGENT_CONFIG, AgentSet),
    "agent.removed": EventType(Topic.AGENT_CONFIG, AgentRemoved, revokes=True),
    "agent.configured": EventType(Topic.AGENT_CONFIG, AgentConfigured),
    "shared-agent.set": EventType(Topic.AGENT_CONFIG, SharedAgentSet),
    "shared-agent.removed": EventType(Topic.AGENT_CONFIG, SharedAgentRemoved, revokes=True),
    "instance-agent.set": EventType(Topic.AGENT_CONFIG, InstanceAgentSet, broadcast=True),
    "instance-agent.removed": EventType(
        Topic.AGENT_CONFIG, InstanceAgentRemoved, revokes=True, broadcast=True
    ),
    "job.started": EventType(Topic.JOB_LIFECYCLE, JobStarted),
    "job.canceling": EventType(Topic.JOB_LIFECYCLE, JobCanceling),
    "job.finished": EventType(Topic.JOB_LIFECYCLE, JobFinished, revokes=True),
}


def known_type(name: str) -> str:
    """Return the type without a reverse-DNS prefix: `job.started` for `com.example.job.started`.

    Raises `BadEvent` for a type that is not in `EVENT_TYPES`.
    """
    if name in EVENT_TYPES:
        return name
    short = without_prefix(name)
    if short == HEARTBEAT:
        raise BadEvent(
            f"{HEARTBEAT} is not an event: it vouches for what its own sender sent, and belongs in "
            f"the topic {SOURCES}; see docs/events.md"
        )
    if short not in EVENT_TYPES:
        given = redaction.redact_text(name)[:100]
        raise BadEvent(f"unknown type {given!r}; known are {', '.join(EVENT_TYPES)}")
    return short


def without_prefix(name: str) -> str:
    """Return the last two parts of a type: `job.started` for `com.example.job.started`."""
    return ".".join(name.split(".")[-2:])


class Event(Struct, frozen=True):
    """A valid event. `root` is its partitionkey, `sequence` orders the events of its entity."""

    type: str
    root: str
    data: Data
    time: Instant | None = None
    sequence: int | None = None
    # Set if the event is applied although a part of it is wrong; begins with `APPLIED`.
    warning: str | None = None
    # Set if a dead letter was replayed: the position of its original in the same partition.
    replays: ReplayPosition | None = None

    @property
    def kind(self) -> EventType:
        """The topic, data and properties of this event's type."""
        return EVENT_TYPES[self.type]

    @property
    def revokes(self) -> bool:
        """Whether the event removes access: `*.removed`, `job.finished`, a user who is not active.

        False for a lower role or a narrower grant, which only the facts before it could show.
        """
        blocks = isinstance(self.data, UserSet) and self.data.state != "active"
        return blocks or self.kind.revokes
