"""The view of one token, or of one job's tokens, its id, and the JSON shapes of its body."""

from http import HTTPStatus
from typing import Any, Final, NamedTuple, NewType, NotRequired

from typing_extensions import TypedDict

from projector.domain import fact_keys
from projector.domain.entities import Job
from projector.domain.fact_keys import Key

# The digest of a token; or the id of a job without a digest, in decimal.
ViewId = NewType("ViewId", str)
DIGEST_LENGTH: Final = 64


def view_id(key: Key, job: Job) -> ViewId:
    """Return the id of the view of the job `key`."""
    return ViewId(job.digest or fact_keys.name_of(key))


def is_digest(id_: ViewId) -> bool:
    """Return whether the id is a digest, not the id of a job."""
    return len(id_) == DIGEST_LENGTH


class View(NamedTuple):
    """The content of one record; `expires_at` in milliseconds.

    A job that started again may have had several digests. Only the view of the last one
    `is_current`.
    """

    id: ViewId
    job: int
    status: int
    body: bytes
    expires_at: int
    is_current: bool = True

    @property
    def has_pointer(self) -> bool:
        """Whether the key of the job names this view."""
        return self.is_current and is_digest(self.id)


class ConfigProject(TypedDict):
    """The project that configures an agent."""

    id: int


class AllowedAgent(TypedDict):
    """An agent that the token's job may use, with the entry that grants it."""

    id: int
    config_project: ConfigProject
    configuration: dict[str, Any]


class JobPart(TypedDict):
    """The token's job."""

    id: int


class PipelinePart(TypedDict):
    """The job's pipeline."""

    id: int


class GroupPart(TypedDict):
    """A group above the job's project."""

    id: int


class ProjectPart(TypedDict):
    """The job's project and the groups above it, nearest first."""

    id: int
    groups: list[GroupPart]


class UserPart(TypedDict):
    """The job's user, and every role up to the user's own in the job's project."""

    id: int
    username: str
    roles_in_project: list[str]


class EnvironmentPart(TypedDict):
    """The environment that the job deploys to."""

    slug: str
    tier: str


class AllowedAgents(TypedDict):
    """Which cluster agents the job token may use, and in whose name."""

    allowed_agents: list[AllowedAgent]
    job: JobPart
    pipeline: PipelinePart
    project: ProjectPart
    user: UserPart
    environment: NotRequired[EnvironmentPart]


class Refusal(TypedDict):
    """The body without a list; `reason` only if trying again may help."""

    message: str
    reason: NotRequired[str]


def unavailable_body(reason: str) -> Refusal:
    """Return the body of every 503, whether it is stored in a view or not."""
    return {"message": "503 Service Unavailable", "reason": reason}


# Long enough for the process that wrote the orphan to be gone.
ORPHAN_KEPT_MS: Final = 24 * 3600 * 1000


def tombstone(id_: ViewId, now: int) -> View:
    """Return the view that ends a record without a fact."""
    return View(id_, 0, HTTPStatus.UNAUTHORIZED, b"", now + ORPHAN_KEPT_MS, False)
