"""The part of an explanation that is about one agent: candidate or not, allowed or not, and why."""

from typing import Any, Final

import msgspec

from projector.domain import authorization_filter, evaluator, fact_keys
from projector.domain.authorizations import Way
from projector.domain.decision import Candidate
from projector.explain import missing_agent
from projector.explain.context import Case
from projector.explain.missing_agent import Absence
from projector.explain.model import AgentPart, WayPart

MAX_LOST: Final = 20
MAX_CONFIGURATION_BYTES: Final = 16 * 1024


def candidate(case: Case, found: Candidate) -> AgentPart:
    """An agent that reaches the job's project."""
    assert case.job is not None  # noqa: S101  only started jobs have candidates
    sentence = case.said(case.job, found.winner, found.refused_by)
    part = _part(case, found.winner.agent, found.refused_by, sentence, found.winner)
    return msgspec.structs.replace(
        part,
        lost=[_lost(case, way) for way in found.ways[1 : 1 + MAX_LOST]],
        left_out=missing_agent.left_out(case.facts, case.root, part.id, case.place),
    )


def asked(case: Case) -> AgentPart | None:
    """The agent that is asked for, whether it reaches the project or not."""
    agent = case.question.agent
    if agent is None:
        return None
    for found in case.judgement.candidates:
        if found.winner.agent == agent:
            return candidate(case, found)
    if case.judgement.status not in (200, 403):
        return _part(case, agent, case.judgement.rule, case.reason or "")
    return _absent(case, agent, missing_agent.find(case.facts, case.root, agent, case.place))


def _absent(case: Case, agent: int, found: Absence) -> AgentPart:
    return msgspec.structs.replace(
        _part(case, agent, found.rule, found.sentence),
        left_out=missing_agent.left_out(case.facts, case.root, agent, case.place),
        grants=found.grants,
        more_grants=found.more_grants,
    )


def _part(
    case: Case, agent: int, rule: str | None, sentence: str, won: Way | None = None
) -> AgentPart:
    about = missing_agent.about(case.facts, case.root, agent, won)
    project = about.config_project
    return AgentPart(
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


def _lost(case: Case, way: Way) -> WayPart:
    assert case.job is not None  # noqa: S101  only started jobs have ways
    level, needed = case.judgement.level, case.question.minimum_level
    rule = evaluator.refusal(way, authorization_filter.context(case.job), level, needed)
    return WayPart(way.source, way.group, rule, case.said(case.job, way, rule))


def _shown(way: Way | None) -> dict[str, Any] | None:
    if way is None or len(msgspec.json.encode(way.configuration)) > MAX_CONFIGURATION_BYTES:
        return None
    return way.configuration
