"""The page's data: bounded, shared by all viewers, and never in a lookup's way."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fakeredis import FakeAsyncRedis
from redis.exceptions import AuthenticationError

from api import metrics
from api.lookup import PATH
from api.ops import data as page_data
from api.ops.background import BackgroundLoop
from projector import errors
from projector.config.settings import Settings
from projector.operators import explain
from projector.operators.status import read_status
from projector.store import schema
from projector.store.schema import Version, ViewRecord
from tests.unit.api.ops.served import BEARER, NOBODY_THERE, own, public


async def test_an_unknown_job_is_said_to_be_unknown(redis: FakeAsyncRedis) -> None:
    async with own() as http:
        reply = await http.get("/ops/data/jobs/9")
    assert reply.status_code == 404
    assert "job 9 is not known" in reply.json()["message"]


async def test_facts_beyond_the_bound_are_left_to_the_command(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_data, "MOST_FACTS", 1)
    await redis.hset(schema.partition_key(0), "facts", "2")
    async with own() as http:
        reply = await http.get("/ops/data/jobs/9")
    assert reply.status_code == 422
    assert "projector explain" in reply.json()["message"]


async def test_one_explanation_at_a_time_and_few_may_wait(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    running_now, most = 0, 0
    go = asyncio.Event()

    class Slow:
        """Takes the place of the computation."""

        def __init__(self, *_: object) -> None: ...

        async def explanation(self, job: int, agent: int | None) -> dict[str, Any]:
            nonlocal running_now, most
            running_now, most = running_now + 1, max(most, running_now + 1)
            while not go.is_set():  # noqa: ASYNC110  of another loop
                await asyncio.sleep(0.001)
            running_now -= 1
            return {"job": job}

        async def close(self) -> None: ...

    monkeypatch.setattr(page_data, "_Reader", Slow)
    asked = page_data.MAX_WAITING + 2
    async with own() as http:
        asking = [asyncio.create_task(http.get(f"/ops/data/jobs/{n}")) for n in range(1, asked + 1)]
        refused = [await task for task in asking[-2:]]
        go.set()
        answered = [await task for task in asking[:-2]]
    assert [reply.status_code for reply in refused] == [503, 503]
    assert [reply.json()["job"] for reply in answered] == list(range(1, page_data.MAX_WAITING + 1))
    assert most == 1


async def test_however_many_look_redis_is_read_once(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_data, "STATUS_KEPT_S", 60.0)
    reads = 0
    read = read_status

    async def counted(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(*arguments)

    monkeypatch.setattr("api.ops.data.read_status", counted)
    async with own() as http:
        replies = await asyncio.gather(*(http.get("/ops/data/status") for _ in range(20)))
    assert {reply.status_code for reply in replies} == {200}
    assert reads == 1


async def test_every_partition_is_sent_to_those_who_ask_for_all(redis: FakeAsyncRedis) -> None:
    async with own() as http:
        few = (await http.get("/ops/data/status")).json()
        all_ = (await http.get("/ops/data/status?partitions=all")).json()
    assert few["partitions"] == []
    assert [row["partition"] for row in all_["partitions"]] == [0, 1]
    assert few["workers"] == all_["workers"]
    assert [row["owner"] for row in few["workers"]] == [None, "host-1"]


async def test_the_number_of_partitions_sent_is_bounded(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_data, "MAX_SHOWN", 1)
    async with own() as http:
        found = (await http.get("/ops/data/status?partitions=all")).json()
    assert [row["partition"] for row in found["partitions"]] == [0]
    assert found["totals"]["partitions"] == 2


async def test_the_age_of_the_data_is_sent_with_it(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_data, "STATUS_KEPT_S", 60.0)
    async with own() as http:
        first, second = [(await http.get("/ops/data/status")).json() for _ in range(2)]
    assert 0 <= first["read_ago"] < second["read_ago"]
    assert first["at"] == second["at"] <= first["now"] <= second["now"]


async def test_the_api_s_lookups_are_counted_by_status(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics.flush()  # what other tests have counted
    async with public(monkeypatch) as http:
        before = (await http.get("/ops/data/status", headers=BEARER)).json()["lookups"]
        expected = before | {"401": before["401"] + 3}
        for _ in range(3):
            assert (await http.get(PATH)).status_code == 401
        patience = time.monotonic() + 5
        after = before
        while after != expected and time.monotonic() < patience:
            await asyncio.sleep(0.05)
            after = (await http.get("/ops/data/status", headers=BEARER)).json()["lookups"]
    assert after == expected
    async with own() as http:
        assert (await http.get("/ops/data/status", headers=BEARER)).json()["lookups"] is None


async def test_a_damaged_number_of_partitions_is_a_cause_with_what_to_do(
    redis: FakeAsyncRedis,
) -> None:
    """The page showed that the status cannot be read, and neither lookups nor advice."""
    await redis.set(schema.PARTITIONS_KEY, "abc")
    async with own() as http:
        found = (await http.get("/ops/data/status")).json()
    (cause,) = found["causes"]
    assert (cause["name"], cause["lookups"]) == ("partition-count-damaged", "Lookups get 503.")
    assert "totals" not in found


async def test_kafka_that_is_not_there_is_said_and_holds_nothing_up(redis: FakeAsyncRedis) -> None:
    async with own() as http:
        found = (await http.get("/ops/data/dead-letters")).json()
        other = await http.get("/ops/data/status")
    assert "cannot be reached from here" in found["error"]
    assert NOBODY_THERE in found["error"]
    assert other.status_code == 200
    assert "Kafka" in other.json()["kafka"]


async def test_dead_letters_are_kept_and_not_asked_for_again(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0

    async def counted(_settings: Settings, _places: object) -> dict[str, Any]:
        nonlocal reads
        reads += 1
        return {"letters": []}

    monkeypatch.setattr(page_data, "read_letters", counted)
    async with own() as http:
        for _ in range(5):
            assert (await http.get("/ops/data/dead-letters")).json() == {"letters": []}
    assert reads == 1


async def test_redis_that_is_not_there_is_the_cause_since_when_it_went(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_data, "STATUS_KEPT_S", 0.0)
    server = redis.connection_pool.connection_kwargs["server"]
    async with own() as http:
        assert (await http.get("/ops/data/status")).json()["read_ago"] is not None
        server.connected = False
        found = [await _until_away(http) for _ in range(2)]
        server.connected = True
        back = await _until(http, lambda status: status["read_ago"] is not None)
    for each in found:
        assert [cause["name"] for cause in each["causes"]] == ["redis-unreachable"]
        assert each["causes"][0]["detail"].startswith("Redis at redis://127.0.0.1:6379/0 cannot")
        assert each["deployment"]["redis"] == "redis://127.0.0.1:6379/0"
        assert "totals" not in each
    assert found[0]["causes"][0]["since"] == found[1]["causes"][0]["since"] <= found[0]["now"]
    assert "redis-unreachable" not in [cause["name"] for cause in back["causes"]]


async def test_nobody_knows_since_when_redis_is_away_that_never_answered(
    redis: FakeAsyncRedis,
) -> None:
    redis.connection_pool.connection_kwargs["server"].connected = False
    async with own() as http:
        (cause,) = (await http.get("/ops/data/status")).json()["causes"]
    assert cause["since"] is None


async def test_an_answer_from_before_a_pause_does_not_date_an_outage(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was shown since the outage of two hours ago that a viewer had left."""
    monkeypatch.setattr(page_data, "STATUS_KEPT_S", 0.0)
    async with own() as http:
        assert (await http.get("/ops/data/status")).json()["read_ago"] is not None
        redis.connection_pool.connection_kwargs["server"].connected = False
        (before,) = (await _until_away(http))["causes"]
        monkeypatch.setattr(page_data, "IDLE_S", -1.0)
        (after,) = (await http.get("/ops/data/status")).json()["causes"]
    assert before["since"]
    assert after["since"] is None


