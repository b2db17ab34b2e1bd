"""`projector worker`, `api`, `ops`, `ingest` and `dev`, which serve until a signal."""

import gc
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog
import typer

from projector.cli.terminal import WRONG, fail, load_settings, refuse_settings, run_command
from projector.config.settings import Settings
from projector.errors import OperatorError, SettingsError
from projector.ports import free_port, port_obstacle

if TYPE_CHECKING:
    from api.tokens.job_token_keys import PublicKey
    from projector.dev.run import Visit

log = structlog.get_logger()

# New objects of a worker or ingest between runs of the garbage collector. Events and facts have no
# cycles, so it finds nothing. With Python's 700 it took a sixth of a worker's CPU for an event, and
# paused for 100 ms; of an event in a large request to the ingest it took a quarter.
NEW_OBJECTS: Final = 10_000


def worker() -> None:
    """Run a worker."""
    from projector.worker.app import run_worker

    settings = load_settings()
    gc.set_threshold(NEW_OBJECTS)
    run_command(settings, run_worker(settings))


def api(host: str, port: int, workers: int) -> None:
    """Serve the API."""
    settings = load_settings()
    _name_keys(_load_keys(settings))
    port = _listening_port(settings, host, port)
    log.info(
        "api starting", bind=f"{host}:{port}", processes=workers, redis=settings.redis_place,
        max_staleness=settings.max_staleness, miss_grace=settings.miss_grace,
        max_waiting=settings.max_waiting,
    )  # fmt: skip
    with _shared_counts(workers):
        _serve("projector.asgi:create_api", settings, host, port, factory=True, workers=workers)


def _load_keys(settings: Settings) -> "Mapping[str, PublicKey]":
    """Load the keys that job tokens are checked with; end the command if one cannot be used."""
    from api.tokens.job_token_keys import KeyFiles

    try:
        return KeyFiles(settings.job_token_key_files).keys
    except SettingsError as error:
        refuse_settings(error)


def _name_keys(keys: "Mapping[str, PublicKey]") -> None:
    for kid, key in keys.items():
        log.info("key of job tokens", kid=kid, file=str(key.file))


def ops(host: str, port: int) -> None:
    """Serve the operators' page."""
    from api.ops.app import create_ops, exposure_obstacle, page_url

    settings = load_settings()
    if obstacle := exposure_obstacle(settings, host):
        fail(WRONG, obstacle)
    port = _listening_port(settings, host, port)
    log.info(
        "operators' page starting", page=page_url(host, port),
        token_needed=bool(settings.ops_secret),
    )  # fmt: skip
    _serve(create_ops(settings), settings, host, port)


def ingest(host: str, port: int) -> None:
    """Serve the ingest."""
    from projector.ingest.app import create_ingest
    from projector.ingest.feeder_file import SETTING, FeederFile

    settings = load_settings()
    if settings.ingest_tokens_file is None:
        fail(WRONG, f"{SETTING}: must be set, to the file of the tokens; see docs/ingest.md")
    gc.set_threshold(NEW_OBJECTS)
    try:
        tokens = FeederFile(settings.ingest_tokens_file)
    except SettingsError as error:
        refuse_settings(error)
    port = _listening_port(settings, host, port)
    log.info(
        "ingest starting", bind=f"{host}:{port}", kafka=settings.kafka,
        redis=settings.redis_place, feeders=tokens.names,
    )  # fmt: skip
    _serve(
        create_ingest(settings, tokens), settings, host, port,
        http="projector.ingest.protocol:IngestProtocol",
    )  # fmt: skip


def _listening_port(settings: Settings, host: str, port: int) -> int:
    """Return the port, or a free one for 0; end the command if it cannot be used."""
    from api.bounded_protocol import allow_connections

    if obstacle := port_obstacle(port, host):
        fail(WRONG, f"{obstacle}; choose another with --port, or 0 for a free one")
    try:
        allow_connections(settings.max_connections)
    except OperatorError as error:
        fail(WRONG, str(error))
    return port or free_port(host)


def _serve(
    application: Any, settings: Settings, host: str, port: int,
    http: str = "projector.asgi:LookupProtocol", **more: Any,
) -> None:  # fmt: skip
    """Serve until a signal, with bounded requests, connections and logs."""
    import uvicorn

    uvicorn.run(
        application, host=host, port=port,
        http=http, ws="none",
        limit_concurrency=settings.max_connections,
        # Uvicorn warns once for each malformed request: clients must not fill the log.
        log_level="error",
        access_log=False, log_config=None, server_header=False, timeout_graceful_shutdown=5, **more,
    )  # fmt: skip


def dev(port: int, *, example: bool) -> None:
    """Run everything on this machine."""
    from projector.dev.run import run_dev

    visit = _example() if example else None
    settings = load_settings()
    # Here, not only in the API: before any server starts.
    _load_keys(settings)
    run_command(settings, run_dev(settings, port, visit))


def _example() -> "Visit":
    """Remove the settings of the shell; return the function that shows the example."""
    from projector.dev.example import drop_settings, show_example

    if names := drop_settings():
        typer.echo(f"ignored, because the example brings its own servers: {', '.join(names)}")
    return show_example


@contextmanager
def _shared_counts(workers: int) -> Iterator[None]:
    """Make the folder in which several processes add up metrics, before any of them starts."""
    if workers == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="projector-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]
