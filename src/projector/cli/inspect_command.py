"""`projector inspect`: a job, a token, a partition or an agent as Redis holds it."""

import getpass
import hashlib
import re
import sys
from typing import Annotated, Final

import typer
from msgspec import Struct

from projector.cli import inspect_display
from projector.cli.options import AsJson
from projector.cli.rows import Row, show_answer
from projector.cli.terminal import (
    FINDING,
    WRONG,
    as_json,
    fail,
    load_settings,
    run_command,
    with_redis,
)
from projector.domain.decision import ViewRules
from projector.domain.views import ViewId
from projector.events.model import MAX_ID
from projector.events.partitioning import MAX_PARTITIONS
from projector.operators import inspect

MAX_TOKEN: Final = 8192
_TOKEN: Final = re.compile(rf"[\x21-\x7e]{{1,{MAX_TOKEN}}}")
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")

app = typer.Typer(
    help="Show a job, a token, a partition or an agent as Redis holds it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def job(
    number: Annotated[int, typer.Argument(metavar="ID", help="The job's id.", min=1, max=MAX_ID)],
    as_json_: AsJson = False,
) -> None:
    """Show a job: its token's SHA-256 if it has one, the record that answers lookups, its fact.

    Exits with 0; with 1 when nothing is known; with 3 when Redis cannot be reached.

    \b
    projector inspect job 9
    projector inspect job 9 --json | jq .token.record.body
    """
    settings = load_settings()
    found = run_command(
        settings, with_redis(settings, lambda redis: inspect.inspect_job(redis, number))
    )
    known = found.token is not None or bool(found.facts)
    answer = f"Job {number}" if known else f"Nothing is known about job {number}"
    _show(found, answer, inspect_display.job(found), as_json_=as_json_, known=known)


@app.command()
def token(
    arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="The token's SHA-256 instead of the token.")
    ] = None,
    as_json_: AsJson = False,
) -> None:
    """Show what a token gets. The token is read from standard input, or asked for and not shown.

    It is never an argument: other users see those. Only its SHA-256 leaves this process.

    Exits with 0; with 1 when there is no record of it; with 3 when Redis cannot be reached.

    \b
    projector inspect token
    projector inspect token < file-with-the-token
    projector inspect token --sha256 "$digest" --json | jq .record.status
    """
    if arguments:
        fail(
            WRONG,
            "a token is never an argument: other users see those, and shells keep them. "
            "Give it on standard input, or run the command without it and be asked",
        )
    digest = _digest(sha256)
    settings = load_settings()
    found = run_command(
        settings, with_redis(settings, lambda redis: inspect.inspect_view(redis, digest))
    )
    known = found.record is not None
    answer = "The token" if known else "There is no record of the token: lookups get 401, or 503"
    _show(found, answer, inspect_display.token(found), as_json_=as_json_, known=known)


@app.command()
def partition(
    number: Annotated[
        int,
        typer.Argument(metavar="N", help="Its number, from 0.", min=0, max=MAX_PARTITIONS - 1),
    ],
    as_json_: AsJson = False,
) -> None:
    """Show a partition: owner, freshness, offsets, facts, live tokens, letters that wait.

    A stamp may wait for a source of PROJECTOR_SOURCES; then a line names it.

    Exits with 0; with 2 when there is no such partition; with 3 when Redis cannot be reached.

    \b
    projector inspect partition 15
    projector inspect partition 15 --json | jq .age
    """
    settings = load_settings()
    found = run_command(
        settings, with_redis(settings, lambda redis: inspect.inspect_partition(redis, number))
    )
    answer = f"Partition {number}"
    _show(found, answer, inspect_display.partition(found), as_json_=as_json_, known=True)


@app.command()
def agent(
    number: Annotated[int, typer.Argument(metavar="ID", help="The agent's id.", min=1, max=MAX_ID)],
    as_json_: AsJson = False,
) -> None:
    """Show an agent: its facts, what its configuration grants, which jobs may use it now.

    Exits with 0; with 1 when nothing is known; with 3 when Redis cannot be reached.

    \b
    projector inspect agent 5
    projector inspect agent 5 --json | jq .jobs_total
    """
    settings = load_settings()
    rules = ViewRules(settings.minimum_level, settings.max_view_bytes)
    found = run_command(
        settings, with_redis(settings, lambda redis: inspect.inspect_agent(redis, rules, number))
    )
    known = bool(found.facts)
    answer = f"Agent {number}" if known else f"Nothing is known about agent {number}"
    _show(found, answer, inspect_display.agent(found), as_json_=as_json_, known=known)


def _digest(sha256: str | None) -> ViewId:
    if sha256 is not None:
        if not _DIGEST.fullmatch(sha256):
            fail(WRONG, "--sha256 must be 64 hexadecimal digits")
        return ViewId(sha256.lower())
    given = _read_token()
    if not _TOKEN.fullmatch(given):
        fail(WRONG, f"a token is 1 to {MAX_TOKEN} visible ASCII characters, without spaces")
    return ViewId(hashlib.sha256(given.encode()).hexdigest())


def _read_token() -> str:
    if sys.stdin.isatty():
        return getpass.getpass("token: ").strip()
    return sys.stdin.readline(MAX_TOKEN + 2).strip()


def _show(found: Struct, answer: str, rows: list[Row], *, as_json_: bool, known: bool) -> None:
    if as_json_:
        typer.echo(as_json(found))
    else:
        show_answer(answer, "", rows)
    raise typer.Exit(0 if known else FINDING)
