"""The inbox never makes Faust wait and never grows without bound."""

import asyncio

import pytest

from projector.events.model import Topic
from projector.worker import delivery_queue
from projector.worker.delivery_queue import Delivery, DeliveryQueue
from tests import builders


def put(box: DeliveryQueue, offset: int, value: bytes, acked: list[int]) -> None:
    headers = (("x", value[1:]),)
    record = builders.record(b"", offset, topic=Topic.MEMBERSHIP, headers=headers)._replace(key=b"")
    box.put(Delivery(record, lambda: acked.append(offset)))


@pytest.mark.parametrize(("limit", "bound"), [("MAX_RECORDS", 2), ("MAX_BYTES", 25)])
async def test_one_delivery_too_many_is_noted_acknowledged_and_dropped(
    monkeypatch: pytest.MonkeyPatch, limit: str, bound: int
) -> None:
    monkeypatch.setattr(delivery_queue, limit, bound)
    box, acked = DeliveryQueue(), list[int]()
    for offset in range(5):
        put(box, offset, b"x" * 10, acked)
    assert acked == [2, 3, 4]
    assert box.arrived[Topic.MEMBERSHIP] == 5
    assert [delivered.record.offset for delivered in await box.take()] == [0, 1]
    put(box, 5, b"x" * 10, acked)
    assert [delivered.record.offset for delivered in await box.take()] == [5]


async def test_a_batch_is_bounded_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_queue, "BATCH_SIZE", 3)
    box = DeliveryQueue()
    for offset in range(4):
        put(box, offset, b"", [])
    assert [delivered.record.offset for delivered in await box.take()] == [0, 1, 2]
    assert len(box) == 1


async def test_others_gather_until_the_batch_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_queue, "BATCH_SIZE", 3)
    monkeypatch.setattr(delivery_queue, "GATHER_S", 60)
    box = DeliveryQueue()
    put(box, 0, b"", [])
    put(box, 1, b"", [])
    taking = asyncio.create_task(box.take())
    await asyncio.sleep(0)
    put(box, 2, b"", [])
    taken = await asyncio.wait_for(taking, 5)
    assert [delivered.record.offset for delivered in taken] == [0, 1, 2]


async def test_nobody_gathers_what_would_be_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_queue, "MAX_BYTES", 25)
    monkeypatch.setattr(delivery_queue, "GATHER_S", 60)
    box = DeliveryQueue()
    put(box, 0, b"x" * 10, [])
    put(box, 1, b"x" * 10, [])
    taking = asyncio.create_task(box.take())
    await asyncio.sleep(0)
    put(box, 2, b"x" * 10, [])
    assert len(await asyncio.wait_for(taking, 5)) == 2


async def test_one_alone_waits_for_others_only_of_who_is_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery_queue, "BATCH_SIZE", 2)
    monkeypatch.setattr(delivery_queue, "GATHER_S", 60)
    monkeypatch.setattr(delivery_queue, "GATHER_BEHIND_S", 60)
    box = DeliveryQueue()
    put(box, 0, b"", [])
    assert len(await asyncio.wait_for(box.take(), 5)) == 1
    assert await asyncio.wait_for(box.take(behind=True), 5) == []
    put(box, 1, b"", [])
    taking = asyncio.create_task(box.take(behind=True))
    await asyncio.sleep(0)
    put(box, 2, b"", [])
    assert len(await asyncio.wait_for(taking, 5)) == 2


async def test_what_nobody_takes_any_more_is_acknowledged() -> None:
    box, acked = DeliveryQueue(), list[int]()
    for offset in range(3):
        put(box, offset, b"x", acked)
    box.release()
    assert acked == [0, 1, 2]
    assert await box.take() == []
