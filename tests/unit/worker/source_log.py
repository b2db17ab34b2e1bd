"""The topic `sources` in memory, with heartbeats about the one partition of the worker's tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from projector.events.model import SourceRecord, Topic
from projector.kafka.broker_protocol import PartitionLeader
from tests import builders

LEADER = PartitionLeader(1, 5, frozenset({1}), uuid4())


class Log:
    """The topic `sources`, opened at its end."""

    def __init__(self) -> None:
        self.leader = LEADER
        self.opened = 0
        self.start = 0
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.failures: list[Exception] = []
        self._records: asyncio.Queue[list[SourceRecord]] = asyncio.Queue()
        self._next = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        self.opened += 1
        await self.is_open.wait()
        yield self.leader, self.start, self._poll

    async def _poll(self) -> list[SourceRecord]:
        if self.failures:
            raise self.failures.pop()
        try:
            async with asyncio.timeout(0.01):
                return await self._records.get()
        except TimeoutError:
            return []

    def add(self, *records: dict[str, Any] | bytes | SourceRecord | None) -> None:
        added = []
        for record in records:
            if not isinstance(record, SourceRecord):
                record = builders.heartbeat_record(record)  # noqa: PLW2901
            added.append(record._replace(offset=self._next))
            self._next += 1
        self._records.put_nowait(added)

    @property
    def end(self) -> int:
        return self._next


def heartbeat(after: int | None, source: str = "gitlab", number: int = 0) -> dict[str, Any]:
    return builders.heartbeat(source, after, {topic: [number] for topic in Topic})


def named(source: str, after: int | None) -> SourceRecord:
    return builders.heartbeat_record(heartbeat(after, source), key=source.encode())
