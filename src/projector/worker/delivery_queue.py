"""What Faust has delivered and the owner has not yet taken: bounded, so that nobody ever waits."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from projector.events.model import KafkaRecord, Topic
from projector.kafka.range_reader import Offsets

MAX_RECORDS: Final = 10_000
MAX_BYTES: Final = 32 * 1024 * 1024
BATCH_SIZE: Final = 500
# How long arrivals gather while the owner is busy. Whoever is behind is late already, and of larger
# batches fewer have to be written.
GATHER_S: Final = 0.005
GATHER_BEHIND_S: Final = 0.02


class Delivery(NamedTuple):
    """A record from Faust, and how to acknowledge it there."""

    record: KafkaRecord
    ack: Callable[[], object]


class DeliveryQueue:
    """One partition's deliveries, in the order of their arrival.

    `arrived` is the offset behind the highest delivery of each topic, kept or not.
    """

    def __init__(self) -> None:
        self.arrived: Offsets = dict.fromkeys(Topic, 0)
        # Each with its size.
        self._waiting: deque[tuple[Delivery, int]] = deque()
        self._bytes = 0
        self._full = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, delivered: Delivery) -> None:
        """Take a delivery, at once. One too many is only noted: the owner reads it from Kafka."""
        record, size = delivered.record, delivered.record.size
        if record.offset >= self.arrived[record.topic]:
            self.arrived[record.topic] = record.offset + 1
        if len(self._waiting) >= MAX_RECORDS or self._bytes + size > MAX_BYTES:
            delivered.ack()
            self._full.set()
            return
        self._waiting.append((delivered, size))
        self._bytes += size
        if len(self._waiting) >= BATCH_SIZE:
            self._full.set()

    def release(self) -> None:
        """Acknowledge what nobody will take: an event without its ack holds back all commits."""
        while self._waiting:
            self._waiting.popleft()[0].ack()
        self._bytes = 0

    async def take(self, *, behind: bool = False) -> list[Delivery]:
        """The next batch, perhaps empty.

        If more than one waits, let others gather; of who is `behind` also if there is but one.
        """
        if len(self._waiting) > (0 if behind else 1):
            await self._gather(GATHER_BEHIND_S if behind else GATHER_S)
        taken = [self._waiting.popleft() for _ in range(min(BATCH_SIZE, len(self._waiting)))]
        self._bytes -= sum(size for _, size in taken)
        return [delivered for delivered, _ in taken]

    async def _gather(self, seconds: float) -> None:
        """Until a batch is full, and so many seconds at most."""
        self._full.clear()
        if len(self._waiting) < BATCH_SIZE:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._full.wait()
