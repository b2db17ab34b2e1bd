"""Retries during outages; an outage of many calls is logged once."""

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from projector.clients import retry
from projector.clients.retry import OUTAGES, outage_of, retry_outages, wait_until_ready
from projector.errors import AccessError, MissingTopicsError, OperatorError


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
        while not any(line["event"] == event for line in said):  # noqa: ASYNC110  the log has no event
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


async def test_a_partition_has_the_reason_of_its_own_call_and_only_while_that_fails() -> None:
    """It had the last reason of any, until the last partition's outage was over."""
    flaky = [Flaky(number) for number in (1, 2)]
    flaky[1].error = KafkaConnectionError("another broker")
    working = [asyncio.create_task(each.work()) for each in flaky]
    for each in flaky:
        await each.tried.wait()
    await asyncio.sleep(0)
    assert [outage_of(n) for n in (1, 2, 3)] == [
        "Kafka: KafkaConnectionError: no broker", "Kafka: KafkaConnectionError: another broker",
        None,
    ]  # fmt: skip
    flaky[0].error = None
    await working[0]
    assert [outage_of(n) is None for n in (1, 2)] == [True, False]
    flaky[1].error = None
    await working[1]


async def test_an_outage_that_goes_on_is_said_again_with_its_extent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "LOG_AGAIN_S", 0.01)
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


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, none of which is waited for."""
    paused: list[float] = []
    sleep = asyncio.sleep

    async def record(seconds: float) -> None:
        paused.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", record)
    return paused


@pytest.mark.parametrize("error", [each("away") for each in OUTAGES], ids=repr)
async def test_pauses_double_up_to_two_seconds(error: Exception, pauses: list[float]) -> None:
    @retry_outages
    async def work() -> int:
        if len(pauses) < 12:
            raise error
        return len(pauses)

    assert await work() == 12
    bases = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6]
    for pause, base in zip(pauses, bases, strict=False):
        assert base <= pause <= base + retry.JITTER_S
    assert set(pauses[len(bases) :]) == {2.0}


async def test_any_other_error_is_raised_at_once_also_after_a_retry(pauses: list[float]) -> None:
    @retry_outages
    async def work(*errors: Exception) -> None:
        raise errors[min(len(pauses), len(errors) - 1)]

    with pytest.raises(OperatorError):
        await work(OperatorError("set x"))
    assert pauses == []
    with pytest.raises(OperatorError):
        await work(OSError("away"), OperatorError("set x"))
    assert len(pauses) == 1


async def test_a_call_that_succeeds_prepares_no_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would cost 27 µs, and most calls are shorter."""
    monkeypatch.setattr(retry, "Call", lambda *_: pytest.fail("prepared"))

    @retry_outages
    async def work() -> str:
        return "done"

    assert await work() == "done"


# waiting for servers at the start


class Reach:
    """A server that raises these errors, one for each attempt, and then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.0)


@pytest.mark.usefixtures("at_once")
async def test_a_server_is_waited_for_and_a_reason_is_logged_ever_more_rarely() -> None:
    away, missing = RedisConnectionError("away"), MissingTopicsError("create them")
    with capture_logs() as said:
        answer = await wait_until_ready("Kafka", "k:1", Reach(missing, *[away] * 7))
    assert answer == "answer"
    assert [line["reason"] for line in said] == ["create them", "away", "away", "away"]
    assert (said[0]["server"], said[0]["place"]) == ("Kafka", "k:1")


async def test_a_server_that_refuses_this_client_is_not_waited_for() -> None:
    with pytest.raises(AccessError, match=r"^Redis at r:1 does not know this user and password"):
        await wait_until_ready("Redis", "r:1", Reach(AuthenticationError("no")))
