"""The explanation of one agent: whether the job may use it, and why."""

from typing import Any, Final

import msgspec

from projector.domain import authorization_filter, evaluator, fact_keys
from projector.domain.authorizations import AgentAuthorization
from projector.domain.decision import Candidate, Rule
from projector.domain.entities import Job
from projector.explain import messages, missing_agent
from projector.explain.context import ExplanationContext
from projector.explain.model import ExplainedAgent, ExplainedAuthorization

# Bounds that keep an explanation readable, also for very large agent files.
MAX_LOST: Final = 20
MAX_CONFIGURATION_BYTES: Final = 16 * 1024


def explain_candidate(context: ExplanationContext, found: Candidate) -> ExplainedAgent:
    """Explain an agent that is authorized for the job's project."""
    assert context.job is not None  # noqa: S101  only started jobs have candidates
    effective, rule = found.effective, found.refused_by
    sentence = _sentence(context, context.job, effective, rule)
    return msgspec.structs.replace(
        _explained(context, effective.agent, rule, sentence, effective),
        lost=[
            _lost(context, context.job, authorization)
            for authorization in found.authorizations[1 : 1 + MAX_LOST]
        ],
        left_out=_left_out(context, effective.agent),
    )


def explain_asked_agent(context: ExplanationContext) -> ExplainedAgent | None:
    """Explain the agent that the question names, authorized or not; None if it names none."""
    agent = context.question.agent
    if agent is None:
        return None
    for found in context.decision.candidates:
        if found.effective.agent == agent:
            return explain_candidate(context, found)
    if context.decision.status not in (200, 403):
        return _explained(context, agent, context.decision.rule, context.reason or "")
    return _missing(context, agent)


def _missing(context: ExplanationContext, agent: int) -> ExplainedAgent:
    found = missing_agent.find_missing_agent(context.facts, context.root, agent, context.scopes)
    return msgspec.structs.replace(
        _explained(context, agent, found.rule, found.sentence),
        left_out=_left_out(context, agent),
        grants=found.grants,
        more_grants=found.more_grants,
    )


def _left_out(context: ExplanationContext, agent: int) -> list[str]:
    facts, root, scopes = context.facts, context.root, context.scopes
    ignored = missing_agent.ignored_grant(facts, root, agent, scopes)
    return missing_agent.rejected_entries(facts, root, agent, scopes) + (
        [ignored] if ignored else []
    )


def _explained(
    context: ExplanationContext,
    agent: int,
    rule: str | None,
    sentence: str,
    effective: AgentAuthorization | None = None,
) -> ExplainedAgent:
    known = missing_agent.find_agent(context.facts, context.root, agent, effective)
    project = known.config_project
    return ExplainedAgent(
        id=agent,
        name=known.name,
        config_project=project,
        verdict="refused" if rule else "allowed",
        rule=rule,
        sentence=sentence,
        source=effective.source if effective else None,
        group=effective.group if effective else None,
        configuration=_shown_configuration(effective),
        event=context.event(known.key),
        configuration_event=context.event(
            missing_agent.granting_key(context.facts, context.root, agent)
        ),
        config_project_event=None
        if project is None
        else context.event(fact_keys.project_key(context.root, project)),
        lost=[],
        left_out=[],
        grants=[],
        more_grants=0,
    )


def _lost(
    context: ExplanationContext, job: Job, authorization: AgentAuthorization
) -> ExplainedAuthorization:
    level, needed = context.decision.level, context.question.rules.minimum_level
    filtered = authorization_filter.filter_context(job)
    rule = evaluator.refusing_rule(authorization, filtered, level, needed)
    sentence = _sentence(context, job, authorization, rule)
    return ExplainedAuthorization(authorization.source, authorization.group, rule, sentence)


def _sentence(
    context: ExplanationContext, job: Job, authorization: AgentAuthorization, rule: Rule | None
) -> str:
    """Return the verdict of an authorization about the job, effective or not."""
    if rule in (None, Rule.ENVIRONMENTS, Rule.PROTECTED_BRANCHES_ONLY):
        number = authorization.group
        group = None if number is None else context.facts.group(context.root, number)
        path = group.path if group else None
        return messages.authorization_sentence(authorization, rule, job, path)
    if rule == Rule.ROLE:
        level, needed = context.decision.level, context.question.rules.minimum_level
        return messages.role_sentence(job, context.user, level, needed)
    return context.reason or ""


def _shown_configuration(effective: AgentAuthorization | None) -> dict[str, Any] | None:
    if effective is None:
        return None
    size = len(msgspec.json.encode(effective.configuration))
    return effective.configuration if size <= MAX_CONFIGURATION_BYTES else None
