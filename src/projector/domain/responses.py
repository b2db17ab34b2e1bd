"""HTTP bodies of decisions."""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw

from projector.domain.authorizations import AgentAuthorization
from projector.domain.decision import (
    FINAL_RULES,
    Candidate,
    Decision,
    ProjectScope,
    SharedPart,
    UserRole,
)
from projector.domain.entities import Job
from projector.domain.views import AllowedAgent, ProjectPart, Refusal, unavailable_body
from projector.events.model import ROLES

P = TypeVar("P", bound=SharedPart)

# GitLab: doc/api/jobs.md, `roles_in_project`. The other levels of ROLES have no name there.
NAMED_ROLES: Final = ("guest", "planner", "reporter", "developer", "maintainer", "owner")

# GitLab: lib/gitlab/auth/user_access_denied_reason.rb, without the addresses of its own pages.
BLOCKED: Final = "Your account has been blocked."


REFUSALS: Final = {
    "blocked_pending_approval": (
        "Your account is pending approval from your administrator and hence blocked."
    ),
    "deactivated": (
        "Your account has been deactivated by your administrator. "
        "Please log back in from a web browser to reactivate your account."
    ),
    "unconfirmed": "Your primary email address is not confirmed.",
    "password_expired": (
        "Your password expired. Please access GitLab from a web browser to update your password."
    ),
    "internal": "This action cannot be performed by internal users",
}


def encode_response(number: int, job: Job, decision: Decision) -> bytes:
    """Encode the body for a token of the job with this number; empty if the token is dead."""
    if decision.rule is None:
        return msgspec.json.encode(_document(number, job, decision))
    if decision.rule in FINAL_RULES:
        return b""
    return msgspec.json.encode(_refusal(decision))


def encode_agents(candidates: Iterable[Candidate], most: int) -> Raw | None:
    """Encode the list of the agents that are allowed; None if it takes more than `most` bytes."""
    agents: list[bytes] = []
    size = len("[]")
    for found in candidates:
        if found.refused_by:
            continue
        agents.append(msgspec.json.encode(_allowed_agent(found.effective)))
        size += len(agents[-1]) + (len(agents) > 1)
        if size > most:
            return None
    return Raw(b"[" + b",".join(agents) + b"]")


def _allowed_agent(authorization: AgentAuthorization) -> AllowedAgent:
    return {
        "id": authorization.agent,
        "config_project": {"id": authorization.config_project},
        "configuration": authorization.configuration,
    }


def _refusal(decision: Decision) -> Refusal:
    user = decision.role.user
    match decision.status:
        case HTTPStatus.UNAUTHORIZED:
            return {"message": "401 Unauthorized"}
        case HTTPStatus.SERVICE_UNAVAILABLE:
            return unavailable_body(decision.reason)
    return {"message": f"403 Forbidden - {REFUSALS.get(user.state if user else '', BLOCKED)}"}


def _document(number: int, job: Job, decision: Decision) -> dict[str, Any]:
    """Return `views.AllowedAgents`; the parts that tokens share are JSON already."""
    scope, role, access, user = decision.scope, decision.role, decision.access, decision.role.user
    document: dict[str, Any] = {
        "allowed_agents": access.json,
        "job": {"id": number},
        "pipeline": {"id": job.pipeline},
        "project": scope.json or _encode(scope, _project),
        "user": {
            "id": job.user,
            "username": user.username if user else job.username,
            "roles_in_project": role.json or _encode(role, _roles),
        },
    }
    if job.environment:
        document["environment"] = {"slug": job.environment.slug, "tier": job.environment.tier}
    return document


def _encode(part: P, shape: Callable[[P], object]) -> Raw:
    """Encode a part for the first of the tokens that share it."""
    raw = Raw(msgspec.json.encode(shape(part)))
    msgspec.structs.force_setattr(part, "json", raw)
    return raw


def _project(scope: ProjectScope) -> ProjectPart:
    return {"id": scope.project, "groups": [{"id": group} for group in scope.groups]}


def _roles(role: UserRole) -> list[str]:
    """Return the names of the roles up to the user's own."""
    return [name for name in NAMED_ROLES if ROLES[name] <= role.level]
