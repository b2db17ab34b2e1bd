"""The view of one token, and the JSON shapes of its body."""

from http import HTTPStatus
from typing import Any, Final, NamedTuple, NotRequired

from typing_extensions import TypedDict


class View(NamedTuple):
    """The content of one token's record; `expires_at` in milliseconds.

    A job that started again has several tokens, one of which `is_current`.
    """

    digest: str
    job: int
    status: int
    body: bytes
    expires_at: int
    is_current: bool = True


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


def tombstone(digest: str, now: int) -> View:
    """Return the view that ends a token without a fact."""
    return View(digest, 0, HTTPStatus.UNAUTHORIZED, b"", now + ORPHAN_KEPT_MS, False)
