"""The HTTP application over ASGI with a fake Redis: endpoint, health, documentation, read only."""

import asyncio
import logging
import re
import time
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from api import metrics
from api.app import EXAMPLE, create_api
from api.lookup import PATH, Lookup
from api.lookup_protocol import LOOKUP, TRACED
from projector.domain.views import AllowedAgents
from projector.store import schema
from tests.unit.api.api_world import (
    BODY,
    CONNECTING,
    PARTITIONS,
    TOKEN,
    ApiWorld,
    end,
    polling,
    running,
)
from tests.unit.store.test_partition_count import SENTENCE

READING = {"GET", "MGET", "HMGET", "INFO", "TIME"}


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
    api_world: ApiWorld, how: dict[str, Any]
) -> None:
    await api_world.fresh(200)
    reply = await api_world.http.get(PATH, **how)
    assert (reply.status_code, reply.content) == (200, BODY)
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["view-version"] == "1.7.2"
    assert reply.headers["age"].isdecimal()


async def test_without_a_token_the_answer_is_401(api_world: ApiWorld) -> None:
    reply = await api_world.http.get(PATH)
    assert (reply.status_code, reply.json()) == (401, {"message": "401 Unauthorized"})


async def test_a_miss_without_proof_is_503(api_world: ApiWorld) -> None:
    await api_world.fresh(200)
    reply = await api_world.http.get(PATH, headers={"Job-Token": "unknown"})
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "1"
    assert reply.json()["message"] == "503 Service Unavailable"


async def test_the_settings_bound_the_age(api_world: ApiWorld) -> None:
    await api_world.fresh(200)
    await api_world.stamp(1, age=60)
    await api_world.fresh(503)
    reply = await api_world.http.get(PATH, headers={"Job-Token": TOKEN})
    assert "the bound is 10 s" in reply.json()["reason"]


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "PUT", "PATCH", "DELETE"])
async def test_any_method_but_get_and_head_is_405(api_world: ApiWorld, method: str) -> None:
    reply = await api_world.http.request(method, PATH, headers={"Job-Token": TOKEN})
    assert reply.status_code == 405


@pytest.mark.parametrize(
    "path", [f"/{PATH}", f"{PATH}/", f"{PATH}//", "///".join(PATH.split("/")), f"//{PATH}/"]
)
async def test_further_slashes_in_the_path_do_not_matter(api_world: ApiWorld, path: str) -> None:
    """GitLab's router drops them; nginx passes them on."""
    await api_world.ready(200)
    reply = await api_world.http.get(httpx.URL(f"http://t{path}"), headers={"Job-Token": TOKEN})
    assert (reply.status_code, reply.content) == (200, BODY)
    assert (await api_world.http.post(f"http://t{path}")).status_code == 405


async def test_any_other_path_is_404(api_world: ApiWorld) -> None:
    for path in (PATH + "x", "/api/v4/job", "/x" + PATH, PATH.replace("/v4", "v4")):
        assert (await api_world.http.get(path)).status_code == 404


# health


async def test_live_says_that_the_process_runs_whatever_redis_does(api_world: ApiWorld) -> None:
    api_world.server.connected = False
    reply = await api_world.http.get("/health/live")
    assert (reply.status_code, reply.json()) == (200, {"status": "live"})


async def test_a_person_who_opens_the_address_finds_everything_else(api_world: ApiWorld) -> None:
    await api_world.fresh(200)
    reply = await api_world.http.get("/", params={"job_token": TOKEN})
    assert (reply.status_code, TOKEN in reply.text) == (200, False)
    for path in reply.json().values():
        found = await api_world.http.get(path, headers={"Job-Token": TOKEN})
        assert found.status_code == 200


async def test_fresh_once_every_partition_is_fresh(api_world: ApiWorld) -> None:
    assert await api_world.fresh(200) == {
        "status": "fresh",
        "partitions": PARTITIONS,
        "stale_partitions": [],
    }


async def test_one_stale_partition_takes_no_api_out_of_its_load_balancer(
    api_world: ApiWorld,
) -> None:
    """Promise 5: lookups of the other partitions are answered."""
    await api_world.fresh(200)
    await api_world.stamp(1, age=60)
    await api_world.fresh(503)
    assert await api_world.ready(200) == {
        "status": "ready",
        "partitions": PARTITIONS,
        "stale_partitions": [1],
    }


