"""Sentences of an explanation, for readers who have not read the rules."""

from typing import Final

from projector.domain.authorizations import AgentAuthorization, AuthorizationSource
from projector.domain.decision import Decision, Rule
from projector.domain.entities import Job, User
from projector.events.model import ROLES
from projector.events.timestamps import to_rfc3339

MAX_PATTERNS: Final = 10
_ROLE_OF_LEVEL: Final = {level: name for name, level in ROLES.items()}


def role_name(level: int) -> str:
    """Return `developer` for 30, `level 33` for a level without a name, `none` for 0."""
    return _ROLE_OF_LEVEL.get(level, f"level {level}" if level else "none")


def allowed_sentence(job: int, allowed: int, total: int) -> str:
    """Return the answer to a question that names no agent."""
    if total == 0:
        return f"Job {job} may use no agent: none reaches its project"
    noun = "agent that reaches" if total == 1 else "agents that reach"
    return f"Job {job} may use {allowed} of the {total} {noun} its project"


def refusal_sentence(decision: Decision, job: Job | None, user: User | None) -> str:
    """Return why the status is not 200."""
    if decision.reason:
        return decision.reason
    if decision.rule == Rule.TOKEN_REPLACED:
        return "this token ended when the job started again with another one"
    if job is None:
        return "the job has finished, and its start never came"
    match decision.rule:
        case Rule.JOB_FINISHED:
            return "the job has finished"
        case Rule.TOKEN_EXPIRED:
            return f"the job's token expired at {to_rfc3339(job.expires_at)}"
        case Rule.PROJECT_REMOVED:
            return f"project {job.project} was removed"
        case Rule.USER_NOT_ACTIVE:
            return f"{_who(job, user)} is not active but {user.state if user else 'unknown'}"
    raise ValueError(decision.rule)


def role_sentence(job: Job, user: User | None, level: int, needed: int) -> str:
    """Return why the role does not suffice."""
    has = f"only the role {role_name(level)}" if level else "no role"
    return (
        f"{_who(job, user)} has {has} in project {job.project}, where {role_name(needed)} is needed"
    )


def authorization_sentence(
    authorization: AgentAuthorization, rule: Rule | None, job: Job, path: str | None
) -> str:
    """Return the verdict of an authorization; `path` is that of the group that it names."""
    source = _source(authorization, job, path)
    if rule == Rule.ENVIRONMENTS:
        return (
            f"{source}, but {_environments(authorization.configuration.get('environments'), job)}"
        )
    if rule == Rule.PROTECTED_BRANCHES_ONLY:
        return f"{source}, but only for protected refs, and the job's ref is not protected"
    return source


def _source(authorization: AgentAuthorization, job: Job, path: str | None) -> str:
    grants = "its shared-agent.set" if authorization.is_shared else "the agent's configuration"
    match authorization.source:
        case AuthorizationSource.PROJECT_GRANT:
            return f"{grants} grants it to project {job.project}"
        case AuthorizationSource.OWN_PROJECT:
            return f"it is configured in project {job.project}, the job's own"
        case AuthorizationSource.GROUP_GRANT:
            group = f"group {authorization.group}" + (f" ({path})" if path else "")
            return f"{grants} grants it to {group}, above project {job.project}"
    return "it is shared with the whole instance"


def _environments(patterns: object, job: Job) -> str:
    if not isinstance(patterns, list):
        return "its `environments` is not a list, so it allows no job"
    shown = ", ".join(str(pattern) for pattern in patterns[:MAX_PATTERNS])
    more = f" and {len(patterns) - MAX_PATTERNS} more" if len(patterns) > MAX_PATTERNS else ""
    own = f"the job's is {job.environment.name}" if job.environment else "the job has none"
    return f"only for the environments {shown}{more}, and {own}"


def _who(job: Job, user: User | None) -> str:
    return f"user {job.user} ({user.username if user else job.username})"
