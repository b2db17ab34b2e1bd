"""Commands without settings of the environment, and with stand-ins for Redis and Kafka."""

import asyncio
import os
from collections.abc import Callable
from typing import BinaryIO

import fakeredis
import pytest

from projector.clients import redis_client
from projector.config.settings import Settings
from projector.events.model import Topic
from projector.feed import event_file, producer
from projector.feed.applied import Positions
from projector.kafka import topic_ids
from projector.operators import snapshot
from projector.operators.verify import comparison
from tests.unit.cli.runner import NOT_LISTENING
from tests.unit.operators import worlds


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("PROJECTOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PROJECTOR_KAFKA", NOT_LISTENING)
    monkeypatch.setattr("projector.log.configure", lambda level: None)
    monkeypatch.setattr(snapshot, "PATIENCE_S", 0.05)
    monkeypatch.setattr(comparison, "PAUSE_S", 0.0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> fakeredis.FakeServer:
    """The Redis of every command, empty."""
    server = fakeredis.FakeServer()
    monkeypatch.setattr(
        redis_client, "create_redis", lambda settings: fakeredis.FakeAsyncRedis(server=server)
    )
    return server


@pytest.fixture
def company(server: fakeredis.FakeServer) -> fakeredis.FakeServer:
    """The Redis of every command, with a job that may use an agent."""
    asyncio.run(_fill(server))
    return server


async def _fill(server: fakeredis.FakeServer) -> None:
    await worlds.filled(server)


class Kafka:
    """Takes the place of sending; `error` is raised instead."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.error: Exception | None = None
        self.positions: Positions = {}
        self.ids: dict[Topic, str] = {}

    async def send(
        self, source: BinaryIO, settings: Settings, sent: Callable[[], object]
    ) -> Positions:
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        for _, line in event_file.numbered_lines(source):
            self.sent.append(line)
            sent()
        return self.positions

    async def read_ids(self, _settings: Settings) -> dict[Topic, str]:
        return self.ids


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    kafka = Kafka()
    monkeypatch.setattr(producer, "send_events", kafka.send)
    monkeypatch.setattr(topic_ids, "read_topic_ids", kafka.read_ids)
    return kafka
