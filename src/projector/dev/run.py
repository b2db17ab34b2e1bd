"""The run of `projector dev`, from the first server to the last."""

import asyncio
import contextlib
import http.client
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import structlog

from projector.config.env import variable_name
from projector.config.settings import Settings
from projector.dev.child_process import ChildProcess, show
from projector.dev.embedded import HOST, embedded_servers
from projector.errors import DevError
from projector.ports import free_port, port_obstacle
from projector.process import until_signalled

log = structlog.get_logger()

# Called once every partition is fresh, with the settings that reach all and the API's address.
Visit = Callable[[Settings, str], Awaitable[None]]


async def run_dev(settings: Settings, port: int, visit: Visit | None = None) -> None:
    """Run until SIGINT or SIGTERM; print one `ready` line once every partition is fresh.

    Raises `DevError` if an embedded server ends, a setting is wrong, or the visit fails.
    """
    await until_signalled(_run(settings, port, visit))


async def _run(settings: Settings, port: int, visit: Visit | None) -> None:
    port = port or free_port()
    if found := port_obstacle(port):
        hint = " (`make run PORT=0`)" if visit else ""
        raise DevError(f"{found}; choose another with --port, or 0 for a free one{hint}")
    async with embedded_servers(settings) as (servers, connected):
        env = os.environ | {
            variable_name("kafka"): connected.kafka,
            variable_name("redis_url"): connected.redis_url,
            variable_name("log_level"): log_level(settings),
        }
        projector = [sys.executable, "-m", "projector"]
        worker = ChildProcess("worker", [*projector, "worker"], env)
        api = ChildProcess("api", [*projector, "api", "--host", HOST, "--port", str(port)], env)
        async with _supervised([worker, api]) as supervisors:
            ends = [asyncio.create_task(server.wait()) for server in servers]
            ready = asyncio.create_task(_become_ready(connected, port, visit))
            await _until_an_end(ready, [*ends, *supervisors])
            for supervisor in supervisors:
                if supervisor.done():
                    await supervisor
            raise DevError("the embedded Kafka or Redis ended; its data is gone, start again")


async def _until_an_end(ready: asyncio.Task[None], running: list[asyncio.Task[Any]]) -> None:
    """Wait until one of the running tasks ends, perhaps before all is ready."""
    try:
        await asyncio.wait([ready, *running], return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            await ready
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ready.cancel()


def log_level(settings: Settings) -> str:
    """Return the level of the worker and the API: on a terminal `warning`, unless it is set."""
    if "log_level" in settings.model_fields_set or not sys.stderr.isatty():
        return settings.log_level
    return "warning"


@contextlib.asynccontextmanager
async def _supervised(children: list[ChildProcess]) -> AsyncIterator[list[asyncio.Task[None]]]:
    supervisors = [asyncio.create_task(child.supervise()) for child in children]
    try:
        yield supervisors
    finally:
        for task in supervisors:
            task.cancel()
        await asyncio.gather(*(child.stop() for child in children))


async def _become_ready(settings: Settings, port: int, visit: Visit | None) -> None:
    await _until_fresh(settings, port)
    api = f"http://{HOST}:{port}"
    print(f"ready api={api} kafka={settings.kafka} redis={settings.redis_place}", flush=True)  # noqa: T201
    if visit is not None:
        await visit(settings, api)


async def _until_fresh(settings: Settings, port: int) -> None:
    show("starting a worker and the API, some five seconds")
    are_named = False
    while (obstacle := await asyncio.to_thread(_obstacle, port)) is not None:
        silent = silent_sources(settings.source_names, obstacle)
        if silent and not are_named:
            are_named = True
            log.warning("not ready before heartbeats come", kafka=settings.kafka,
                        redis=settings.redis_place, sources=silent,
                        advice="start the feeder of each source")  # fmt: skip
        await asyncio.sleep(0.1)


def silent_sources(names: Iterable[str], obstacle: str) -> list[str]:
    """Return the sources that the reason of a 503 names as silent."""
    return [name for name in names if f"source {name} has been silent" in obstacle]


def _obstacle(port: int) -> str | None:
    """Return why not all partitions are fresh, empty while that is unknown; None if they are."""
    # Not urllib, which would use a proxy that the environment names.
    api = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        api.request("GET", "/health/fresh")
        answer = api.getresponse()
        body = json.loads(answer.read())
        return None if answer.status == 200 else str(body.get("reason", ""))
    except (OSError, http.client.HTTPException, ValueError):
        return ""
    finally:
        api.close()
