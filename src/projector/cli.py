"""The `projector` command."""

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, Any, BinaryIO, Final

import structlog
import typer
from rich.progress import Progress

from projector import agent_file
from projector import feed as feeding
from projector import topics as kafka_topics
from projector.commands import audit_command, mending_commands, rebuild_command, schema_commands
from projector.commands.dead_letter_commands import app as dead_letters
from projector.commands.inquiry_commands import explain
from projector.commands.inspect_commands import app as inspect
from projector.commands.status_command import status
from projector.commands.terminal import (
    WRONG,
    errors,
    fail,
    harmless,
    load_settings,
    opened,
    refuse_lines,
    run,
)
from projector.environment.settings import Settings
from projector.environment.variables import variable
from projector.errors import SetupError
from projector.events import MAX_ID, Topic
from projector.ports import free_port, obstacle

log = structlog.get_logger()

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
app.command("schemas")(schema_commands.generate)
app.command("verify")(mending_commands.verify_views)
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
def worker() -> None:
    """Consume the topics and keep the views in Redis up to date. Run as many as you like.

    Waits for Kafka, Redis and the topics. Let a supervisor start it again whenever it ends: it
    goes on from the checkpoint in Redis.

    Exits with 0 on SIGINT or SIGTERM; with 1 when it cannot go on; with 2 when a setting, a topic
    or a right must be corrected first.

    \b
    PROJECTOR_KAFKA=kafka:9092 PROJECTOR_REDIS_URL=redis://redis:6379/0 projector worker
    """
    from projector import worker as working

    settings = load_settings()
    run(settings, working.run(settings))


@app.command()
def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: a free one.")] = 8000,
    workers: Annotated[int, typer.Option(help="Processes; one per core is plenty.", min=1)] = 1,
) -> None:
    """Answer lookups over HTTP. Reads Redis, writes nothing, needs no Kafka.

    Exits with 0 on SIGINT; with 143 on SIGTERM; with 2 when a setting is wrong or the port is in
    use.

    \b
    projector api --host 0.0.0.0 --workers 4
    """
    settings = load_settings()
    port = _listening_port(settings, host, port)
    log.info(
        "api starting", bind=f"{host}:{port}", processes=workers, redis=settings.redis_place,
        max_staleness=settings.max_staleness, miss_grace=settings.miss_grace,
        max_waiting=settings.max_waiting,
    )  # fmt: skip
    with _shared_counts(workers):
        _serve("api.main:create", settings, host, port, factory=True, workers=workers)


@app.command()
def ops(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: a free one.")] = 8001,
) -> None:
    """Serve the operators' page alone, at /ops/. Reads Redis and Kafka, writes nothing.

    Asks for PROJECTOR_OPS_TOKEN where that is set. Without it, only on a loopback address. What
    the page shows is in docs/operators-page.md.

    Exits with 0 on SIGINT; with 143 on SIGTERM; with 2 when a setting is wrong or the port is in
    use.

    \b
    projector ops
    PROJECTOR_OPS_TOKEN=$(openssl rand -hex 32) projector ops --host 0.0.0.0 --port 9001
    """
    from api.ops import main as operators

    settings = load_settings()
    if found := operators.obstacle(settings, host):
        fail(WRONG, found)
    port = _listening_port(settings, host, port)
    log.info(
        "operators' page starting", bind=f"{host}:{port}", token_needed=bool(settings.ops_secret)
    )
    _serve(operators.create(settings), settings, host, port)


def _listening_port(settings: Settings, host: str, port: int) -> int:
    """The port, or a free one for 0; ends the command where nothing could be served there."""
    from api.protocol import allow_connections

    if found := obstacle(port, host):
        fail(WRONG, f"{found}; choose another with --port, or 0 for a free one")
    try:
        allow_connections(settings.max_connections)
    except SetupError as error:
        fail(WRONG, str(error))
    return port or free_port(host)


def _serve(application: Any, settings: Settings, host: str, port: int, **more: Any) -> None:
    """Serve until a signal; requests, connections and what is logged of them are bounded."""
    import uvicorn

    uvicorn.run(
        application, host=host, port=port,
        http="api.lookup_protocol:LookupProtocol", ws="none",
        limit_concurrency=settings.max_connections,
        # Its warnings are one a malformed request: whoever sends those must not fill the log.
        log_level="error",
        access_log=False, log_config=None, server_header=False, timeout_graceful_shutdown=5, **more,
    )  # fmt: skip


@app.command()
def topics() -> None:
    """Create the topics that are missing, check those that exist, list their partitions.

    Exits with 0 when all are as they must be; with 2 when one is unusable; with 3 when Kafka
    cannot be reached.

    \b
    PROJECTOR_PARTITIONS=64 projector topics
    """
    settings = load_settings()
    found = run(settings, kafka_topics.create(settings))
    for name, count in found.items():
        typer.echo(f"{settings.topic(name)}: {count} partition{'' if count == 1 else 's'}")
    if "partitions" in settings.model_fields_set and settings.partitions != found[Topic.MEMBERSHIP]:
        note = (
            f"{variable('partitions')} is {settings.partitions} and changes nothing: the topics "
            f"that were there have {found[Topic.MEMBERSHIP]}. Another number needs new topics, "
            f"under another {variable('topic_prefix')}, fed anew"
        )
        errors.print(note, markup=False, emoji=False, soft_wrap=True)


