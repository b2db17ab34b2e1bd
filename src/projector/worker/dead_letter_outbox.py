"""Outbox of one partition: dead letters that Kafka has not acknowledged yet.

A bad event must not delay its partition, not even while Kafka refuses dead letters. So the
checkpoint has a reference to every letter in the outbox. A new owner reads the bad record again
and sends the letter.
"""

import asyncio
from itertools import islice
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from projector.clients.retry import retry_outages
from projector.domain.fact_keys import WAITING_LETTER, Key
from projector.errors import HistoryLostError
from projector.events.model import KafkaRecord, Topic
from projector.kafka.dead_letters import DeadLetter, DeadLetterProducer
from projector.kafka.range_reader import RangeReader

log = structlog.get_logger()

_PREFIX: Final = f"*/{WAITING_LETTER}/".encode()
# With more letters the partition waits for Kafka, and grows stale: no letter may be lost.
MAX_LETTERS: Final = 10_000
# Records beyond this size in all are not kept in memory, but read again from Kafka.
MAX_BYTES: Final = 16 * 1024 * 1024
LETTERS_PER_SEND: Final = 100


class LetterRef(Struct, frozen=True):
    """The place of a bad record in its partition, and the reason why it is bad."""

    topic: Topic
    offset: int
    reason: str

    @property
    def key(self) -> Key:
        """The field in the checkpoint, such as `*/dead-letter/membership:41`."""
        return Key(f"*/{WAITING_LETTER}/{self.topic}:{self.offset}")


def take_letters(fields: dict[bytes, bytes]) -> dict[Key, bytes]:
    """Remove the fields of letters from those of a checkpoint, and return them."""
    letters = [field for field in fields if field.startswith(_PREFIX)]
    return {Key(field.decode()): fields.pop(field) for field in letters}


class DeadLetterOutbox:
    """One partition's letters, until Kafka acknowledges them."""

    def __init__(
        self, partition: int, reader: RangeReader, dead_letters: DeadLetterProducer
    ) -> None:
        self.partition = partition
        self._reader = reader
        self._dead_letters = dead_letters
        self._waiting: dict[Key, LetterRef] = {}
        self._records: dict[Key, KafkaRecord] = {}
        self._bytes = 0
        self._changed: dict[Key, bytes | None] = {}
        self._filled = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    def __len__(self) -> int:
        return len(self._waiting)

    def restore(self, fields: dict[Key, bytes]) -> None:
        """Replace the letters by those in these fields of the checkpoint."""
        references = [msgspec.json.decode(raw, type=LetterRef) for raw in fields.values()]
        self._waiting = {reference.key: reference for reference in references}
        self._records, self._bytes, self._changed = {}, 0, {}
        self._note_size()

    def add(self, record: KafkaRecord, reason: str) -> None:
        """Add a letter about the record; `run` sends it."""
        reference = LetterRef(record.topic, record.offset, reason)
        self._waiting[reference.key] = reference
        self._changed[reference.key] = msgspec.json.encode(reference)
        if self._bytes + record.size <= MAX_BYTES:
            self._records[reference.key] = record
            self._bytes += record.size
        self._note_size()

    async def room(self) -> None:
        """Wait until there is room for another letter."""
        await self._has_room.wait()

    def take_changes(self) -> dict[Key, bytes | None]:
        """Return the fields of the checkpoint that changed since the last call (None: delete)."""
        changed, self._changed = self._changed, {}
        return changed

    def fields(self) -> dict[Key, bytes]:
        """Return every waiting letter as a field of the checkpoint."""
        return {key: msgspec.json.encode(letter) for key, letter in self._waiting.items()}

    async def run(self) -> None:
        """Send waiting letters until cancelled."""
        while True:
            await self._filled.wait()
            batch = list(islice(self._waiting.values(), LETTERS_PER_SEND))
            await self._send(batch)
            for reference in batch:
                self._drop(reference.key)
            self._note_size()

    @retry_outages
    async def _send(self, batch: list[LetterRef]) -> None:
        letters = [DeadLetter(await self._record(letter), letter.reason) for letter in batch]
        await self._dead_letters.send(letters)

    async def _record(self, reference: LetterRef) -> KafkaRecord:
        if record := self._records.get(reference.key):
            return record
        start, end = {reference.topic: reference.offset}, {reference.topic: reference.offset + 1}
        try:
            async for progress in self._reader.read(self.partition, start, end):
                for record in progress.records:
                    if record.offset == reference.offset:
                        return record
        except HistoryLostError:
            log.warning("a bad record is gone, its letter goes without", partition=self.partition,
                        topic=reference.topic, offset=reference.offset)  # fmt: skip
        return KafkaRecord(reference.topic, self.partition, reference.offset, 0, None, None)

    def _drop(self, key: Key) -> None:
        self._waiting.pop(key, None)
        self._changed[key] = None
        if record := self._records.pop(key, None):
            self._bytes -= record.size

    def _note_size(self) -> None:
        _set(self._filled, bool(self._waiting))
        _set(self._has_room, len(self._waiting) < MAX_LETTERS)


def _set(event: asyncio.Event, value: bool) -> None:
    if value:
        event.set()
    else:
        event.clear()
