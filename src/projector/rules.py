"""What a job's token gets, and why: a pure function of the facts and the time.

The rules are GitLab's (`GET /api/v4/job/allowed_agents`), with the Developer rule of the request
that this product began as. `judge` applies them, once for all: the answer that is served and its
explanation are two ways to write down the same judgement.
"""

from collections.abc import Iterable
from enum import StrEnum
from http import HTTPStatus
from typing import Final, NamedTuple

from projector import filters, things, ways
from projector.events import ROLES
from projector.facts import Facts
from projector.things import Job, Key, Member, Root, User
from projector.views import AllowedAgent, AllowedAgents, Refusal, UserPart, unavailable
from projector.ways import Way

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


class Rule(StrEnum):
    """What refuses a token, or an agent to it. Public: scripts and pages read these names."""

    TOKEN_REPLACED = "token_replaced"  # noqa: S105  no token
    JOB_FINISHED = "job_finished"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105  no token
    PROJECT_REMOVED = "project_removed"
    PROJECT_UNKNOWN = "project_unknown"
    GROUP_UNKNOWN = "group_unknown"
    GROUPS_IN_CIRCLE = "groups_in_circle"
    USER_NOT_ACTIVE = "user_not_active"
    ROLE = "role"
    ENVIRONMENTS = "environments"
    PROTECTED_BRANCHES_ONLY = "protected_branches_only"


# No event makes such a token live again.
FINAL: Final = (Rule.TOKEN_REPLACED, Rule.JOB_FINISHED, Rule.TOKEN_EXPIRED)


class Membership(NamedTuple):
    """One membership of the job's user, in the job's project or in a group above it."""

    key: Key
    member: Member


class Candidate(NamedTuple):
    """An agent that reaches the job's project, and what refuses it, if anything does.

    The first of its ways wins; there is no falling back to another.
    """

    ways: list[Way]
    refused_by: Rule | None

    @property
    def winner(self) -> Way:
        """The way that counts."""
        return self.ways[0]


class Judgement(NamedTuple):
    """What the rules make of a token: its status, and what led there, as far as it was looked at.

    `rule` and `reason` say why the status is not 200. `groups` are the ids of those above the
    project, nearest first, and `level` is the highest of the `memberships` that are in force.
    """

    status: HTTPStatus
    rule: Rule | None = None
    reason: str = ""
    groups: tuple[int, ...] = ()
    memberships: tuple[Membership, ...] = ()
    level: int = 0
    candidates: tuple[Candidate, ...] = ()


class Answer(NamedTuple):
    """What a lookup gets. 401 has a document where it may end; final ones have none."""

    status: HTTPStatus
    document: AllowedAgents | Refusal | None = None


def judge(facts: Facts, key: Key, digest: str, minimum_level: int, now: int) -> Judgement:
    """What the token with this digest, of the started job `key`, gets at `now` (milliseconds)."""
    root, job = things.root_of(key), facts.job(key)
    if facts.ended_token(root, digest) or job is None:
        return Judgement(HTTPStatus.UNAUTHORIZED, Rule.TOKEN_REPLACED)
    if job.finished:
        return Judgement(HTTPStatus.UNAUTHORIZED, Rule.JOB_FINISHED)
    if job.expires_at <= now:
        return Judgement(HTTPStatus.UNAUTHORIZED, Rule.TOKEN_EXPIRED)
    if facts.is_removed(things.project_key(root, job.project)):
        return Judgement(HTTPStatus.UNAUTHORIZED, Rule.PROJECT_REMOVED)
    project = facts.project(root, job.project)
    if project is None:
        return _unavailable(Rule.PROJECT_UNKNOWN, f"project {job.project} is not known yet")
    groups, complete = facts.chain(root, project.group)
    if not complete:
        return _gap(facts, root, job.project, groups)
    return _judge_user(facts, root, job, groups, minimum_level, now)


def answer(facts: Facts, key: Key, digest: str, minimum_level: int, now: int) -> Answer:
    """The answer for the token with this digest, of the started job `key`, at `now` (ms)."""
    judgement = judge(facts, key, digest, minimum_level, now)
    return Answer(judgement.status, _written(facts, key, judgement))


