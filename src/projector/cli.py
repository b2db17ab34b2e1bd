"""The `projector` command."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, BinaryIO, Final, NoReturn, cast

import typer
from rich.progress import Progress

from projector import feed as feeding
from projector import topics as kafka_topics
from projector.dead_letter_commands import app as dead_letters
from projector.terminal import WRONG, errors, fail, load_settings, run

MAX_BAD_LINES_SHOWN: Final = 50
# Events from standard input are read twice; what does not fit into memory goes to a file.
SPOOL_BYTES: Final = 64 * 1024 * 1024

app = typer.Typer(
    help="Which cluster agents may a CI job token use? Events in, one answer per token out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
app.add_typer(dead_letters, name="dead-letters")


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
    """Consume the topics and keep the views in Redis up to date. Run as many as you like."""
    from projector import worker as working

    settings = load_settings()
    run(settings, working.run(settings))


@app.command()
def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(help="Processes; one per core is plenty.", min=1)] = 1,
) -> None:
    """Answer lookups over HTTP. Reads Redis, writes nothing."""
    import uvicorn

    load_settings()
    uvicorn.run(
        "api.main:create", factory=True, host=host, port=port, workers=workers,
        http="api.protocol:BoundedHttpToolsProtocol",
        access_log=False, log_config=None, server_header=False, timeout_graceful_shutdown=5,
    )  # fmt: skip


@app.command()
def topics() -> None:
    """Create the topics that are missing, and check those that exist."""
    settings = load_settings()
    for name, count in run(settings, kafka_topics.create(settings)).items():
        typer.echo(f"{settings.topic(name)}: {count} partition{'' if count == 1 else 's'}")


@app.command()
def feed(
    file: Annotated[
        str, typer.Argument(help="File with one CloudEvent (JSON) a line; - for stdin.")
    ],
) -> None:
    """Check every line of FILE, then send all events and wait until Kafka has them.

    Exits with 0 when Kafka has acknowledged everything, with 2 when any line is bad (then nothing
    was sent), with 3 when Kafka cannot be reached.
    """
    settings = load_settings()
    with _opened(file) as source:
        count, bad = feeding.check(source)
        if bad:
            _refuse_lines(file, bad)
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

    Kafka or Redis are not embedded where PROJECTOR_KAFKA or PROJECTOR_REDIS_URL name others.
    """
    from projector import dev as environment

    settings = load_settings()
    run(settings, environment.run(settings, port))


def main() -> None:
    """Run the command line."""
    app()


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    """The file or standard input, such that it can be read twice."""
    try:
        source = sys.stdin.buffer if file == "-" else Path(file).open("rb")  # noqa: SIM115
    except OSError as error:
        fail(WRONG, f"{file}: {error.strerror}")
    with source:
        if file != "-" and source.seekable():
            yield source
            return
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
            shutil.copyfileobj(source, spool)
            spool.seek(0)
            yield cast(BinaryIO, spool)


def _refuse_lines(file: str, bad: list[feeding.BadLine]) -> NoReturn:
    shown = [f"{file}:{line.number}: {line.reason}" for line in bad[:MAX_BAD_LINES_SHOWN]]
    if len(bad) > len(shown):
        shown.append(f"... and {len(bad) - len(shown)} more bad lines")
    fail(WRONG, *shown, "nothing was sent")
