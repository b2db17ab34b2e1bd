"""The running HTTP application on a fake Redis."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from fakeredis.aioredis import AsyncFakeSocket
from starlette.types import ASGIApp, Message

from projector.clients import redis_client
from projector.store import schema

TOKEN = "glcbt-64_abcdefghijklmnopqrst"
BODY = b'{"allowed_agents": [], "as": "stored"}'
EPOCH = 7
PARTITIONS = 2
PATIENCE_S = 5.0
CONNECTING = {"HELLO", "CLIENT", "SELECT", "PING"}


class ApiWorld:
    """The application, what is in its Redis, and every command that Redis was sent."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.redis = FakeAsyncRedis(server=self.server, socket_timeout=redis_client.TIMEOUT_S)
        self.writer = FakeAsyncRedis(server=self.server)
        self.commands: list[str] = []
        self.http = httpx.AsyncClient()

    async def stamp(self, *partitions: int, age: float = 0.0) -> None:
        now = round((time.time() - age) * 1000)
        for partition in partitions:
            await self.writer.hset(
                schema.partition_key(partition), mapping={"stamp": now, "stamp_epoch": EPOCH}
            )

    async def fresh(self, status: int) -> dict[str, Any]:
        """The body of `/health/fresh` as soon as it has this status."""
        return await self._health("/health/fresh", status)

    async def ready(self, status: int) -> dict[str, Any]:
        """The body of `/health/ready` as soon as it has this status."""
        return await self._health("/health/ready", status)

    async def _health(self, path: str, status: int) -> dict[str, Any]:
        reply = await self.http.get(path)
        patience = time.monotonic() + PATIENCE_S
        while reply.status_code != status and time.monotonic() < patience:
            await asyncio.sleep(0.005)
            reply = await self.http.get(path)
        assert reply.status_code == status
        return dict(reply.json())


@contextlib.asynccontextmanager
async def running(app: ASGIApp) -> AsyncIterator[dict[str, Any]]:
    """Start and stop the application as a server does; the state that it leaves the server."""
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()
    state: dict[str, Any] = {}
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    serving = asyncio.ensure_future(app(scope, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    assert (await from_app.get())["type"] == "lifespan.startup.complete"
    yield state
    await to_app.put({"type": "lifespan.shutdown"})
    assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
    await serving


def record_commands(monkeypatch: pytest.MonkeyPatch, commands: list[str]) -> None:
    process = AsyncFakeSocket._process_command

    def recording(socket: AsyncFakeSocket, fields: list[bytes]) -> None:
        commands.append(fields[0].decode().upper())
        process(socket, fields)

    monkeypatch.setattr(AsyncFakeSocket, "_process_command", recording)


def polling() -> list[asyncio.Task[Any]]:
    """The tasks that poll Redis right now."""
    return [task for task in asyncio.all_tasks() if "Freshness.run" in repr(task)]


async def end(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.01)