async def test_a_redis_that_refuses_the_user_is_not_to_be_started(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise AuthenticationError("invalid username-password pair or user is disabled.")

    monkeypatch.setattr(page_data, "read_status", refuse)
    async with own() as http:
        (cause,) = (await http.get("/ops/data/status")).json()["causes"]
    assert (cause["name"], cause["runbook"]) == ("redis-refused", "runbook.md#redis-refused")
    assert "Start Redis" not in cause["advice"]
    assert "does not know this user and password. Set PROJECTOR_REDIS_USERNAME" in cause["detail"]


async def _until_away(http: httpx.AsyncClient) -> Any:
    return await _until(http, lambda status: status["read_ago"] is None)


async def _until(http: httpx.AsyncClient, holds: Callable[[Any], bool]) -> Any:
    """Ask until it holds: the last answer is kept for a moment."""
    patience = time.monotonic() + 10
    while not holds(found := (await http.get("/ops/data/status")).json()):
        assert time.monotonic() < patience, found
        await asyncio.sleep(0.05)
    return found


async def test_lookups_are_answered_while_an_explanation_is_computed(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What blocks the page's own event loop does not block the lookups'."""
    blocked = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def blocking(*_: object, **__: object) -> None:
        loop.call_soon_threadsafe(blocked.set)
        time.sleep(1.0)  # noqa: ASYNC251  what it is about
        raise errors.UnknownJobError("done")

    monkeypatch.setattr(explain, "explain_job", blocking)
    key = schema.TOKENS + hashlib.sha256(b"job-token").hexdigest()
    await redis.set(key, ViewRecord(200, 0, Version(7, 2), b"{}").encode())
    async with public(monkeypatch) as http:
        explaining = asyncio.create_task(http.get("/ops/data/jobs/9", headers=BEARER))
        await blocked.wait()
        for _ in range(20):
            reply = await http.get(PATH, headers={"Job-Token": "job-token"})
            assert reply.status_code in (200, 503)
        assert not explaining.done()
        assert (await explaining).status_code == 404


async def test_a_library_that_cancels_the_reading_of_the_data_cancels_no_request() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    background = BackgroundLoop()
    with pytest.raises(RuntimeError, match="a library cancelled this task"):
        await background.run(cancelled(), 5)
    await background.close(asyncio.sleep(0), 5)
