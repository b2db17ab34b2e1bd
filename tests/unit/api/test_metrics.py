"""What `/metrics` of the API says, over HTTP."""

import asyncio
import os

import httpx
import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from api import metrics
from api.freshness import Freshness
from api.lookup import PATH
from projector.store import schema
from projector.store.schema import Version, ViewRecord
from tests.builders import digest
from tests.unit.api.api_world import EPOCH, PARTITIONS, TOKEN, ApiWorld

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


async def look_up(api_world: ApiWorld, token: str) -> int:
    reply = await api_world.http.get(PATH, headers={"Job-Token": token})
    return reply.status_code


async def stored(api_world: ApiWorld, token: str, status: int, partition: int = 1) -> None:
    record = ViewRecord(status, partition, Version(EPOCH, 2), b'{"message":""}')
    await api_world.writer.set(schema.record_key(digest(token)), record.encode())


async def keep_stamping(api_world: ApiWorld) -> None:
    while True:
        await api_world.stamp(*range(PARTITIONS))
        await asyncio.sleep(0.01)


async def test_lookups_are_counted_by_their_status(api_world: ApiWorld) -> None:
    stamping = asyncio.create_task(keep_stamping(api_world))
    await api_world.ready(200)
    before = await scraped(api_world.http)
    await stored(api_world, "token-403", 403)
    await stored(api_world, "token-503", 503)
    assert [await look_up(api_world, TOKEN) for _ in range(3)] == [200] * 3
    assert [await look_up(api_world, "token-403"), await look_up(api_world, "token-503")] == [
        403,
        503,
    ]
    assert await look_up(api_world, UNKNOWN) == 401
    after = await scraped(api_world.http)
    name = "projector_api_lookup_seconds_count"
    counts = {s: after[f"{name}/{s}"] - before[f"{name}/{s}"] for s in (200, 401, 403, 503)}
    assert counts == {200: 3, 401: 1, 403: 1, 503: 1}
    assert after["projector_api_read_keys_count"] >= before["projector_api_read_keys_count"] + 6
    stamping.cancel()


async def test_a_miss_that_waits_is_seen(
    api_world: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api_world.ready(200)
    seen = []

    async def look_meanwhile(_self: Freshness, _timeout: float) -> None:
        seen.append((await scraped(api_world.http))["projector_api_misses_waiting"])

    monkeypatch.setattr(Freshness, "next_poll", look_meanwhile)
    assert await look_up(api_world, UNKNOWN) == 503
    assert set(seen) == {1.0}
    assert (await scraped(api_world.http))["projector_api_misses_waiting"] == 0


async def test_each_partition_has_its_staleness_and_without_a_stamp_it_is_infinite(
    api_world: ApiWorld,
) -> None:
    await api_world.ready(200)
    await api_world.stamp(0, age=7)
    await api_world.writer.delete(schema.partition_key(1))
    await api_world.ready(503)
    found = await scraped(api_world.http)
    assert 6 < found["projector_api_staleness_seconds/0"] < 60
    assert found["projector_api_staleness_seconds/1"] == float("inf")
    assert found["projector_api_redis_reachable"] == 1


async def test_an_outage_of_redis_is_seen_and_the_staleness_grows(
    api_world: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api_world.ready(200)
    before = (await scraped(api_world.http))["projector_api_staleness_seconds/0"]
    api_world.server.connected = False
    await api_world.ready(503)
    found = await scraped(api_world.http)
    assert found["projector_api_redis_reachable"] == 0
    assert found["projector_api_staleness_seconds/0"] > before
    api_world.server.connected = True


async def test_no_token_and_no_query_is_in_the_metrics(api_world: ApiWorld) -> None:
    await api_world.http.get(f"{PATH}?job_token={TOKEN}&secret=secret-query")
    await look_up(api_world, UNKNOWN)
    text = (await api_world.http.get("/metrics")).text
    assert "projector_api_lookup_seconds" in text
    for secret in (TOKEN, UNKNOWN, digest(TOKEN), "secret"):
        assert secret not in text


async def test_only_the_apis_own_metrics_are_there(api_world: ApiWorld) -> None:
    """What workers count is all zero here, and would be taken for theirs."""
    names = {s.name for s in samples((await api_world.http.get("/metrics")).text)}
    assert names
    assert all(name.startswith("projector_api_") for name in names)


def test_a_process_that_runs_is_told_from_one_that_is_gone() -> None:
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    assert metrics._is_running(os.getpid())
    assert not metrics._is_running(child)


def test_a_buffer_fills_the_buckets_that_the_histogram_itself_would() -> None:
    values = [0.0, 0.5, 1.0, 1.0000001, 2.0, 3.0, 1e9]
    registries = CollectorRegistry(), CollectorRegistry()
    one, other = (Histogram("h", "h", buckets=(1, 2), registry=r) for r in registries)
    buffer = metrics.HistogramBuffer(one, (1, 2))
    for value in values:
        buffer.observe(value)
        other.observe(value)
    buffer.flush()
    buffer.flush()
    texts = [generate_latest(registry).decode().split("h_created")[0] for registry in registries]
    assert texts[0] == texts[1]