async def test_not_ready_while_every_partition_is_stale(api_world: ApiWorld) -> None:
    await api_world.ready(200)
    await api_world.stamp(0, 1, age=60)
    assert await api_world.ready(503) == {
        "status": "not ready",
        "partitions": PARTITIONS,
        "stale_partitions": [0, 1],
        "reason": "2 of 2 partitions are staler than the bound",
    }


async def test_neither_ready_nor_fresh_while_the_number_of_partitions_is_not_known(
    api_world: ApiWorld,
) -> None:
    await api_world.ready(200)
    await api_world.writer.delete(schema.PARTITIONS_KEY)
    for body in (await api_world.ready(503), await api_world.fresh(503)):
        assert body["partitions"] == 0


async def test_not_fresh_names_the_partitions_that_are_stale(api_world: ApiWorld) -> None:
    await api_world.fresh(200)
    await api_world.stamp(1, age=60)
    assert await api_world.fresh(503) == {
        "status": "not fresh",
        "partitions": PARTITIONS,
        "reason": "1 of 2 partitions are staler than the bound",
        "stale_partitions": [1],
    }


async def test_not_fresh_while_a_partition_was_never_stamped(api_world: ApiWorld) -> None:
    await api_world.fresh(200)
    await api_world.writer.delete(schema.partition_key(0))
    assert await api_world.fresh(503) == {
        "status": "not fresh",
        "partitions": PARTITIONS,
        "reason": "1 of 2 partitions are staler than the bound",
        "stale_partitions": [0],
    }


@pytest.mark.parametrize("path", ["ready", "fresh"])
async def test_the_reason_names_the_source_that_stale_partitions_wait_for(
    api_world: ApiWorld, path: str
) -> None:
    await api_world.fresh(200)
    vouched_ms = round((time.time() - 60) * 1000)
    for partition in range(PARTITIONS):
        key = schema.partition_key(partition)
        await api_world.writer.hset(key, "silent", f"gitlab {vouched_ms} {vouched_ms + 60_000}")
    # Silent, but within the bound: nothing to explain yet.
    await api_world.fresh(200)
    await api_world.stamp(0, 1, age=60)
    body = await (api_world.ready(503) if path == "ready" else api_world.fresh(503))
    # The first poll may find one stamp old alone.
    assert re.fullmatch(
        r"source gitlab has been silent for 60 s; [12] of 2 partitions are staler than the bound",
        body["reason"],
    )


async def test_not_fresh_while_the_number_of_partitions_is_not_known(api_world: ApiWorld) -> None:
    await api_world.fresh(200)
    await api_world.writer.delete(schema.PARTITIONS_KEY)
    reason = "no worker has said yet how many partitions there are"
    assert (await api_world.fresh(503))["reason"] == reason


@pytest.mark.parametrize("kind", ["another type", "no number"])
async def test_not_fresh_says_why_the_number_of_partitions_cannot_be_read(
    api_world: ApiWorld, kind: str
) -> None:
    """Redis answers, so it is not unreachable."""
    await api_world.fresh(200)
    # At once, or a poll between the two would find no key.
    async with api_world.writer.pipeline() as pipe:
        pipe.delete(schema.PARTITIONS_KEY)
        if kind == "another type":
            pipe.rpush(schema.PARTITIONS_KEY, "2")
        else:
            pipe.set(schema.PARTITIONS_KEY, "abc")
        await pipe.execute()
    assert (await api_world.fresh(503))["reason"] == SENTENCE
    assert "projector_api_redis_reachable 1.0" in (await api_world.http.get("/metrics")).text
    await api_world.writer.delete(schema.PARTITIONS_KEY)
    await api_world.writer.set(schema.PARTITIONS_KEY, PARTITIONS)
    await api_world.fresh(200)


async def test_neither_ready_nor_fresh_while_redis_cannot_be_reached(api_world: ApiWorld) -> None:
    """Contract: both need fresh stamps and a Redis that answers."""
    await api_world.ready(200)
    api_world.server.connected = False
    for body in (await api_world.ready(503), await api_world.fresh(503)):
        assert body["reason"] == "Redis is not reachable"


