"""`projector explain`: why a job may or may not use an agent."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar

import typer
from redis.asyncio import Redis

from projector.cli import explain_display, rows
from projector.cli.terminal import as_json as written
from projector.cli.terminal import load_settings, run_command
from projector.clients import redis_client as connections
from projector.config.settings import Settings
from projector.events.model import MAX_ID
from projector.explain.model import ExplanationReport
from projector.operators import explain as inquiry

T = TypeVar("T")

NOT_ALLOWED: Final = 1
JobId = Annotated[int, typer.Argument(metavar="JOB", help="The job's id.", min=1, max=MAX_ID)]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead.")]


def explain(
    job: JobId,
    agent: Annotated[
        int | None,
        typer.Argument(
            metavar="AGENT", help="The agent's id; without it all agents.", min=1, max=MAX_ID
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say why a job may or may not use an agent, and which events made it so.

    The answer is computed from the facts in Redis by the rules that the worker applies, and is
    never older than what lookups get. In brackets stands the event behind each line: its topic,
    partition and offset in Kafka (of a replayed one its original's), and when Kafka took it.
    Read on in docs/explain.md.

    Exits with 0 when the job may use AGENT (without AGENT: with any answer); with 1 when it may
    not; with 2 when there is no such job; with 3 when Redis cannot be reached.

    \b
    projector explain 9
    projector explain 9 6
    projector explain 9 --json | jq '.explanation.agents[] | {id, verdict, rule}'
    """
    settings = load_settings()
    found: ExplanationReport = run_command(
        settings, with_redis(settings, lambda r: inquiry.explain_job(r, settings, job, agent))
    )
    if as_json:
        typer.echo(written(found))
    else:
        answer = found.explanation.sentence
        rows.show(answer, explain_display.style(found), explain_display.rows(found))
    asked = found.explanation.agent
    raise typer.Exit(NOT_ALLOWED if asked and asked.verdict == "refused" else 0)


async def with_redis(settings: Settings, work: Callable[[Redis], Awaitable[T]]) -> T:
    """What `work` finds in the Redis of the settings."""
    redis = connections.create_redis(settings)
    try:
        return await work(redis)
    finally:
        await redis.aclose()
