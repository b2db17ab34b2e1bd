"""`projector worker`, `api`, `ops` and `dev`, which serve until a signal."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer

from projector.cli.terminal import WRONG, fail, load_settings, run_command
from projector.config.settings import Settings
from projector.errors import OperatorError, SettingsError
from projector.process import MAX_PORT, free_port, port_obstacle

if TYPE_CHECKING:
    from api.job_token_keys import PublicKey

log = structlog.get_logger()

Port = Annotated[int, typer.Option(help="Port to listen on; 0: a free one.", min=0, max=MAX_PORT)]


def worker() -> None:
    """Consume the topics and keep the views in Redis up to date. Run as many as you like.

    Waits for Kafka, Redis and the topics. Let a supervisor start it again whenever it ends: it
    goes on from the checkpoint in Redis.

    Exits with 0 on SIGINT or SIGTERM; with 1 when it cannot go on; with 2 when a setting, a topic
    or a right must be corrected first.

    \b
    PROJECTOR_KAFKA=kafka:9092 PROJECTOR_REDIS_URL=redis://redis:6379/0 projector worker
    """
    from projector.worker.app import run_worker

    settings = load_settings()
    run_command(settings, run_worker(settings))


def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[int, typer.Option(help="Processes; one per core is plenty.", min=1)] = 1,
) -> None:
    """Answer lookups over HTTP. Reads Redis, writes nothing, needs no Kafka.

    Exits with 0 on SIGINT; with 143 on SIGTERM; with 2 when a setting is wrong, a key of job tokens
    cannot be used, or the port is in use.

    \b
    projector api --host 0.0.0.0 --workers 4
    """
    settings = load_settings()
    _name_keys(_load_keys(settings))
    port = _listening_port(settings, host, port)
    log.info(
        "api starting", bind=f"{host}:{port}", processes=workers, redis=settings.redis_place,
        max_staleness=settings.max_staleness, miss_grace=settings.miss_grace,
        max_waiting=settings.max_waiting,
    )  # fmt: skip
    with _shared_counts(workers):
        _serve("api.app:create_api", settings, host, port, factory=True, workers=workers)


def _load_keys(settings: Settings) -> "Mapping[str, PublicKey]":
    """Load the keys that job tokens are checked with; end the command if one cannot be used."""
    from api.job_token_keys import KeyFiles

    try:
        return KeyFiles(settings.job_token_key_files).keys
    except SettingsError as error:
        fail(WRONG, f"wrong setting: {error}")


def _name_keys(keys: "Mapping[str, PublicKey]") -> None:
    for kid, key in keys.items():
        log.info("key of job tokens", kid=kid, file=str(key.file))


def ops(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Port = 8001,
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
    from api.ops.app import create_ops, exposure_obstacle

    settings = load_settings()
    if obstacle := exposure_obstacle(settings, host):
        fail(WRONG, obstacle)
    port = _listening_port(settings, host, port)
    log.info(
        "operators' page starting", bind=f"{host}:{port}", token_needed=bool(settings.ops_secret)
    )
    _serve(create_ops(settings), settings, host, port)


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


def _serve(application: Any, settings: Settings, host: str, port: int, **more: Any) -> None:
    """Serve until a signal, with bounded requests, connections and logs."""
    import uvicorn

    uvicorn.run(
        application, host=host, port=port,
        http="api.lookup_protocol:LookupProtocol", ws="none",
        limit_concurrency=settings.max_connections,
        # Uvicorn warns once for each malformed request: clients must not fill the log.
        log_level="error",
        access_log=False, log_config=None, server_header=False, timeout_graceful_shutdown=5, **more,
    )  # fmt: skip


def dev(
    port: Port = 8000,
) -> None:
    """Run everything here: embedded Kafka and Redis (memory only), a worker and the API.

    Kafka or Redis are not embedded where PROJECTOR_KAFKA or PROJECTOR_REDIS_URL name others. What
    is embedded is gone when it stops. Prints `ready api=... kafka=... redis=...` when every
    partition is fresh. With PROJECTOR_SOURCES that is once heartbeats come; their senders find
    Kafka's address in the log. On a terminal the worker and the API log warnings alone, unless
    PROJECTOR_LOG_LEVEL is set.

    Exits with 0 on SIGINT or SIGTERM; with 2 when a setting is wrong, the port is in use, or an
    embedded server ends.

    \b
    projector dev --port 0
    """
    from projector.dev import run_dev

    settings = load_settings()
    # Here, not only in the API: before any server starts.
    _load_keys(settings)
    run_command(settings, run_dev(settings, port))


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
