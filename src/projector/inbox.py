"""What Faust has delivered and the owner has not yet taken: bounded, so that nobody ever waits."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from projector.delivery import Offsets
from projector.events import Record, Topic

MAX_RECORDS: Final = 10_000
MAX_BYTES: Final = 32 * 1024 * 1024
BATCH_SIZE: Final = 500
# How long arrivals gather while the owner is busy: some 10,000 events/s instead of 6,000.
LINGER_S: Final = 0.005


class Delivered(NamedTuple):
    """A record from Faust, and how to acknowledge it there."""

    record: Record
    ack: Callable[[], object]


class Inbox:
    """One partition's deliveries, in the order of their arrival.

    `arrived` is the offset behind the highest delivery of each topic, kept or not.
    """

    def __init__(self) -> None:
        self.arrived: Offsets = dict.fromkeys(Topic, 0)
        self._waiting: deque[Delivered] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, delivered: Delivered) -> None:
        """Take a delivery, at once. One too many is only noted: the owner reads it from Kafka."""
        record = delivered.record
        self.arrived[record.topic] = max(self.arrived[record.topic], record.offset + 1)
        if len(self._waiting) >= MAX_RECORDS or self._bytes + record.size > MAX_BYTES:
            delivered.ack()
            return
        self._waiting.append(delivered)
        self._bytes += record.size

    def leave(self) -> None:
        """Acknowledge what nobody will take: an event without its ack holds back all commits."""
        while self._waiting:
            self._waiting.popleft().ack()
        self._bytes = 0

    async def take(self) -> list[Delivered]:
        """The next batch, perhaps empty. More than one waiting record lets others gather."""
        if len(self._waiting) > 1:
            await asyncio.sleep(LINGER_S)
        taken = [self._waiting.popleft() for _ in range(min(BATCH_SIZE, len(self._waiting)))]
        self._bytes -= sum(delivered.record.size for delivered in taken)
        return taken
