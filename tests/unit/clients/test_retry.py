"""Outages: retried until they are over, and logged once by server."""

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from projector.clients import retry
from projector.clients.retry import retry_outages


class Flaky:
    """Work of one partition that fails until `error` is None."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.error: Exception | None = KafkaConnectionError("no broker")
        self.tried = asyncio.Event()

    @retry_outages
    async def work(self) -> str:
        self.tried.set()
        if self.error:
            raise self.error
        return "done"

    @retry_outages
    async def work_for_ever(self) -> None:
        self.tried.set()
        if self.error:
            raise self.error
        await asyncio.Event().wait()


async def until_said(said: list[Any], event: str) -> None:
    async with asyncio.timeout(10):
        while not any(line["event"] == event for line in said):  # noqa: ASYNC110  logs tell nobody
            await asyncio.sleep(0.01)


async def test_an_outage_of_all_partitions_is_said_once_when_it_begins_and_once_when_it_is_over(
) -> None:  # fmt: skip
    flaky = [Flaky(number) for number in range(20)]
    with capture_logs() as said:
        working = [asyncio.create_task(each.work()) for each in flaky]
        for each in flaky:
            await each.tried.wait()
        for each in flaky:
            each.error = None
        assert await asyncio.gather(*working) == ["done"] * 20
    assert [line["event"] for line in said] == ["outage", "outage over"]
    assert (said[0]["server"], said[0]["partition"]) == ("Kafka", 0)
    assert "no broker" in said[0]["reason"]
    assert (said[1]["server"], said[1]["partitions"]) == ("Kafka", 20)


async def test_kafka_and_redis_have_an_outage_each() -> None:
    kafka, redis = Flaky(1), Flaky(2)
    redis.error = RedisConnectionError("no Redis")
    with capture_logs() as said:
        working = [asyncio.create_task(each.work()) for each in (kafka, redis)]
        for each in (kafka, redis):
            await each.tried.wait()
            each.error = None
        await asyncio.gather(*working)
    begun = [line["server"] for line in said if line["event"] == "outage"]
    assert begun == ["Kafka", "Redis"]


async def test_an_outage_that_goes_on_is_said_again_with_its_extent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "SAID_AGAIN_S", 0.01)
    flaky = [Flaky(number) for number in range(3)]
    with capture_logs() as said:
        working = [asyncio.create_task(each.work()) for each in flaky]
        await until_said(said, "outage goes on")
        for each in flaky:
            each.error = None
        await asyncio.gather(*working)
    assert [line["event"] for line in said].count("outage") == 1
    assert next(line for line in said if line["event"] == "outage goes on")["partitions"] == 3


async def test_an_outage_is_over_for_work_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "SETTLED_S", 0.01)
    flaky = Flaky(1)
    with capture_logs() as said:
        working = asyncio.create_task(flaky.work_for_ever())
        await flaky.tried.wait()
        flaky.error = None
        await until_said(said, "outage over")
        assert not working.done()
        working.cancel()


async def test_who_gives_up_says_nothing_of_an_end() -> None:
    flaky = Flaky(1)
    with capture_logs() as said:
        working = asyncio.create_task(flaky.work())
        await flaky.tried.wait()
        await asyncio.sleep(0)
        working.cancel()
        await asyncio.wait({working})
    assert [line["event"] for line in said] == ["outage"]
