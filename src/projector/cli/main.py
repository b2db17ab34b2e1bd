"""The `projector` command: its commands, in order."""

import os
import signal
import sys
from collections.abc import Callable
from itertools import groupby
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from projector import own_api
from projector.cli.usage import checks, dead_letters, events, gitlab, inspect, rebuild, serve

HELP: Final = """Which cluster agents may a CI job token use? Events in, one answer per token out.

Exits with 0 when all is well; with 1 when a check found something, or a server cannot go on; with 2
when you must correct something first: a setting, an argument, a line of a file, a topic, a dead
letter, an unknown job, agent or partition, a port in use; with 3 when Kafka or Redis cannot be
reached.

The reason is on stderr. Logs are on stderr too: JSON, one event a line, or plain text on a
terminal.

Settings are environment variables (docs/settings.md). PROJECTOR_KAFKA and PROJECTOR_REDIS_URL name
the servers, both on 127.0.0.1 unless set. Give every command those of the workers.
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

    def list_commands(self, _ctx: Any) -> list[str]:
        """Return the names in the order in which the commands were added, groups too."""
        order = [LOOK, FEED, RUN, REPAIR, SET_UP]
        return sorted(self.commands, key=lambda name: order.index(_heading(self.commands[name])))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands in sections, each under its heading."""
        names = self.list_commands(ctx)
        width = formatter.width - max(map(len, names)) - 6
        for heading, section in groupby(names, lambda name: _heading(self.commands[name])):
            with formatter.section(heading):
                formatter.write_dl(
                    [(name, self.commands[name].get_short_help_str(width)) for name in section],
                    col_max=max(map(len, names)),
                )


def _heading(command: Any) -> str:
    return str(command.rich_help_panel)


app = typer.Typer(
    cls=Commands,
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# `--help` lists the commands in this order, under these headings. A description that is longer
# than 50 characters would be cut on a terminal of 80 columns.
LOOK, FEED, RUN, REPAIR, SET_UP = "Look", "Feed", "Run", "Repair", "Set up"


def _add(name: str, heading: str, about: str, command: Callable[..., None]) -> None:
    app.command(name, short_help=about, rich_help_panel=heading)(command)


def _add_group(name: str, heading: str, about: str, group: typer.Typer) -> None:
    app.add_typer(group, name=name, short_help=about, rich_help_panel=heading)


_add("status", LOOK, "Show what is wrong, and how fresh all is.", checks.status)
_add("explain", LOOK, "Explain why a job may or may not use an agent.", checks.explain)
_add_group("inspect", LOOK, "Show what Redis holds of a job, token or agent.", inspect.app)
_add("feed", FEED, "Check a file of events, and send them.", events.feed)
_add_group("gitlab", FEED, "Feed from GitLab's PostgreSQL.", gitlab.app)
_add("ingest", FEED, "Take events over HTTP, send them to Kafka.", serve.ingest)
_add("worker", RUN, "Consume the topics, keep the views up to date.", serve.worker)
_add("api", RUN, "Answer lookups over HTTP.", serve.api)
_add("ops", RUN, "Serve the operators' page alone, at /ops/.", serve.ops)
_add("dev", RUN, "Run everything here, in memory, to try it.", serve.dev)
_add_group("dead-letters", REPAIR, "List, show and replay refused events.", dead_letters.app)
_add("verify", REPAIR, "Compare the views with the facts.", checks.verify)
_add("audit", REPAIR, "Compare the facts with an upstream export.", checks.audit)
_add("rebuild", REPAIR, "Rebuild facts and views from the topics.", rebuild.rebuild_partitions)
_add("topics", SET_UP, "Create the missing topics, check the others.", events.topics)
_add("schemas", SET_UP, "Print the contract for events, as AsyncAPI.", events.schemas)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

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
    if os.getpid() == 1:
        _end_on_sigterm()
    own_api.claim()
    leave_out_unused_libraries()
    app()


def _end_on_sigterm() -> None:
    """End on SIGTERM as a process that is not the first of its container does.

    Linux spares the first one without a handler of its own: `docker stop` would then wait ten
    seconds, and kill it.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def leave_out_unused_libraries() -> None:
    """Let structlog, redis and pydantic start without what they import wherever it exists.

    The product does not use rich's tracebacks, nor plugins of pydantic, and OpenTelemetry's SDK
    only where its variables are set. Each costs a command 10 to 40 ms.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    unused = ["rich.traceback"]
    if not any(name.startswith("OTEL_") for name in os.environ):
        unused.append("opentelemetry.sdk")
    # Python refuses to import a module that is None here, as if it were not installed.
    sys.modules.update(dict.fromkeys(unused))  # type: ignore[arg-type]
