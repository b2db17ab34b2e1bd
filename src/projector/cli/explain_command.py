"""`projector explain`: why a job may or may not use an agent."""

from typing import Annotated, Final

import typer

from projector.cli import explain_display
from projector.cli.options import AsJson
from projector.cli.rows import show_answer
from projector.cli.terminal import as_json, load_settings, run_command, with_redis
from projector.events.model import MAX_ID
from projector.operators.explain import explain_job

NOT_ALLOWED: Final = 1


def explain(
    job: Annotated[int, typer.Argument(metavar="JOB", help="The job's id.", min=1, max=MAX_ID)],
    agent: Annotated[
        int | None,
        typer.Argument(
            metavar="AGENT", help="The agent's id; without it all agents.", min=1, max=MAX_ID
        ),
    ] = None,
    as_json_: AsJson = False,
) -> None:
    """Explain why a job may or may not use an agent, and name the events behind it.

    The answer is computed from the facts in Redis by the workers' rules, and is never older than
    what lookups get. A line ends with the event that it comes from: topic, partition and offset in
    Kafka (of a replay, the original's), and Kafka's time. Read on in docs/explain.md.

    Exits with 0 when the job may use AGENT (without AGENT: with any answer); with 1 when it may
    not; with 2 when there is no such job; with 3 when Redis cannot be reached.

    \b
    projector explain 9
    projector explain 9 6
    projector explain 9 --json | jq '.explanation.agents[] | {id, verdict, rule}'
    """
    settings = load_settings()
    report = run_command(
        settings, with_redis(settings, lambda redis: explain_job(redis, settings, job, agent))
    )
    if as_json_:
        typer.echo(as_json(report))
    else:
        sentence = report.explanation.sentence
        show_answer(sentence, explain_display.style(report), explain_display.rows(report))
    asked = report.explanation.agent
    raise typer.Exit(NOT_ALLOWED if asked and asked.verdict == "refused" else 0)
