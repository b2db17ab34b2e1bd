"""The worlds of the API's tests, running."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator

import httpx
import pytest

from api.app import create_api
from projector.store import schema
from projector.store.schema import Version, ViewRecord
from tests.unit.api import api_world as api_worlds
from tests.unit.api import lookup_world as lookup_worlds
from tests.unit.api.api_world import ApiWorld, end, polling, record_commands, running
from tests.unit.api.lookup_world import LookupWorld


@pytest.fixture
async def api_world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiWorld]:
    """A running application; all partitions fresh, one live token."""
    for name in [name for name in os.environ if name.startswith("PROJECTOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PROJECTOR_MISS_GRACE", "0.1")
    monkeypatch.setattr("projector.log.configure", lambda level: None)
    monkeypatch.setattr("api.freshness.POLL_INTERVAL_S", 0.005)
    monkeypatch.setattr("api.freshness.POLL_PAUSE_S", 0.002)
    world = ApiWorld()
    await world.writer.set(schema.PARTITIONS_KEY, api_worlds.PARTITIONS)
    await world.stamp(*range(api_worlds.PARTITIONS))
    key = schema.TOKENS + hashlib.sha256(api_worlds.TOKEN.encode()).hexdigest()
    await world.writer.set(
        key, ViewRecord(200, 1, Version(api_worlds.EPOCH, 2), api_worlds.BODY).encode()
    )
    record_commands(monkeypatch, world.commands)
    monkeypatch.setattr("projector.clients.redis_client.create_redis", lambda *_: world.redis)
    app = create_api()
    transport = httpx.ASGITransport(app)
    async with running(app), httpx.AsyncClient(transport=transport, base_url="http://t") as http:
        world.http = http
        yield world
    await end(polling())
    await world.writer.aclose()


@pytest.fixture
async def lookup_world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LookupWorld]:
    """A Redis with fresh stamps on all partitions, polled every few milliseconds."""
    monkeypatch.setattr("api.freshness.POLL_INTERVAL_S", 0.005)
    monkeypatch.setattr("api.freshness.POLL_PAUSE_S", 0.002)
    world = LookupWorld()
    await world.redis.set(schema.PARTITIONS_KEY, lookup_worlds.PARTITIONS)
    await world.stamp()
    polling = asyncio.create_task(world.freshness.run("redis://test"))
    await world.polled()
    yield world
    polling.cancel()
    await world.redis.aclose()
