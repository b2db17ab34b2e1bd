"""The explanation of a job: the decision about its token, and the events behind it."""

from typing import Final

from projector.domain import fact_keys
from projector.domain.decision import Membership
from projector.domain.entities import Group, Job, Project
from projector.domain.fact_keys import Key
from projector.domain.index.fact_index import FactIndex
from projector.events.timestamps import to_rfc3339
from projector.explain import agent, messages
from projector.explain.context import ExplanationContext, Question
from projector.explain.model import (
    ExplainedAgent,
    ExplainedEnvironment,
    ExplainedJob,
    ExplainedMembership,
    ExplainedRole,
    ExplainedScope,
    ExplainedUser,
    Explanation,
)

MAX_AGENTS: Final = 200
MAX_MEMBERSHIPS: Final = 50


def explain_job(facts: FactIndex, partition: int, question: Question) -> Explanation:
    """Explain the decision; KeyError if the partition has no fact about the job."""
    context = ExplanationContext(facts, partition, question)
    decision = context.decision
    asked = agent.explain_asked_agent(context)
    listed = [agent.explain_candidate(context, c) for c in decision.candidates[:MAX_AGENTS]]
    return Explanation(
        sentence=_sentence(context, asked),
        status=decision.status,
        rule=decision.rule,
        reason=context.reason,
        at=to_rfc3339(question.now),
        partition=partition,
        job=_job(context, context.job) if context.job else None,
        project=_project(context, context.job) if context.job else None,
        groups=_groups(context),
        user=_user(context, context.job) if context.job else None,
        role=_role(context),
        agents=listed,
        more_agents=len(decision.candidates) - len(listed),
        agent=asked,
    )


def _sentence(context: ExplanationContext, asked: ExplainedAgent | None) -> str:
    if asked:
        may = "may" if asked.verdict == "allowed" else "may not"
        return f"Job {context.job_id} {may} use agent {asked.id}: {asked.sentence}"
    if context.reason:
        return f"Job {context.job_id} gets {context.decision.status.value}: {context.reason}"
    total = len(context.decision.candidates)
    allowed = sum(not candidate.refused_by for candidate in context.decision.candidates)
    return messages.allowed_sentence(context.job_id, allowed, total)


# the job, its project and its user


def _job(context: ExplanationContext, job: Job) -> ExplainedJob:
    ended = fact_keys.token_key(context.root, context.view_id)
    return ExplainedJob(
        id=context.job_id,
        root=context.root,
        pipeline=job.pipeline,
        user=job.user,
        environment=_environment(job),
        ref_protected=job.ref_protected,
        expires_at=to_rfc3339(job.expires_at),
        expired=job.expires_at <= context.question.now,
        finished=job.finished,
        event=context.event(ended if context.is_ended else context.question.key),
    )


def _environment(job: Job) -> ExplainedEnvironment | None:
    found = job.environment
    return ExplainedEnvironment(found.name, found.slug, found.tier) if found else None


def _project(context: ExplanationContext, job: Job) -> ExplainedScope:
    key = fact_keys.project_key(context.root, job.project)
    return _scope(context, key, context.facts.project(context.root, job.project))


def _groups(context: ExplanationContext) -> list[ExplainedScope]:
    project = context.job and context.facts.project(context.root, context.job.project)
    ids, _ = context.facts.chain(context.root, project.group if project else None)
    return [
        _scope(
            context,
            fact_keys.group_key(context.root, group),
            context.facts.group(context.root, group),
        )
        for group in ids
    ]


def _scope(context: ExplanationContext, key: Key, data: Group | Project | None) -> ExplainedScope:
    return ExplainedScope(
        kind="group" if fact_keys.kind_of(key) == "group" else "project",
        id=fact_keys.id_of(key),
        known=data is not None,
        path=data.path if data else None,
        event=context.event(key),
    )


def _user(context: ExplanationContext, job: Job) -> ExplainedUser:
    known = context.user
    return ExplainedUser(
        id=job.user,
        username=known.username if known else job.username,
        state=known.state if known else "active",
        event=context.event(fact_keys.user_key(job.user)),
    )


# the role


def _role(context: ExplanationContext) -> ExplainedRole | None:
    decision, needed = context.decision, context.question.rules.minimum_level
    if decision.status not in (200, 403):
        return None
    # Memberships in force first, then by level; equal ones stay by scope, the nearest first.
    listed = sorted(
        decision.memberships, key=lambda m: (not _is_in_force(context, m), -m.member.level)
    )
    return ExplainedRole(
        level=decision.level,
        role=messages.role_name(decision.level),
        required_level=needed,
        required_role=messages.role_name(needed),
        suffices=decision.level >= needed,
        memberships=[
            _membership(context, membership, is_first=position == 0)
            for position, membership in enumerate(listed[:MAX_MEMBERSHIPS])
        ],
        more=max(0, len(listed) - MAX_MEMBERSHIPS),
    )


def _is_in_force(context: ExplanationContext, membership: Membership) -> bool:
    return membership.member.is_in_force(context.question.now)


def _membership(
    context: ExplanationContext, membership: Membership, *, is_first: bool
) -> ExplainedMembership:
    scope, _ = fact_keys.membership_of(membership.key)
    member, counts = membership.member, _is_in_force(context, membership)
    return ExplainedMembership(
        scope="group" if fact_keys.kind_of(scope) == "group" else "project",
        scope_id=fact_keys.id_of(scope),
        via=fact_keys.via_of(membership.key),
        level=member.level,
        role=messages.role_name(member.level),
        expires_at=None if member.expires_at is None else to_rfc3339(member.expires_at),
        counts=counts,
        decides=counts and is_first,
        event=context.event(membership.key),
    )
