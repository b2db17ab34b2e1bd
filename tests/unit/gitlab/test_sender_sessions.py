"""The sessions of the sender: each asks first whether another bridge has begun to send."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, cast

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import RecordMetadata, TopicPartition

from projector.config.settings import Settings
from projector.elapsed import elapsed
from projector.errors import StateError
from projector.events.model import Topic
from projector.gitlab import sender as sender_module
from projector.gitlab import source_heartbeats
from projector.gitlab.mapping.envelope import OutboxRow
from projector.gitlab.own_thread import OwnThread
from projector.gitlab.sender import Offsets, Sender
from projector.gitlab.source_heartbeats import SourceHeartbeats
from projector.kafka.range_reader import RangeReader

SETTINGS = Settings(partitions=1, sources="gitlab")


class Outbox:
    """An outbox of one event for each call of `add`."""

    def __init__(self) -> None:
        self.last_number = 0

    def add(self) -> int:
        self.last_number += 1
        return self.last_number

    def unsent(self, after: int, _limit: int) -> list[OutboxRow]:
        numbers = range(after + 1, self.last_number + 1)
        return [OutboxRow(n, "group.set", "9", str(n), None, "{}") for n in numbers]

    def acknowledged(self, upto: int, offsets: Offsets) -> None:
        pass

    def offsets(self) -> Offsets:
        return {}


class Kafka:
    """A broker that takes what producers send, and may be away for heartbeats."""

    def __init__(self) -> None:
        self.events = 0
        self.heartbeats: list[bytes] = []
        self.is_away = False
        self._offsets = itertools.count()

    async def ends(self, _partition: int) -> dict[Topic, int]:
        return dict.fromkeys(Topic, 0) | {Topic.MEMBERSHIP: self.events}

    async def start(self) -> None:
        pass

    async def send(self, topic: str, *_args: Any, **_more: Any) -> Any:
        self.events += 1
        place = TopicPartition(topic, 0)
        metadata = RecordMetadata(topic, 0, place, self.events - 1, 0, 0, 0)
        future = asyncio.get_running_loop().create_future()
        future.set_result(metadata)
        return future

    async def send_and_wait(self, topic: str, value: bytes, *_args: Any, **_more: Any) -> Any:
        if self.is_away:
            raise KafkaConnectionError("away")
        self.heartbeats.append(value)
        place = TopicPartition(topic, 0)
        return RecordMetadata(topic, 0, place, len(self.heartbeats), 0, 0, 0)


class Bridge:
    """A sender with heartbeats, and the other bridge that may take its place."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka, self.outbox = kafka, Outbox()
        self.is_replaced = False
        self.state = OwnThread("state", lambda: self.outbox)
        reader = cast(RangeReader, kafka)
        self.sender = Sender(SETTINGS, reader, self.state, 1, self._check)
        self.beats = SourceHeartbeats(SETTINGS, self.sender, self._look, 0.05, "state")

    async def _check(self) -> None:
        if self.is_replaced:
            raise StateError("another bridge sends")

    async def _look(self) -> int:
        return self.outbox.last_number

    async def send(self) -> None:
        number = self.outbox.add()
        self.sender.remembered(number)
        async with asyncio.timeout(5):
            await self.sender.until_acknowledged(number)


@pytest.fixture
async def bridge(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bridge]:
    kafka = Kafka()

    async def discard(_producer: object) -> None:
        pass

    for module in (sender_module, source_heartbeats):
        monkeypatch.setattr(module, "create_producer", lambda *_: kafka)
        monkeypatch.setattr(module, "discard_producer", discard)
    found = Bridge(kafka)
    yield found
    found.state.stop()


async def test_a_bridge_that_was_cut_from_kafka_sends_nothing_once_it_is_replaced(
    bridge: Bridge,
) -> None:
    tasks = [asyncio.create_task(bridge.sender.run()), asyncio.create_task(bridge.beats.run())]
    await bridge.send()
    await bridge.sender.until(lambda: bridge.sender.ready)
    await asyncio.sleep(0.1)
    bridge.is_replaced = bridge.kafka.is_away = True
    heartbeats = len(bridge.kafka.heartbeats)
    with pytest.raises(StateError, match="another bridge sends"):
        await asyncio.wait_for(tasks[0], 5)
    bridge.kafka.is_away = False
    bridge.sender.remembered(bridge.outbox.add())
    await asyncio.sleep(0.2)
    assert (bridge.kafka.events, len(bridge.kafka.heartbeats)) == (1, heartbeats)
    await _cancel(tasks[1])


async def test_a_bridge_that_was_paused_sends_nothing_once_it_is_replaced(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = 0.0
    monkeypatch.setattr(sender_module, "elapsed", lambda: elapsed() + paused)
    task = asyncio.create_task(bridge.sender.run())
    await bridge.send()
    await asyncio.sleep(0.05)
    paused, bridge.is_replaced = 60.0, True
    bridge.sender.remembered(bridge.outbox.add())
    with pytest.raises(StateError, match="another bridge sends"):
        await asyncio.wait_for(task, 5)
    assert bridge.kafka.events == 1


async def test_a_session_that_is_doubted_goes_on_where_it_is_still_the_last(
    bridge: Bridge,
) -> None:
    task = asyncio.create_task(bridge.sender.run())
    await bridge.send()
    bridge.sender.doubt()
    await bridge.send()
    assert bridge.sender.session == 2
    await _cancel(task)


async def test_the_first_heartbeat_of_a_run_has_the_number_of_the_state(bridge: Bridge) -> None:
    """An older copy of the state would else be taken for the newest after a restart."""
    for _ in range(3):
        bridge.outbox.add()
    await bridge.sender.ask_ends()
    await bridge.beats.claim()
    assert b'"state-3"' in bridge.kafka.heartbeats[0]


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
