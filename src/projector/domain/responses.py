"""HTTP bodies of decisions."""

from http import HTTPStatus
from typing import Any, Final

import msgspec

from projector.domain.decision import FINAL_RULES, Decision
from projector.domain.entities import Job
from projector.domain.views import Refusal, unavailable_body

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


def encode_response(number: int, job: Job, judgement: Decision) -> bytes:
    if judgement.rule is None:
        return msgspec.json.encode(_document(number, job, judgement))
    if judgement.rule in FINAL_RULES:
        return b""
    return msgspec.json.encode(_refused(judgement))


def _refused(judgement: Decision) -> Refusal:
    user = judgement.role.user
    match judgement.status:
        case HTTPStatus.UNAUTHORIZED:
            return {"message": "401 Unauthorized"}
        case HTTPStatus.SERVICE_UNAVAILABLE:
            return unavailable_body(judgement.reason)
    return {"message": f"403 Forbidden - {REFUSALS.get(user.state if user else '', BLOCKED)}"}


def _document(number: int, job: Job, judgement: Decision) -> dict[str, Any]:
    """`views.AllowedAgents`, in which what is shared with other tokens is JSON already."""
    user = judgement.role.user
    document: dict[str, Any] = {
        "allowed_agents": judgement.access.allowed,
        "job": {"id": number},
        "pipeline": {"id": job.pipeline},
        "project": judgement.scope.part,
        "user": {
            "id": job.user,
            "username": user.username if user else job.username,
            "roles_in_project": judgement.role.roles,
        },
    }
    if job.environment:
        document["environment"] = {"slug": job.environment.slug, "tier": job.environment.tier}
    return document
