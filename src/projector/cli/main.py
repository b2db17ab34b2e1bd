"""The `projector` command: its commands, in order."""

import os
import sys
from importlib.metadata import version
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from projector.cli import (
    audit_command,
    dead_letter_commands,
    explain_command,
    feed_command,
    gitlab_commands,
    inspect_command,
    rebuild_command,
    schemas_command,
    serve_commands,
    status_command,
    topics_command,
    verify_command,
)

HELP: Final = """Which cluster agents may a CI job token use? Events in, one answer per token out.

Exits with 0 when all is well; with 1 when a check found something, or a server cannot go on; with 2
when you must correct something first: a setting, an argument, a line of a file, a topic, a dead
letter, an unknown job or partition, a port in use; with 3 when Kafka or Redis cannot be reached.

The reason is on stderr. Logs are on stderr too: JSON, one event a line, or plain text on a
terminal. Settings are environment variables (docs/settings.md); give every command those of the
workers.
"""

# The status that a shell gives a program which SIGPIPE ended.
OUTPUT_CLOSED: Final = 128 + 13


class Commands(TyperGroup):
    """The commands, which end silently once their output is closed (`| head -1`)."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; end with `OUTPUT_CLOSED` if its output is closed."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # What is left in the buffer would fail again at the end of the process.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(OUTPUT_CLOSED) from None


app = typer.Typer(
    cls=Commands,
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
# `--help` and docs/commands.md list the commands in this order, the groups last.
app.add_typer(dead_letter_commands.app, name="dead-letters")
app.add_typer(inspect_command.app, name="inspect")
app.add_typer(gitlab_commands.app, name="gitlab")
app.command("explain")(explain_command.explain)
app.command("status")(status_command.status)
app.command("worker")(serve_commands.worker)
app.command("api")(serve_commands.api)
app.command("ops")(serve_commands.ops)
app.command("dev")(serve_commands.dev)
app.command("feed")(feed_command.feed)
app.command("schemas")(schemas_command.schemas)
app.command("verify")(verify_command.verify)
app.command("audit")(audit_command.audit)
app.command("rebuild")(rebuild_command.rebuild_partitions)
app.command("topics")(topics_command.topics)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("allowed-agents-projector"))
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line."""
    app()