def refusal(way: Way, job: Job, level: int, minimum_level: int) -> Rule | None:
    """What refuses the job this way to an agent, or None; the user has `level` in its project."""
    if level < minimum_level:
        return Rule.ROLE
    refused_by = filters.refusal(way.configuration, job)
    return Rule(refused_by) if refused_by else None


def _judge_user(  # noqa: PLR0913, PLR0917  all that decides
    facts: Facts, root: Root, job: Job, groups: list[int], minimum_level: int, now: int
) -> Judgement:
    memberships = tuple(_memberships(facts, root, job, groups))
    level = max((m.member.level for m in memberships if m.member.counts(now)), default=0)
    barrier = _barrier(facts.user(job.user))
    reaching = ways.by_agent(facts, root, job.project, groups).values()
    candidates = tuple(
        Candidate(found, barrier or refusal(found[0], job, level, minimum_level))
        for found in reaching
    )
    status = HTTPStatus.FORBIDDEN if barrier else HTTPStatus.OK
    return Judgement(status, barrier, "", tuple(groups), memberships, level, candidates)


def _barrier(user: User | None) -> Rule | None:
    """A user without `user.set` is active."""
    return Rule.USER_NOT_ACTIVE if user and user.state != "active" else None


def _memberships(facts: Facts, root: Root, job: Job, groups: list[int]) -> Iterable[Membership]:
    """The user's in the job's project and in the groups above it, also those that have expired."""
    scopes = [things.project_key(root, job.project), *(things.group_key(root, g) for g in groups)]
    for scope in scopes:
        for key, member in facts.memberships(scope, job.user):
            yield Membership(key, member)


def _gap(facts: Facts, root: Root, project: int, groups: list[int]) -> Judgement:
    """What is wrong above the project, where the last of `groups` is the furthest one found."""
    if facts.group(root, groups[-1]):
        reason = f"the groups above project {project} run in a circle, or are too many"
        return _unavailable(Rule.GROUPS_IN_CIRCLE, reason, groups)
    reason = f"group {groups[-1]} above project {project} is not known yet"
    return _unavailable(Rule.GROUP_UNKNOWN, reason, groups)


def _unavailable(rule: Rule, reason: str, groups: Iterable[int] = ()) -> Judgement:
    return Judgement(HTTPStatus.SERVICE_UNAVAILABLE, rule, reason, tuple(groups))


# how it is written down for lookups


def _written(facts: Facts, key: Key, judgement: Judgement) -> AllowedAgents | Refusal | None:
    job = facts.job(key)
    if job is None or judgement.rule in FINAL:
        return None
    user = facts.user(job.user)
    match judgement.status:
        case HTTPStatus.UNAUTHORIZED:
            return {"message": "401 Unauthorized"}
        case HTTPStatus.SERVICE_UNAVAILABLE:
            return unavailable(judgement.reason)
        case HTTPStatus.FORBIDDEN:
            return {"message": f"403 Forbidden - {_refusal(user.state if user else '')}"}
    return _document(key, job, user, judgement)


def _document(key: Key, job: Job, user: User | None, judgement: Judgement) -> AllowedAgents:
    who: UserPart = {
        "id": job.user,
        "username": user.username if user else job.username,
        "roles_in_project": [name for name in NAMED_ROLES if ROLES[name] <= judgement.level],
    }
    document: AllowedAgents = {
        "allowed_agents": [_allowed(c.winner) for c in judgement.candidates if not c.refused_by],
        "job": {"id": things.id_of(key)},
        "pipeline": {"id": job.pipeline},
        "project": {"id": job.project, "groups": [{"id": group} for group in judgement.groups]},
        "user": who,
    }
    if job.environment:
        document["environment"] = {"slug": job.environment.slug, "tier": job.environment.tier}
    return document


def _refusal(state: str) -> str:
    return REFUSALS.get(state, BLOCKED)


def _allowed(way: Way) -> AllowedAgent:
    return {
        "id": way.agent,
        "config_project": {"id": way.config_project},
        "configuration": way.configuration,
    }
