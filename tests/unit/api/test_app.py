"""The HTTP application over ASGI with a fake Redis: endpoint, health, documentation, read only."""

import asyncio
import contextlib
import hashlib
import logging
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from fakeredis.aioredis import AsyncFakeSocket
from pydantic import TypeAdapter
from starlette.types import ASGIApp, Message

from api import metrics
from api.app import EXAMPLE, create_api
from api.lookup import PATH, Lookup
from api.lookup_protocol import LOOKUP, TRACED
from projector.clients import redis_client
from projector.domain.views import AllowedAgents
from projector.store import schema as views
from projector.store.schema import Version, ViewRecord
from tests.unit.store.test_partition_count import SENTENCE

TOKEN = "glcbt-64_abcdefghijklmnopqrst"
BODY = b'{"allowed_agents": [], "as": "stored"}'
EPOCH = 7
PARTITIONS = 2
PATIENCE_S = 5.0
READING = {"GET", "MGET", "HMGET", "TIME"}
CONNECTING = {"HELLO", "CLIENT", "SELECT", "PING"}


class World:
    """The application, what is in its Redis, and every command that Redis was sent."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.redis = FakeAsyncRedis(server=self.server, socket_timeout=redis_client.TIMEOUT_S)
        self.writer = FakeAsyncRedis(server=self.server)
        self.commands: list[str] = []
        self.http = httpx.AsyncClient()

    async def stamp(self, *partitions: int, age: float = 0.0) -> None:
        moment = round((time.time() - age) * 1000)
        for partition in partitions:
            await self.writer.hset(
                views.partition_key(partition), mapping={"stamp": moment, "stamp_epoch": EPOCH}
            )

    async def ready(self, status: int) -> dict[str, Any]:
        """The body of `/health/ready` as soon as it has this status."""
        reply = await self.http.get("/health/ready")
        patience = time.monotonic() + PATIENCE_S
        while reply.status_code != status and time.monotonic() < patience:
            await asyncio.sleep(0.005)
            reply = await self.http.get("/health/ready")
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


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A running application; all partitions fresh, one live token."""
    for name in [name for name in os.environ if name.startswith("PROJECTOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PROJECTOR_MISS_GRACE", "0.1")
    monkeypatch.setattr("projector.log.configure", lambda level: None)
    monkeypatch.setattr("api.freshness.POLL_INTERVAL_S", 0.005)
    monkeypatch.setattr("api.freshness.POLL_PAUSE_S", 0.002)
    world = World()
    await world.writer.set(views.PARTITIONS_KEY, PARTITIONS)
    await world.stamp(*range(PARTITIONS))
    key = views.token_record_key(hashlib.sha256(TOKEN.encode()).hexdigest())
    await world.writer.set(key, ViewRecord(200, 1, Version(EPOCH, 2), BODY).encode())
    record_commands(monkeypatch, world.commands)
    monkeypatch.setattr("projector.clients.redis_client.create_redis", lambda *_: world.redis)
    app = create_api()
    transport = httpx.ASGITransport(app)
    async with running(app), httpx.AsyncClient(transport=transport, base_url="http://t") as http:
        world.http = http
        yield world
    await end(polling())
    await world.writer.aclose()


@pytest.mark.parametrize(
    "how",
    [
        {"headers": {"Authorization": f"Bearer {TOKEN}"}},
        {"headers": {"Job-Token": TOKEN}},
        {"params": {"job_token": TOKEN}},
    ],
    ids=["bearer", "header", "parameter"],
)
async def test_a_live_token_is_answered_however_it_is_sent(
    world: World, how: dict[str, Any]
) -> None:
    await world.ready(200)
    reply = await world.http.get(PATH, **how)
    assert (reply.status_code, reply.content) == (200, BODY)
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["view-version"] == "1.7.2"
    assert reply.headers["age"].isdecimal()


async def test_without_a_token_the_answer_is_401(world: World) -> None:
    reply = await world.http.get(PATH)
    assert (reply.status_code, reply.json()) == (401, {"message": "401 Unauthorized"})


async def test_a_miss_without_proof_is_503(world: World) -> None:
    await world.ready(200)
    reply = await world.http.get(PATH, headers={"Job-Token": "unknown"})
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "1"
    assert reply.json()["message"] == "503 Service Unavailable"


async def test_the_settings_bound_the_age(world: World) -> None:
    await world.ready(200)
    await world.stamp(1, age=60)
    await world.ready(503)
    reply = await world.http.get(PATH, headers={"Job-Token": TOKEN})
    assert "the bound is 10 s" in reply.json()["reason"]


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "PATCH", "DELETE"])
async def test_any_method_but_get_is_405(world: World, method: str) -> None:
    reply = await world.http.request(method, PATH, headers={"Job-Token": TOKEN})
    assert reply.status_code == 405


