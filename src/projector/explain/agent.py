"""The part of an explanation that is about one agent: candidate or not, allowed or not, and why."""

from typing import Any, Final

import msgspec

from projector.domain import authorization_filter, evaluator, fact_keys
from projector.domain.authorizations import AgentAuthorization
from projector.domain.decision import Candidate
from projector.explain import missing_agent
from projector.explain.context import ExplanationContext
from projector.explain.missing_agent import MissingAgent
from projector.explain.model import ExplainedAgent, ExplainedAuthorization

MAX_LOST: Final = 20
MAX_CONFIGURATION_BYTES: Final = 16 * 1024


def explain_candidate(case: ExplanationContext, found: Candidate) -> ExplainedAgent:
    """An agent that reaches the job's project."""
    assert case.job is not None  # noqa: S101  only started jobs have candidates
    sentence = case.said(case.job, found.effective, found.refused_by)
    part = _part(case, found.effective.agent, found.refused_by, sentence, found.effective)
    return msgspec.structs.replace(
        part,
        lost=[_lost(case, way) for way in found.authorizations[1 : 1 + MAX_LOST]],
        left_out=missing_agent.rejected_entries(case.facts, case.root, part.id, case.place),
    )


def explain_asked_agent(case: ExplanationContext) -> ExplainedAgent | None:
    """The agent that is asked for, whether it reaches the project or not."""
    agent = case.question.agent
    if agent is None:
        return None
    for found in case.judgement.candidates:
        if found.effective.agent == agent:
            return explain_candidate(case, found)
    if case.judgement.status not in (200, 403):
        return _part(case, agent, case.judgement.rule, case.reason or "")
    return _absent(
        case, agent, missing_agent.find_missing_agent(case.facts, case.root, agent, case.place)
    )


def _absent(case: ExplanationContext, agent: int, found: MissingAgent) -> ExplainedAgent:
    return msgspec.structs.replace(
        _part(case, agent, found.rule, found.sentence),
        left_out=missing_agent.rejected_entries(case.facts, case.root, agent, case.place),
        grants=found.grants,
        more_grants=found.more_grants,
    )


def _part(
    case: ExplanationContext,
    agent: int,
    rule: str | None,
    sentence: str,
    won: AgentAuthorization | None = None,
) -> ExplainedAgent:
    about = missing_agent.about(case.facts, case.root, agent, won)
    project = about.config_project
    return ExplainedAgent(
        id=agent,
        name=about.name,
        config_project=project,
        verdict="refused" if rule else "allowed",
        rule=rule,
        sentence=sentence,
        source=won.source if won else None,
        group=won.group if won else None,
        configuration=_shown(won),
        event=case.event(about.key),
        configuration_event=case.event(fact_keys.configuration_key(case.root, agent)),
        config_project_event=None
        if project is None
        else case.event(fact_keys.project_key(case.root, project)),
        lost=[],
        left_out=[],
        grants=[],
        more_grants=0,
    )


def _lost(case: ExplanationContext, way: AgentAuthorization) -> ExplainedAuthorization:
    assert case.job is not None  # noqa: S101  only started jobs have ways
    level, needed = case.judgement.level, case.question.minimum_level
    rule = evaluator.refusing_rule(
        way, authorization_filter.filter_context(case.job), level, needed
    )
    return ExplainedAuthorization(way.source, way.group, rule, case.said(case.job, way, rule))


def _shown(way: AgentAuthorization | None) -> dict[str, Any] | None:
    if way is None or len(msgspec.json.encode(way.configuration)) > MAX_CONFIGURATION_BYTES:
        return None
    return way.configuration
