"""`projector explain`: the answer, and its reasons in the order in which they decide."""

from collections.abc import Iterator
from datetime import datetime
from http import HTTPStatus
from typing import Final

import typer

from projector.cli.display.local_time import local_time_of
from projector.cli.display.rows import Row, show_answer
from projector.cli.terminal import FINDING, as_json, load_settings, run_command, with_redis
from projector.explain.model import (
    ExplainedAgent,
    ExplainedJob,
    ExplainedMembership,
    ExplainedRole,
    ExplainedScope,
    Explanation,
    ExplanationReport,
    StoredView,
)
from projector.operators.explain import explain_job

GOOD: Final = "green"
BAD: Final = "red"
DOUBTFUL: Final = "yellow"


def explain(job: int, agent: int | None, *, events: bool, json: bool) -> None:
    """Explain why a job may or may not use an agent."""
    settings = load_settings()
    report = run_command(
        settings, with_redis(settings, lambda redis: explain_job(redis, settings, job, agent))
    )
    if json:
        typer.echo(as_json(report))
    else:
        sentence = report.explanation.sentence
        rows = _rows(report)
        show_answer(sentence, _style(report), rows, now_ms=_now(report.explanation), events=events)
    asked = report.explanation.agent
    raise typer.Exit(FINDING if asked and asked.verdict == "refused" else 0)


def _now(found: Explanation) -> int:
    """Return the time that the explanation is of, in ms."""
    return round(datetime.fromisoformat(found.at).timestamp() * 1000)


def _style(report: ExplanationReport) -> str:
    """Choose the colour of the answer."""
    found = report.explanation
    if found.agent:
        return GOOD if found.agent.verdict == "allowed" else BAD
    return GOOD if found.status == HTTPStatus.OK else BAD


def _rows(report: ExplanationReport) -> Iterator[Row]:
    """List all that led to the answer; of the agents only the one in the question, if any."""
    found = report.explanation
    if found.job:
        yield Row("job", _job(found.job, _now(found)), found.job.event)
    if found.project:
        yield Row("project", _scope(found.project), found.project.event)
    for group in found.groups:
        yield Row("group", _scope(group), group.event)
    if found.user:
        user = found.user
        yield Row("user", f"{user.id} {user.username}, {user.state}", user.event)
    if found.role:
        yield from _role(found.role, _now(found))
    yield from _agents(found)
    yield Row("view", _view(report.view, _now(found)))
    yield Row("facts", _facts(report))
    for note in report.notes:
        yield Row("note", note, style=DOUBTFUL)


def _job(job: ExplainedJob, now_ms: int) -> str:
    environment = f"environment {job.environment.name}" if job.environment else "no environment"
    state = ", finished" if job.finished else ""
    ref = "protected ref" if job.ref_protected else "ref not protected"
    return (
        f"{job.id} of pipeline {job.pipeline}, root namespace {job.root}, {environment}, {ref}, "
        f"token {'expired' if job.expired else 'expires'} "
        f"{local_time_of(job.expires_at, now_ms)}{state}"
    )


def _scope(scope: ExplainedScope) -> str:
    if scope.known:
        return f"{scope.id} {scope.path}"
    return f"{scope.id}, removed" if scope.event else f"{scope.id}, not known yet"


def _role(role: ExplainedRole, now_ms: int) -> Iterator[Row]:
    needed = f"{role.required_role if role.required_level else 'none'} is needed"
    yield Row("role", f"{role.role}, {needed}", style="" if role.suffices else BAD)
    for membership in role.memberships:
        yield Row("membership", _membership(membership, now_ms), membership.event)
    if role.more:
        yield Row("", f"and {role.more} more memberships")


def _membership(membership: ExplainedMembership, now_ms: int) -> str:
    scope = f"{membership.scope} {membership.scope_id}, {membership.via}"
    expires = membership.expires_at
    until = f", until {local_time_of(expires, now_ms)}" if expires else ""
    if membership.decides:
        return f"{membership.role} in {scope}{until}: decides"
    return f"{membership.role} in {scope}{until}{'' if membership.counts else ': has expired'}"


def _agents(found: Explanation) -> Iterator[Row]:
    for agent in [found.agent] if found.agent else found.agents:
        yield from _agent(agent, answered=agent is found.agent)
    if found.more_agents and not found.agent:
        yield Row("", f"and {found.more_agents} more agents; name one to ask for it")


def _agent(agent: ExplainedAgent, *, answered: bool) -> Iterator[Row]:
    """List one agent; if it is in the question, the answer already has the sentence."""
    name = f" {agent.name}" if agent.name else ""
    colour = GOOD if agent.verdict == "allowed" else BAD
    verdict = f"{agent.verdict}{f' by the rule {agent.rule}' if agent.rule else ''}"
    if not answered:
        verdict = f"{verdict}: {agent.sentence}"
    yield Row("agent", f"{agent.id}{name}, {verdict}", agent.event, colour)
    if agent.config_project is not None:
        project = f"its configuration project is {agent.config_project}"
        yield Row("", project, agent.config_project_event)
    # The agents of the job's own project need no entry.
    if agent.source != "own_project" and (agent.configuration_event or agent.configuration):
        yield Row("", _configuration(agent), agent.configuration_event)
    for lost in agent.lost:
        yield Row("", f"besides, {lost.sentence}; the closer grant decides instead")
    for entry in agent.left_out:
        yield Row("", entry, style=DOUBTFUL)
    if agent.grants:
        more = f" and {agent.more_grants} more" if agent.more_grants else ""
        yield Row("", f"its configuration grants {', '.join(agent.grants)}{more}")


def _configuration(agent: ExplainedAgent) -> str:
    if not agent.source:
        return "its configuration"
    entry = "too large to show" if agent.configuration is None else as_json(agent.configuration)
    return f"the entry that counts: {entry}"


def _view(view: StoredView | None, now_ms: int) -> str:
    if view is None:
        return "there is no record"
    expires = local_time_of(view.expires_at, now_ms)
    return f"status {view.status}, version {view.version}, expires {expires}"


def _facts(report: ExplanationReport) -> str:
    found = report.explanation
    fresh = "never fresh" if report.age is None else f"last fresh {report.age:.1f} s before that"
    at = local_time_of(found.at, _now(found))
    return f"of partition {found.partition} as of {at}, {fresh}"