async def test_any_other_path_is_404(world: World) -> None:
    for path in ("/", PATH + "x", "/api/v4/job"):
        assert (await world.http.get(path)).status_code == 404


# health


async def test_live_says_that_the_process_runs_whatever_redis_does(world: World) -> None:
    world.server.connected = False
    reply = await world.http.get("/health/live")
    assert (reply.status_code, reply.json()) == (200, {"status": "live"})


async def test_ready_once_every_partition_is_fresh(world: World) -> None:
    assert await world.ready(200) == {"status": "ready", "partitions": PARTITIONS}


async def test_not_ready_names_the_partitions_that_are_stale(world: World) -> None:
    await world.ready(200)
    await world.stamp(1, age=60)
    assert await world.ready(503) == {
        "status": "not ready",
        "reason": "1 of 2 partitions are staler than the bound",
        "stale_partitions": [1],
    }


async def test_not_ready_while_a_partition_was_never_stamped(world: World) -> None:
    await world.ready(200)
    await world.writer.delete(views.partition_key(0))
    assert await world.ready(503) == {
        "status": "not ready",
        "reason": "1 of 2 partitions are staler than the bound",
        "stale_partitions": [0],
    }


async def test_not_ready_while_the_number_of_partitions_is_not_known(world: World) -> None:
    await world.ready(200)
    await world.writer.delete(views.PARTITIONS_KEY)
    reason = "no worker has said yet how many partitions there are"
    assert (await world.ready(503))["reason"] == reason


@pytest.mark.parametrize("kind", ["another type", "no number"])
async def test_not_ready_says_why_the_number_of_partitions_cannot_be_read(
    world: World, kind: str
) -> None:
    """Redis answers, so it is not unreachable."""
    await world.ready(200)
    # At once, or a poll between the two would find no key.
    async with world.writer.pipeline() as pipe:
        pipe.delete(views.PARTITIONS_KEY)
        if kind == "another type":
            pipe.rpush(views.PARTITIONS_KEY, "2")
        else:
            pipe.set(views.PARTITIONS_KEY, "abc")
        await pipe.execute()
    assert (await world.ready(503))["reason"] == SENTENCE
    assert "projector_api_redis_reachable 1.0" in (await world.http.get("/metrics")).text
    await world.writer.delete(views.PARTITIONS_KEY)
    await world.writer.set(views.PARTITIONS_KEY, PARTITIONS)
    await world.ready(200)


async def test_not_ready_while_redis_cannot_be_reached(world: World) -> None:
    """Contract: ready means fresh stamps and a Redis that answers."""
    await world.ready(200)
    world.server.connected = False
    assert (await world.ready(503))["reason"] == "Redis is not reachable"


@pytest.mark.parametrize("connected", [True, False])
async def test_nobody_keeps_an_answer_about_readiness(world: World, connected: bool) -> None:
    world.server.connected = connected
    await world.ready(200 if connected else 503)
    reply = await world.http.get("/health/ready")
    assert reply.headers["cache-control"] == "no-store"


async def test_a_server_that_stops_no_longer_polls_redis(world: World) -> None:
    """In Python 3.11 a cancellation can get lost, in redis-py or anywhere: `wait_for` drops it."""
    await end(polling())
    app = create_api()
    for i in range(20):
        async with running(app):
            await asyncio.sleep(0.0007 * i)
            assert len(polling()) == 1
        assert polling() == []


@pytest.mark.parametrize("traced", [False, True])
async def test_the_server_is_told_how_to_answer_lookups_before_asgi(
    world: World, monkeypatch: pytest.MonkeyPatch, traced: bool
) -> None:
    if traced:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("projector.tracing.start", lambda service: None)
    async with running(create_api()) as state:
        assert isinstance(state[LOOKUP], Lookup)
        assert state[TRACED] is traced


# documentation


def resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Any = document
    for name in schema["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return dict(found)


def faults(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> list[str]:
    """What is wrong with `value` by the part of JSON Schema that this document uses."""
    schema = resolved(schema, document)
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "integer": int}
    if not isinstance(value, kinds[schema["type"]]):
        return [f"{value!r} is no {schema['type']}"]
    if schema["type"] == "array":
        return [fault for item in value for fault in faults(item, schema["items"], document)]
    if schema["type"] != "object" or "properties" not in schema:
        return []
    properties = schema["properties"]
    found = [f"{name} is missing" for name in schema.get("required", ()) if name not in value]
    found += [f"{name} is unknown" for name in value if name not in properties]
    known = [name for name in value if name in properties]
    return found + [f for name in known for f in faults(value[name], properties[name], document)]


async def lookup_in(world: World) -> tuple[dict[str, Any], dict[str, Any]]:
    document = (await world.http.get("/openapi.json")).json()
    return document, document["paths"][PATH]["get"]


async def test_the_document_describes_the_answer_and_every_refusal(world: World) -> None:
    document, lookup = await lookup_in(world)
    schemas = {
        status: reply["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for status, reply in lookup["responses"].items()
    }
    assert schemas == {"200": "AllowedAgents", "401": "Refusal", "403": "Refusal", "503": "Refusal"}
    answer = document["components"]["schemas"]["AllowedAgents"]
    assert set(answer["properties"]) == set(AllowedAgents.__annotations__)
    assert set(answer["required"]) == set(answer["properties"]) - {"environment"}


async def test_the_example_of_the_document_keeps_to_the_documents_own_schema(
    world: World,
) -> None:
    document, lookup = await lookup_in(world)
    content = lookup["responses"]["200"]["content"]["application/json"]
    assert content["example"] == EXAMPLE
    assert faults(content["example"], content["schema"], document) == []
    assert TypeAdapter(AllowedAgents).validate_python(EXAMPLE, strict=True) == EXAMPLE


@pytest.mark.parametrize(
    "broken",
    [
        EXAMPLE | {"job": {"id": "9"}},
        EXAMPLE | {"more": 1},
        {name: part for name, part in EXAMPLE.items() if name != "user"},
        EXAMPLE | {"allowed_agents": [{"id": 5}]},
    ],
    ids=["type", "unknown", "missing", "nested"],
)
async def test_the_schema_tells_a_wrong_answer(world: World, broken: dict[str, Any]) -> None:
    document, lookup = await lookup_in(world)
    schema = lookup["responses"]["200"]["content"]["application/json"]["schema"]
    assert faults(broken, schema, document)


async def test_the_document_names_the_three_places_of_a_token(world: World) -> None:
    document, lookup = await lookup_in(world)
    schemes = document["components"]["securitySchemes"]
    assert [schemes[name].get("in", "bearer") for name in schemes] == ["bearer", "query", "header"]
    assert lookup["security"] == [{name: []} for name in schemes]


async def test_the_documents_page_is_served(world: World) -> None:
    reply = await world.http.get("/docs")
    assert reply.status_code == 200
    assert "openapi.json" in reply.text


# what it never does


async def use_everything(world: World) -> None:
    await world.ready(200)
    for token in (TOKEN, "unknown", ""):
        await world.http.get(PATH, headers={"Job-Token": token})
    for path in ("/health/live", "/health/ready", "/openapi.json"):
        await world.http.get(path)


async def test_the_api_sends_redis_nothing_but_reads(world: World) -> None:
    world.commands.clear()
    await use_everything(world)
    assert set(world.commands) - CONNECTING == READING


async def test_a_lookup_is_one_read(world: World) -> None:
    await world.ready(200)
    world.commands.clear()
    await world.http.get(PATH, headers={"Job-Token": TOKEN})
    assert world.commands.count("MGET") == 1


async def test_no_token_is_ever_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await use_everything(world)
    await world.http.get(PATH, params={"job_token": TOKEN})
    world.server.connected = False
    await world.http.get(PATH, params={"job_token": TOKEN})
    ours = [record for record in caplog.records if not record.name.startswith("httpx")]
    assert TOKEN not in "".join(record.getMessage() for record in ours)


async def test_metrics_are_computed_once_however_many_ask(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They ask for no credential, and share the core with lookups."""
    expose, computed = metrics.exposition, 0

    def counted(freshness: Any) -> bytes:
        nonlocal computed
        computed += 1
        return expose(freshness)

    monkeypatch.setattr(metrics, "exposition", counted)
    replies = await asyncio.gather(*(world.http.get("/metrics") for _ in range(20)))
    assert {reply.status_code for reply in replies} == {200}
    assert computed == 1
