"""Usage of `projector inspect`."""

from typing import Annotated

import typer

from projector.cli.usage.options import AsJson
from projector.events.model import MAX_ID
from projector.events.partitioning import MAX_PARTITIONS

app = typer.Typer(
    help="Show a job, a token, a partition or an agent as Redis holds it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(short_help="Show a job: its record in Redis, its fact.")
def job(
    number: Annotated[int, typer.Argument(metavar="ID", help="The job's id.", min=1, max=MAX_ID)],
    as_json: AsJson = False,
) -> None:
    """Show a job: its token's SHA-256 if it has one, the record that answers lookups, its fact.

    Exits with 0; with 2 when there is no such job; with 3 when Redis cannot be reached.

    \b
    projector inspect job 9
    projector inspect job 9 --json | jq .token.record.body
    """
    from projector.cli import inspect_command

    inspect_command.job(number, json=as_json)


# A token among the arguments is refused by the command, in a sentence that does not repeat it.
@app.command(
    short_help="Show what a token gets; it is asked for.",
    context_settings={"allow_extra_args": True},
)
def token(
    context: typer.Context,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="The token's SHA-256 instead of the token.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a token gets. The token is read from standard input, or asked for and not shown.

    It is never an argument: other users see those. Only its SHA-256 leaves this process.

    A token that GitLab signed is checked as lookups check it, if PROJECTOR_JOB_TOKEN_KEYS and
    PROJECTOR_JOB_TOKEN_ISSUER are set here too.

    Exits with 0; with 1 when it is refused, or there is no record of it; with 3 when Redis cannot
    be reached.

    \b
    projector inspect token
    projector inspect token < file-with-the-token
    projector inspect token --sha256 "$digest" --json | jq .record.status
    """
    from projector.cli import inspect_command

    inspect_command.token(context.args, sha256, json=as_json)


@app.command(short_help="Show a partition: owner, freshness, contents.")
def partition(
    number: Annotated[
        int,
        typer.Argument(metavar="N", help="Its number, from 0.", min=0, max=MAX_PARTITIONS - 1),
    ],
    as_json: AsJson = False,
) -> None:
    """Show a partition: owner, freshness, offsets, facts, live tokens, letters not in Kafka yet.

    A stamp may wait for a source of PROJECTOR_SOURCES; then a line names it.

    Exits with 0; with 2 when there is no such partition; with 3 when Redis cannot be reached.

    \b
    projector inspect partition 15
    projector inspect partition 15 --json | jq .age
    """
    from projector.cli import inspect_command

    inspect_command.partition(number, json=as_json)


@app.command(short_help="Show an agent: its grants, and the jobs that may use it.")
def agent(
    number: Annotated[int, typer.Argument(metavar="ID", help="The agent's id.", min=1, max=MAX_ID)],
    as_json: AsJson = False,
) -> None:
    """Show an agent: its facts, what its configuration grants, which jobs may use it now.

    Exits with 0; with 2 when there is no such agent; with 3 when Redis cannot be reached.

    \b
    projector inspect agent 5
    projector inspect agent 5 --json | jq .jobs_total
    """
    from projector.cli import inspect_command

    inspect_command.agent(number, json=as_json)
