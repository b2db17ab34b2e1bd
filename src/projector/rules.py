"""Which agents a job may use: a pure function of the facts and the time.

The rules are GitLab's (`GET /api/v4/job/allowed_agents`), with the Developer rule of the request
that this product began as. A candidate is one way for an agent to reach the job's project; the
first per agent wins and there is no falling back to another.
"""

from collections.abc import Iterable
from http import HTTPStatus
from itertools import chain
from typing import Any, Final, NamedTuple

from projector import things
from projector.events import ROLES
from projector.facts import Facts
from projector.things import Job, Key, Root
from projector.views import AllowedAgent, AllowedAgents, Refusal, UserPart, unavailable

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


class Answer(NamedTuple):
    """What a lookup gets. 401 has a document where it may end; final ones have none."""

    status: HTTPStatus
    document: AllowedAgents | Refusal | None = None


class Candidate(NamedTuple):
    """One way for an agent to reach the job's project, before any filter."""

    agent: int
    config_project: int
    configuration: dict[str, Any]


def answer(facts: Facts, key: Key, job: Job, minimum_level: int, now: int) -> Answer:
    """The answer for the live token of `job` at `now` (milliseconds)."""
    root = things.root_of(key)
    if facts.is_removed(things.project_key(root, job.project)):
        return Answer(HTTPStatus.UNAUTHORIZED, {"message": "401 Unauthorized"})
    project = facts.project(root, job.project)
    if project is None:
        return _unavailable(f"project {job.project} is not known yet")
    groups, complete = facts.chain(root, project.group)
    if not complete:
        return _unavailable(f"group {groups[-1]} above project {job.project} is not known yet")
    user = facts.user(job.user)
    if user and user.state != "active":
        return Answer(HTTPStatus.FORBIDDEN, {"message": f"403 Forbidden - {_refusal(user.state)}"})
    level = access_level(facts, root, job, groups, now)
    allowed = candidates(facts, root, job) if level >= minimum_level else ()
    who: UserPart = {
        "id": job.user,
        "username": user.username if user else job.username,
        "roles_in_project": [name for name in NAMED_ROLES if ROLES[name] <= level],
    }
    return Answer(HTTPStatus.OK, _document(key, job, groups, who, allowed))


def access_level(facts: Facts, root: Root, job: Job, groups: list[int], now: int) -> int:
    """The user's level in the job's project: the highest membership there or in a group above."""
    scopes = [things.project_key(root, job.project), *(things.group_key(root, g) for g in groups)]
    memberships = (facts.memberships(scope, job.user) for scope in scopes)
    return max((m.level for m in chain(*memberships) if m.counts(now)), default=0)


def candidates(facts: Facts, root: Root, job: Job) -> Iterable[Candidate]:
    """Every way for an agent to reach the job's project, the one that wins first.

    GitLab: app/finders/clusters/agents/authorizations/ci_access/finder.rb.
    """
    sources = (_own_agents(facts, root, job),)
    first: dict[int, Candidate] = {}
    for candidate in chain(*sources):
        first.setdefault(candidate.agent, candidate)
    return first.values()


def _own_agents(facts: Facts, root: Root, job: Job) -> Iterable[Candidate]:
    for agent in facts.agents_of_project(root, job.project):
        yield Candidate(agent, job.project, {})


def _unavailable(reason: str) -> Answer:
    return Answer(HTTPStatus.SERVICE_UNAVAILABLE, unavailable(reason))


def _document(
    key: Key, job: Job, groups: list[int], user: UserPart, allowed: Iterable[Candidate]
) -> AllowedAgents:
    document: AllowedAgents = {
        "allowed_agents": [_allowed(candidate) for candidate in allowed],
        "job": {"id": things.id_of(key)},
        "pipeline": {"id": job.pipeline},
        "project": {"id": job.project, "groups": [{"id": group} for group in groups]},
        "user": user,
    }
    if job.environment:
        document["environment"] = {"slug": job.environment.slug, "tier": job.environment.tier}
    return document


def _refusal(state: str) -> str:
    return REFUSALS.get(state, BLOCKED)


def _allowed(candidate: Candidate) -> AllowedAgent:
    return {
        "id": candidate.agent,
        "config_project": {"id": candidate.config_project},
        "configuration": candidate.configuration,
    }
