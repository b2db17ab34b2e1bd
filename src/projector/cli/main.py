"""The `projector` command."""

from importlib.metadata import version
from typing import Annotated, Final

import typer

from projector.cli import (
    audit_command,
    feed_command,
    rebuild_command,
    schemas_command,
    serve_commands,
    verify_command,
)
from projector.cli.dead_letter_commands import app as dead_letters
from projector.cli.explain_command import explain
from projector.cli.inspect_command import app as inspect
from projector.cli.status_command import status
from projector.cli.terminal import (
    errors,
    load_settings,
    run_command,
)
from projector.config.env import variable_name
from projector.events.model import Topic
from projector.kafka import topics as kafka_topics

HELP: Final = """Which cluster agents may a CI job token use? Events in, one answer per token out.

Exits with 0 when all is well; with 1 when a check found something, or a server cannot go on; with 2
when you must correct something first: a setting, an argument, a line of a file, a topic, a dead
letter, an unknown job or partition, a port in use; with 3 when Kafka or Redis cannot be reached.

The reason is on stderr. Logs are on stderr too: JSON, one event a line, or plain text on a
terminal. Settings are environment variables (docs/settings.md); give every command those of the
workers.
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(inspect, name="inspect")
app.command()(explain)
app.command()(status)
app.command()(serve_commands.worker)
app.command()(serve_commands.api)
app.command()(serve_commands.ops)
app.command()(serve_commands.dev)
app.command()(feed_command.feed)
app.command("schemas")(schemas_command.generate)
app.command("verify")(verify_command.verify_views)
app.command("audit")(audit_command.audit_facts)
app.command("rebuild")(rebuild_command.rebuild_partitions)


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


@app.command()
def topics() -> None:
    """Create the topics that are missing, check those that exist, list their partitions.

    Exits with 0 when all are as they must be; with 2 when one is unusable; with 3 when Kafka
    cannot be reached.

    \b
    PROJECTOR_PARTITIONS=64 projector topics
    """
    settings = load_settings()
    found = run_command(settings, kafka_topics.create_topics(settings))
    for name, count in found.items():
        typer.echo(f"{settings.topic(name)}: {count} partition{'' if count == 1 else 's'}")
    if "partitions" in settings.model_fields_set and settings.partitions != found[Topic.MEMBERSHIP]:
        note = (
            f"{variable_name('partitions')} is {settings.partitions} and changes nothing: the topics "
            f"that were there have {found[Topic.MEMBERSHIP]}. Another number needs new topics, "
            f"under another {variable_name('topic_prefix')}, fed anew"
        )
        errors.print(note, markup=False, emoji=False, soft_wrap=True)


def main() -> None:
    """Run the command line."""
    app()
