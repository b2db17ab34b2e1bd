"""A worker is live while both of its loops turn, with or without Kafka."""

import asyncio
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from projector.kafka.faust_consumer import ShortPollThread
from projector.worker import liveness
from projector.worker.liveness import read_liveness


class ConsumerThread:
    """Takes the place of Faust's thread: a loop that turns until it is stopped."""

    def __init__(self) -> None:
        self.thread_loop = asyncio.new_event_loop()
        self.heartbeat_at: float | None = None
        self.unblocked = threading.Event()
        self._thread = threading.Thread(target=self.thread_loop.run_forever, daemon=True)
        self._thread.start()

    def block(self) -> None:
        self.thread_loop.call_soon_threadsafe(self.unblocked.wait)

    def end(self) -> None:
        self.unblocked.set()
        if not self.thread_loop.is_closed():
            self.thread_loop.call_soon_threadsafe(self.thread_loop.stop)
            self._thread.join()
            self.thread_loop.close()


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(liveness, "TURN_S", 0.2)
    thread = ConsumerThread()
    yield thread
    thread.end()


async def test_a_worker_is_live_before_its_first_heartbeat(thread: Any) -> None:
    assert await read_liveness(thread) == (200, {"status": "live", "last_heartbeat_s": None})


async def test_without_kafka_the_heartbeat_is_old_and_the_worker_live(thread: Any) -> None:
    """A supervisor would restart every worker in an outage of Kafka, and repair nothing."""
    thread.heartbeat_at = time.monotonic() - 600
    status, body = await read_liveness(thread)
    assert (status, body["status"]) == (200, "live")
    assert 600 <= body["last_heartbeat_s"] < 605


async def test_a_worker_whose_consumer_is_stuck_is_not_live(thread: Any) -> None:
    """It sends no heartbeats: Kafka gives its partitions away, and it gets none again."""
    thread.block()
    status, body = await read_liveness(thread)
    assert (status, body["status"]) == (503, "not live")
    assert "the loop of Faust's consumer" in body["reason"]
    thread.unblocked.set()
    assert (await read_liveness(thread))[0] == 200


async def test_a_worker_whose_consumer_has_ended_is_not_live(thread: Any) -> None:
    thread.end()
    assert (await read_liveness(thread))[0] == 503


async def test_only_an_acknowledged_heartbeat_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    acknowledged = False

    async def beat() -> bool:
        return acknowledged

    async def start(_thread: Any) -> None:
        pass

    monkeypatch.setattr(ShortPollThread.__mro__[1], "on_start", start)
    thread = ShortPollThread.__new__(ShortPollThread)
    coordinator: Any = SimpleNamespace(_do_heartbeat=beat)
    thread._consumer = SimpleNamespace(_coordinator=coordinator)
    await thread.on_start()
    assert await coordinator._do_heartbeat() is False
    assert thread.heartbeat_at is None
    acknowledged = True
    assert await coordinator._do_heartbeat() is True
    assert thread.heartbeat_at is not None
