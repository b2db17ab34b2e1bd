"""The mark in heartbeats of the state that sends them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from projector.clients import kafka
from projector.config.settings import Settings
from projector.gitlab import last_sent
from projector.gitlab.last_sent import ATTRIBUTE, SOURCE, LastSent, read_last_sent


def test_a_mark_is_read_as_it_was_written() -> None:
    mark = LastSent("ab12", 4711)
    assert LastSent.parse(json.dumps({ATTRIBUTE: str(mark)}).encode()) == mark


@pytest.mark.parametrize(
    "value",
    [None, b"", b"{}", b"[]", b"7", b"\xff", b'{"bridgestate": 7}', b'{"bridgestate": "x"}',
     b'{"bridgestate": "x-y"}', b'{"bridgestate": null}', b"[" * 100_000],
)  # fmt: skip
def test_a_heartbeat_without_a_mark_has_none(value: bytes | None) -> None:
    assert LastSent.parse(value) is None


class LiveTopic:
    """A consumer of heartbeats that go on."""

    def __init__(self) -> None:
        self.next = 0

    def assign(self, _places: list[TopicPartition]) -> None:
        pass

    def seek(self, _place: TopicPartition, offset: int) -> None:
        self.next = offset

    async def beginning_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    async def end_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 3)

    async def position(self, _place: TopicPartition) -> int:
        return self.next

    async def getmany(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        await asyncio.sleep(0.01)
        self.next += 1
        value = json.dumps({ATTRIBUTE: f"live-{self.next}"}).encode()
        record = SimpleNamespace(key=SOURCE.encode(), value=value)
        return {TopicPartition(Settings().topic("sources"), 0): [record]}


async def test_heartbeats_that_go_on_do_not_hold_up_the_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @asynccontextmanager
    async def open_consumer(*_: object, **_options: object) -> AsyncIterator[LiveTopic]:
        yield LiveTopic()

    monkeypatch.setattr(kafka, "open_consumer", open_consumer)
    monkeypatch.setattr(last_sent, "LIVE_S", 0.1)
    async with asyncio.timeout(2):
        found = await read_last_sent(Settings())
    assert found
    assert (found.state, found.number > 3) == ("live", True)
