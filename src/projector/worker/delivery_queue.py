"""Bounded queue of one partition, from Faust to its owner.

Faust never waits. When the queue is full, a record is dropped, and the owner reads it from Kafka.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from projector.events.model import KafkaRecord, Topic
from projector.kafka.range_reader import Offsets
from projector.worker.timing import DEFAULT_TIMING, Timing

# Bounds of the memory of one partition's queue.
MAX_RECORDS: Final = 10_000
MAX_BYTES: Final = 32 * 1024 * 1024
BATCH_SIZE: Final = 500


class Delivery(NamedTuple):
    """A record from Faust, and the call that acknowledges it there."""

    record: KafkaRecord
    ack: Callable[[], object]


class DeliveryQueue:
    """One partition's deliveries, in the order of their arrival.

    `arrived` is the offset behind the highest delivery of each topic, kept or dropped.
    """

    def __init__(self, timing: Timing = DEFAULT_TIMING) -> None:
        self.arrived: Offsets = dict.fromkeys(Topic, 0)
        self._timing = timing
        # Each with its size in bytes.
        self._waiting: deque[tuple[Delivery, int]] = deque()
        self._bytes = 0
        self._full = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, delivery: Delivery) -> None:
        """Append a delivery without waiting; acknowledge and drop it if the queue is full."""
        record, size = delivery.record, delivery.record.size
        if record.offset >= self.arrived[record.topic]:
            self.arrived[record.topic] = record.offset + 1
        if len(self._waiting) >= MAX_RECORDS or self._bytes + size > MAX_BYTES:
            delivery.ack()
            self._full.set()
            return
        self._waiting.append((delivery, size))
        self._bytes += size
        if len(self._waiting) >= BATCH_SIZE:
            self._full.set()

    def release(self) -> None:
        """Acknowledge all that waits: a delivery without its ack holds back Faust's commits."""
        while self._waiting:
            self._waiting.popleft()[0].ack()
        self._bytes = 0

    async def take(self, *, behind: bool = False) -> list[Delivery]:
        """Take the next batch, perhaps an empty one.

        If more than one delivery waits, more may gather before. For an owner that is `behind` one
        is enough.
        """
        if len(self._waiting) > (0 if behind else 1):
            await self._gather(self._timing.gather_behind_s if behind else self._timing.gather_s)
        taken = [self._waiting.popleft() for _ in range(min(BATCH_SIZE, len(self._waiting)))]
        self._bytes -= sum(size for _, size in taken)
        return [delivery for delivery, _ in taken]

    async def _gather(self, seconds: float) -> None:
        """Wait until a batch is full, at most for `seconds`."""
        self._full.clear()
        if len(self._waiting) < BATCH_SIZE:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._full.wait()
