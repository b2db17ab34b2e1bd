"""The queue never makes Faust wait and never grows without bound."""

import asyncio

import pytest

from projector.events.model import Topic
from projector.worker import delivery_queue
from projector.worker.delivery_queue import Delivery, DeliveryQueue
from projector.worker.timing import Timing
from tests import builders

PATIENT = Timing(gather_s=60.0, gather_behind_s=60.0)


def put(queue: DeliveryQueue, offset: int, value: bytes, acked: list[int]) -> None:
    headers = (("x", value[1:]),)
    record = builders.record(b"", offset, topic=Topic.MEMBERSHIP, headers=headers)._replace(key=b"")
    queue.put(Delivery(record, lambda: acked.append(offset)))


@pytest.mark.parametrize(("limit", "bound"), [("MAX_RECORDS", 2), ("MAX_BYTES", 25)])
async def test_one_delivery_too_many_is_noted_acknowledged_and_dropped(
    monkeypatch: pytest.MonkeyPatch, limit: str, bound: int
) -> None:
    monkeypatch.setattr(delivery_queue, limit, bound)
    queue, acked = DeliveryQueue(), list[int]()
    for offset in range(5):
        put(queue, offset, b"x" * 10, acked)
    assert acked == [2, 3, 4]
    assert queue.arrived[Topic.MEMBERSHIP] == 5
    assert [delivered.record.offset for delivered in await queue.take()] == [0, 1]
    put(queue, 5, b"x" * 10, acked)
    assert [delivered.record.offset for delivered in await queue.take()] == [5]


async def test_a_batch_is_bounded_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_queue, "BATCH_SIZE", 3)
    queue = DeliveryQueue()
    for offset in range(4):
        put(queue, offset, b"", [])
    assert [delivered.record.offset for delivered in await queue.take()] == [0, 1, 2]
    assert len(queue) == 1


async def test_others_gather_until_the_batch_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_queue, "BATCH_SIZE", 3)
    queue = DeliveryQueue(PATIENT)
    put(queue, 0, b"", [])
    put(queue, 1, b"", [])
    taking = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    put(queue, 2, b"", [])
    taken = await asyncio.wait_for(taking, 5)
    assert [delivered.record.offset for delivered in taken] == [0, 1, 2]


async def test_nobody_gathers_what_would_be_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_queue, "MAX_BYTES", 25)
    queue = DeliveryQueue(PATIENT)
    put(queue, 0, b"x" * 10, [])
    put(queue, 1, b"x" * 10, [])
    taking = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    put(queue, 2, b"x" * 10, [])
    assert len(await asyncio.wait_for(taking, 5)) == 2


async def test_one_alone_waits_for_others_only_of_who_is_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery_queue, "BATCH_SIZE", 2)
    queue = DeliveryQueue(PATIENT)
    put(queue, 0, b"", [])
    assert len(await asyncio.wait_for(queue.take(), 5)) == 1
    assert await asyncio.wait_for(queue.take(behind=True), 5) == []
    put(queue, 1, b"", [])
    taking = asyncio.create_task(queue.take(behind=True))
    await asyncio.sleep(0)
    put(queue, 2, b"", [])
    assert len(await asyncio.wait_for(taking, 5)) == 2


async def test_what_nobody_takes_any_more_is_acknowledged() -> None:
    queue, acked = DeliveryQueue(), list[int]()
    for offset in range(3):
        put(queue, offset, b"x", acked)
    queue.release()
    assert acked == [0, 1, 2]
    assert await queue.take() == []
