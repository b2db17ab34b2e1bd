"""What `/metrics` of the API says, over HTTP."""

import asyncio
import os

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from api import metrics
from api.freshness import Freshness
from api.lookup import PATH
from projector.store import schema
from projector.store.schema import Version, ViewRecord
from tests.builders import digest
from tests.unit.api.test_app import EPOCH, PARTITIONS, TOKEN, World, world

__all__ = ["world"]
UNKNOWN = "glcbt-64_nobody-has-this-one"


def samples(text: str) -> list[Sample]:
    return [s for family in text_string_to_metric_families(text) for s in family.samples]


@pytest.fixture(autouse=True)
def _computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """These ask again at once for what has changed since."""
    monkeypatch.setattr("api.ops.background.SHARE", 1e9)


async def scraped(http: httpx.AsyncClient) -> dict[str, float]:
    """Every sample by its name and the values of its labels."""
    reply = await http.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain; version=")
    return {"/".join([s.name, *s.labels.values()]): s.value for s in samples(reply.text)}


async def look_up(world: World, token: str) -> int:
    reply = await world.http.get(PATH, headers={"Job-Token": token})
    return reply.status_code


async def stored(world: World, token: str, status: int, partition: int = 1) -> None:
    record = ViewRecord(status, partition, Version(EPOCH, 2), b'{"message":""}')
    await world.writer.set(schema.token_record_key(digest(token)), record.encode())


async def keep_stamping(world: World) -> None:
    while True:
        await world.stamp(*range(PARTITIONS))
        await asyncio.sleep(0.01)


async def test_lookups_are_counted_by_their_status(world: World) -> None:
    stamping = asyncio.create_task(keep_stamping(world))
    before = await scraped(world.http)
    await stored(world, "token-403", 403)
    await stored(world, "token-503", 503)
    assert [await look_up(world, TOKEN) for _ in range(3)] == [200] * 3
    assert [await look_up(world, "token-403"), await look_up(world, "token-503")] == [403, 503]
    assert await look_up(world, UNKNOWN) == 401
    after = await scraped(world.http)
    name = "projector_api_lookup_seconds_count"
    counts = {s: after[f"{name}/{s}"] - before[f"{name}/{s}"] for s in (200, 401, 403, 503)}
    assert counts == {200: 3, 401: 1, 403: 1, 503: 1}
    assert after["projector_api_read_keys_count"] >= before["projector_api_read_keys_count"] + 6
    stamping.cancel()


async def test_a_miss_that_waits_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.ready(200)
    seen = []

    async def look_meanwhile(_self: Freshness, _timeout: float) -> None:
        seen.append((await scraped(world.http))["projector_api_misses_waiting"])

    monkeypatch.setattr(Freshness, "next_poll", look_meanwhile)
    assert await look_up(world, UNKNOWN) == 503
    assert set(seen) == {1.0}
    assert (await scraped(world.http))["projector_api_misses_waiting"] == 0


async def test_each_partition_has_its_staleness_and_without_a_stamp_it_is_infinite(
    world: World,
) -> None:
    await world.ready(200)
    await world.stamp(0, age=7)
    await world.writer.delete(schema.partition_key(1))
    await world.ready(503)
    found = await scraped(world.http)
    assert 6 < found["projector_api_staleness_seconds/0"] < 60
    assert found["projector_api_staleness_seconds/1"] == float("inf")
    assert found["projector_api_redis_reachable"] == 1


async def test_an_outage_of_redis_is_seen_and_the_staleness_grows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.ready(200)
    before = (await scraped(world.http))["projector_api_staleness_seconds/0"]
    world.server.connected = False
    await world.ready(503)
    found = await scraped(world.http)
    assert found["projector_api_redis_reachable"] == 0
    assert found["projector_api_staleness_seconds/0"] > before
    world.server.connected = True


async def test_no_token_and_no_query_is_in_the_metrics(world: World) -> None:
    await world.http.get(f"{PATH}?job_token={TOKEN}&secret=secret-query")
    await look_up(world, UNKNOWN)
    text = (await world.http.get("/metrics")).text
    assert "projector_api_lookup_seconds" in text
    for secret in (TOKEN, UNKNOWN, digest(TOKEN), "secret"):
        assert secret not in text


async def test_only_the_apis_own_metrics_are_there(world: World) -> None:
    """What workers count is all zero here, and would be taken for theirs."""
    names = {s.name for s in samples((await world.http.get("/metrics")).text)}
    assert names
    assert all(name.startswith("projector_api_") for name in names)


def test_a_process_that_runs_is_told_from_one_that_is_gone() -> None:
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    assert metrics._is_running(os.getpid())
    assert not metrics._is_running(child)
