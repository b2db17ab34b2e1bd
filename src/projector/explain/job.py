"""Writes down why a token gets what it gets: the judgement, and the events behind it."""

from typing import Final

from projector.domain import fact_keys
from projector.domain.decision import Membership
from projector.domain.entities import Group, Job, Project
from projector.domain.fact_index import FactIndex
from projector.domain.fact_keys import Key
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
    """The explanation; KeyError if the partition's facts hold nothing about the job."""
    case = ExplanationContext(facts, partition, question)
    judgement = case.judgement
    asked = agent.explain_asked_agent(case)
    listed = [agent.explain_candidate(case, c) for c in judgement.candidates[:MAX_AGENTS]]
    return Explanation(
        sentence=_sentence(case, asked),
        status=judgement.status,
        rule=judgement.rule,
        reason=case.reason,
        at=to_rfc3339(question.now),
        partition=partition,
        job=_job(case, case.job) if case.job else None,
        project=_project(case, case.job) if case.job else None,
        groups=_groups(case),
        user=_user(case, case.job) if case.job else None,
        role=_role(case),
        agents=listed,
        more_agents=len(judgement.candidates) - len(listed),
        agent=asked,
    )


def _sentence(case: ExplanationContext, asked: ExplainedAgent | None) -> str:
    if asked:
        may = "may" if asked.verdict == "allowed" else "may not"
        return f"Job {case.number} {may} use agent {asked.id}: {asked.sentence}"
    if case.reason:
        return f"Job {case.number} gets {case.judgement.status.value}: {case.reason}"
    total = len(case.judgement.candidates)
    allowed = sum(not candidate.refused_by for candidate in case.judgement.candidates)
    return messages.allowed_sentence(case.number, allowed, total)


# the job, where it runs, and for whom


def _job(case: ExplanationContext, job: Job) -> ExplainedJob:
    ended = fact_keys.token_key(case.root, case.digest)
    return ExplainedJob(
        id=case.number,
        root=case.root,
        pipeline=job.pipeline,
        user=job.user,
        environment=_environment(job),
        ref_protected=job.ref_protected,
        expires_at=to_rfc3339(job.expires_at),
        expired=job.expires_at <= case.question.now,
        finished=job.finished,
        event=case.event(ended if case.is_ended else case.question.key),
    )


def _environment(job: Job) -> ExplainedEnvironment | None:
    found = job.environment
    return ExplainedEnvironment(found.name, found.slug, found.tier) if found else None


def _project(case: ExplanationContext, job: Job) -> ExplainedScope:
    key = fact_keys.project_key(case.root, job.project)
    return _scope(case, key, case.facts.project(case.root, job.project))


def _groups(case: ExplanationContext) -> list[ExplainedScope]:
    project = case.job and case.facts.project(case.root, case.job.project)
    ids, _ = case.facts.chain(case.root, project.group if project else None)
    return [
        _scope(case, fact_keys.group_key(case.root, group), case.facts.group(case.root, group))
        for group in ids
    ]


def _scope(case: ExplanationContext, key: Key, data: Group | Project | None) -> ExplainedScope:
    return ExplainedScope(
        kind="group" if fact_keys.kind_of(key) == "group" else "project",
        id=fact_keys.id_of(key),
        known=data is not None,
        path=data.path if data else None,
        event=case.event(key),
    )


def _user(case: ExplanationContext, job: Job) -> ExplainedUser:
    known = case.user
    return ExplainedUser(
        id=job.user,
        username=known.username if known else job.username,
        state=known.state if known else "active",
        event=case.event(fact_keys.user_key(job.user)),
    )


# the role


def _role(case: ExplanationContext) -> ExplainedRole | None:
    judgement, needed = case.judgement, case.question.minimum_level
    if judgement.status not in (200, 403):
        return None
    # Those in force first, the highest of them first; else by scope, the nearest first.
    listed = sorted(judgement.memberships, key=lambda m: (not _counts(case, m), -m.member.level))
    return ExplainedRole(
        level=judgement.level,
        role=messages.role_name(judgement.level),
        required_level=needed,
        required_role=messages.role_name(needed),
        suffices=judgement.level >= needed,
        memberships=[
            _membership(case, membership, is_first=position == 0)
            for position, membership in enumerate(listed[:MAX_MEMBERSHIPS])
        ],
        more=max(0, len(listed) - MAX_MEMBERSHIPS),
    )


def _counts(case: ExplanationContext, membership: Membership) -> bool:
    return membership.member.counts(case.question.now)


def _membership(
    case: ExplanationContext, membership: Membership, *, is_first: bool
) -> ExplainedMembership:
    scope, _ = fact_keys.membership_of(membership.key)
    member, counts = membership.member, _counts(case, membership)
    return ExplainedMembership(
        scope="group" if fact_keys.kind_of(scope) == "group" else "project",
        scope_id=fact_keys.id_of(scope),
        via=fact_keys.via_of(membership.key),
        level=member.level,
        role=messages.role_name(member.level),
        expires_at=None if member.expires_at is None else to_rfc3339(member.expires_at),
        counts=counts,
        decides=counts and is_first,
        event=case.event(membership.key),
    )