@pytest.mark.parametrize("path", ["/health/ready", "/health/fresh"])
@pytest.mark.parametrize("connected", [True, False])
async def test_nobody_keeps_an_answer_about_readiness(
    api_world: ApiWorld, connected: bool, path: str
) -> None:
    api_world.server.connected = connected
    await api_world.fresh(200 if connected else 503)
    reply = await api_world.http.get(path)
    assert reply.headers["cache-control"] == "no-store"


async def test_a_server_that_stops_no_longer_polls_redis(api_world: ApiWorld) -> None:
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
    api_world: ApiWorld, monkeypatch: pytest.MonkeyPatch, traced: bool
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


async def lookup_in(api_world: ApiWorld) -> tuple[dict[str, Any], dict[str, Any]]:
    document = (await api_world.http.get("/openapi.json")).json()
    return document, document["paths"][PATH]["get"]


async def test_the_document_describes_the_answer_and_every_refusal(api_world: ApiWorld) -> None:
    document, lookup = await lookup_in(api_world)
    schemas = {
        status: reply["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for status, reply in lookup["responses"].items()
    }
    assert schemas == {"200": "AllowedAgents", "401": "Refusal", "403": "Refusal", "503": "Refusal"}
    answer = document["components"]["schemas"]["AllowedAgents"]
    assert set(answer["properties"]) == set(AllowedAgents.__annotations__)
    assert set(answer["required"]) == set(answer["properties"]) - {"environment"}


async def test_the_example_of_the_document_keeps_to_the_documents_own_schema(
    api_world: ApiWorld,
) -> None:
    document, lookup = await lookup_in(api_world)
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
async def test_the_schema_tells_a_wrong_answer(api_world: ApiWorld, broken: dict[str, Any]) -> None:
    document, lookup = await lookup_in(api_world)
    schema = lookup["responses"]["200"]["content"]["application/json"]["schema"]
    assert faults(broken, schema, document)


async def test_the_document_names_the_three_places_of_a_token(api_world: ApiWorld) -> None:
    document, lookup = await lookup_in(api_world)
    schemes = document["components"]["securitySchemes"]
    assert [schemes[name].get("in", "bearer") for name in schemes] == ["bearer", "query", "header"]
    assert lookup["security"] == [{name: []} for name in schemes]


async def test_the_documents_page_is_served(api_world: ApiWorld) -> None:
    reply = await api_world.http.get("/docs")
    assert reply.status_code == 200
    assert "openapi.json" in reply.text


# what it never does


async def use_everything(api_world: ApiWorld) -> None:
    await api_world.fresh(200)
    for token in (TOKEN, "unknown", ""):
        await api_world.http.get(PATH, headers={"Job-Token": token})
    for path in ("/health/live", "/health/ready", "/health/fresh", "/openapi.json"):
        await api_world.http.get(path)


async def test_the_api_sends_redis_nothing_but_reads(api_world: ApiWorld) -> None:
    api_world.commands.clear()
    await use_everything(api_world)
    assert set(api_world.commands) - CONNECTING == READING


async def test_a_lookup_is_one_read(api_world: ApiWorld) -> None:
    await api_world.fresh(200)
    api_world.commands.clear()
    await api_world.http.get(PATH, headers={"Job-Token": TOKEN})
    assert api_world.commands.count("MGET") == 1


async def test_no_token_is_ever_logged(
    api_world: ApiWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await use_everything(api_world)
    await api_world.http.get(PATH, params={"job_token": TOKEN})
    api_world.server.connected = False
    await api_world.http.get(PATH, params={"job_token": TOKEN})
    ours = [record for record in caplog.records if not record.name.startswith("httpx")]
    assert TOKEN not in "".join(record.getMessage() for record in ours)


async def test_metrics_are_computed_once_however_many_ask(
    api_world: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They ask for no credential, and share the core with lookups."""
    expose, computed = metrics.exposition, 0

    def counted(freshness: Any) -> bytes:
        nonlocal computed
        computed += 1
        return expose(freshness)

    monkeypatch.setattr(metrics, "exposition", counted)
    replies = await asyncio.gather(*(api_world.http.get("/metrics") for _ in range(20)))
    assert {reply.status_code for reply in replies} == {200}
    assert computed == 1
