"""Usage of `projector worker`, `api`, `ops`, `ingest` and `dev`."""

from typing import Annotated

import typer

from projector.cli.usage.options import Port


def worker() -> None:
    """Consume the topics and keep the views in Redis up to date. Run as many as you like.

    Waits for Kafka, Redis and the topics. Let a supervisor start it again whenever it ends: it
    goes on from the checkpoint in Redis.

    Exits with 0 on SIGINT or SIGTERM; with 1 when it cannot go on; with 2 when a setting, a topic
    or a right must be corrected first.

    \b
    export PROJECTOR_KAFKA=kafka:9092 PROJECTOR_REDIS_URL=redis://redis:6379/0
    projector worker
    """
    from projector.cli import serve_commands

    serve_commands.worker()


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
    from projector.cli import serve_commands

    serve_commands.api(host, port, workers)


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
    PROJECTOR_OPS_TOKEN=$(openssl rand -hex 32) projector ops --host 0.0.0.0
    """
    from projector.cli import serve_commands

    serve_commands.ops(host, port)


def ingest(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Port = 8002,
) -> None:
    """Take CloudEvents over HTTP and send them to Kafka. For teams without Kafka.

    Answers 204 once Kafka has acknowledged every event of a request. Each token of
    PROJECTOR_INGEST_TOKENS_FILE may send what its entry there allows. Needs Redis only where a
    request waits for the views. docs/ingest.md has the file, the answers, and examples.

    Exits with 0 on SIGINT; with 143 on SIGTERM; with 2 when a setting or the file is wrong, or the
    port is in use.

    \b
    PROJECTOR_INGEST_TOKENS_FILE=tokens.yaml projector ingest --host 0.0.0.0
    """
    from projector.cli import serve_commands

    serve_commands.ingest(host, port)


def dev(
    port: Port = 8000,
    example: Annotated[
        bool, typer.Option("--example", help="Feed two made-up companies and look jobs up.")
    ] = False,
) -> None:
    """Run everything here: embedded Kafka and Redis (memory only), a worker and the API.

    Kafka or Redis are not embedded where PROJECTOR_KAFKA or PROJECTOR_REDIS_URL name others. What
    is embedded is gone when it stops. Prints `ready api=... kafka=... redis=...` when every
    partition is fresh. With PROJECTOR_SOURCES that is once heartbeats come; their feeders find
    Kafka's address in the log. On a terminal the worker and the API log warnings alone, unless
    PROJECTOR_LOG_LEVEL is set.

    With --example it ignores all settings. Once it is ready, it shows two made-up companies,
    lookups of their jobs, and an event that changes an answer.

    Exits with 0 on SIGINT or SIGTERM; with 2 when a setting is wrong, the port is in use, or an
    embedded server ends.

    \b
    projector dev --port 0
    projector dev --example
    """
    from projector.cli import serve_commands

    serve_commands.dev(port, example=example)
