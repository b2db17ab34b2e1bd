"""The mark in heartbeats of the state that sends them."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from projector.gitlab import last_sent
from projector.gitlab.last_sent import ATTRIBUTE, LastSent

PLACE = TopicPartition("sources", 0)


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


class BusyConsumer:
    """A topic to which another bridge writes without a pause."""

    def __init__(self) -> None:
        self.offset = 0

    def seek(self, _place: TopicPartition, offset: int) -> None:
        self.offset = offset

    async def position(self, _place: TopicPartition) -> int:
        return self.offset

    async def getmany(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        await asyncio.sleep(timeout_ms / 1e6)
        self.offset += 1
        mark = json.dumps({ATTRIBUTE: str(LastSent("other", self.offset))}).encode()
        return {PLACE: [SimpleNamespace(key=b"gitlab", value=mark)]}


async def test_the_end_is_found_while_another_bridge_writes() -> None:
    async with asyncio.timeout(5):
        found = await last_sent._last(cast(AIOKafkaConsumer, BusyConsumer()), PLACE, 0, 3)
    assert found is not None
    assert (found.state, found.number >= 3) == ("other", True)