@app.command()
def feed(  # noqa: PLR0913  one for each option
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="File with one CloudEvent (JSON) a line; - for stdin.",
            show_default=False,
        ),
    ] = None,
    *,
    agent_config: Annotated[
        str | None,
        typer.Option(
            metavar="YAML",
            help="Instead of FILE: an agent's .gitlab/agents/<name>/config.yaml; - for stdin.",
        ),
    ] = None,
    agent: Annotated[
        int | None, typer.Option(metavar="ID", help="The agent's id.", min=1, max=MAX_ID)
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The agent's name.")] = None,
    project: Annotated[
        int | None,
        typer.Option(metavar="ID", help="The project that holds the YAML.", min=1, max=MAX_ID),
    ] = None,
    partitionkey: Annotated[
        int | None,
        typer.Option(
            metavar="ID", help="The top-level group, or user namespace.", min=1, max=MAX_ID
        ),
    ] = None,
) -> None:
    """Check every line of FILE, then send all events and wait until Kafka has them.

    A bad line is named by its number and the reason, never by its content, and nothing is sent.
    With --agent-config, give --agent, --name, --project and --partitionkey too: the events that
    the agent's file means are sent.

    Exits with 0 when Kafka has acknowledged everything; with 2 when any line is bad or there is
    none (then nothing was sent); with 3 when Kafka cannot be reached.

    \b
    projector feed examples/events.ndjson
    my-export | projector feed -
    projector feed --agent-config examples/agent-config.yaml --agent 5 --name production \\
        --project 123213 --partitionkey 3
    """
    about: dict[str, Any] = {
        "--agent": agent, "--name": name, "--project": project, "--partitionkey": partitionkey,
    }  # fmt: skip
    path = _one_source(file, agent_config, about)
    settings = load_settings()
    with opened(path) if agent_config is None else _agent_events(path, about) as source:
        count, bad = feeding.check(source)
        if bad:
            refuse_lines(path, bad)
        if not count:
            # Perhaps whoever should have written it has failed: that is no success.
            fail(WRONG, f"{path}: there is no event in it; nothing was sent")
        source.seek(0)
        with Progress(console=errors, disable=not errors.is_terminal) as progress:
            task = progress.add_task("sending", total=count)
            run(settings, feeding.send(source, settings, lambda: progress.advance(task)))
    typer.echo(f"{count} event{'' if count == 1 else 's'} acknowledged by Kafka")


@app.command()
def dev(
    port: Annotated[int, typer.Option(help="Port of the API; 0: a free one.")] = 8000,
) -> None:
    """Run everything here: embedded Kafka and Redis (memory only), a worker and the API.

    Kafka or Redis are not embedded where PROJECTOR_KAFKA or PROJECTOR_REDIS_URL name others. What
    is embedded is gone when it stops. Prints `ready api=... kafka=... redis=...` when every
    partition is fresh.

    Exits with 0 on SIGINT or SIGTERM; with 2 when a setting is wrong, the port is in use, or an
    embedded server ends.

    \b
    projector dev --port 0
    """
    from projector import dev as environment

    settings = load_settings()
    run(settings, environment.run(settings, port))


def main() -> None:
    """Run the command line."""
    app()


@contextmanager
def _shared_counts(workers: int) -> Iterator[None]:
    """Where several processes of the API add up what they count; set before any of them starts."""
    if workers == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="projector-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        yield


def _one_source(file: str | None, agent_config: str | None, about: dict[str, Any]) -> str:
    """The path of what to send, which is FILE or an agent's file with all that it does not say."""
    given = [option for option, value in about.items() if value is not None]
    missing = [option for option in about if option not in given]
    if file is not None and agent_config is not None:
        fail(WRONG, "give FILE or --agent-config, not both")
    if agent_config is None and given:
        fail(WRONG, f"{', '.join(given)}: only with --agent-config")
    if agent_config is not None and missing:
        fail(WRONG, f"--agent-config also needs {', '.join(missing)}")
    if file is None and agent_config is None:
        fail(WRONG, "give FILE, - for standard input, or --agent-config; --help shows how")
    return str(agent_config if file is None else file)


@contextmanager
def _agent_events(path: str, about: dict[str, Any]) -> Iterator[BinaryIO]:
    """The events that an agent's file means, a line each."""
    agent_id, name, project, partitionkey = about.values()
    agent = agent_file.Agent(agent_id, name, project, str(partitionkey))
    with opened(path) as source:
        content = source.read(agent_file.MAX_BYTES + 1)
    try:
        access = agent_file.read(content)
    except agent_file.BadAgentFile as error:
        refuse_lines(path, error.faults)
    for line, note in access.notes:
        errors.print(harmless(f"{path}:{line}: {note}"), markup=False, emoji=False, soft_wrap=True)
    events = io.BytesIO(b"\n".join(agent_file.events(agent, access)))
    _, bad = feeding.check(events)
    if bad:
        fail(WRONG, *(f"{path}: {event.reason}" for event in bad), "nothing was sent")
    events.seek(0)
    yield events
