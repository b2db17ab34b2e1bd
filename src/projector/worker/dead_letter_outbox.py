"""Dead letters on their way to Kafka.

A bad event must not hold its partition up, not even while the topic `dead-letters` cannot take it.
So the checkpoint carries a reference to every letter that Kafka has not acknowledged yet; a new
owner reads the record once more and sends what the former could not.
"""

import asyncio
from itertools import islice
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from projector.clients.retry import retry_outages
from projector.domain.fact_keys import Key
from projector.errors import HistoryLostError
from projector.events.model import KafkaRecord, Topic
from projector.kafka.dead_letters import DeadLetter, DeadLetterProducer
from projector.kafka.range_reader import RangeReader

log = structlog.get_logger()

KIND: Final = "dead-letter"
_PREFIX: Final = f"*/{KIND}/"
# Beyond this the partition waits for the topic, and grows stale: nothing may be forgotten.
MAX_LETTERS: Final = 10_000
# Records kept in memory; of any more the reference is enough to read them again.
MAX_BYTES: Final = 16 * 1024 * 1024
LETTERS_PER_SEND: Final = 100


class LetterRef(Struct, frozen=True):
    """Where the bad record is in its partition, and what is wrong with it."""

    topic: Topic
    offset: int
    reason: str

    @property
    def key(self) -> Key:
        """The letter's field in the checkpoint: `*/dead-letter/membership:41`."""
        return Key(f"*/{KIND}/{self.topic}:{self.offset}")


def take_letters(fields: dict[Key, bytes]) -> dict[Key, bytes]:
    """Take the letters out from among a checkpoint's facts."""
    return {key: fields.pop(key) for key in [key for key in fields if key.startswith(_PREFIX)]}


class DeadLetterOutbox:
    """One partition's letters that Kafka has not acknowledged yet."""

    def __init__(
        self, partition: int, source: RangeReader, dead_letters: DeadLetterProducer
    ) -> None:
        self.partition = partition
        self._source = source
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
        """Take over the letters that the former owner could not send."""
        references = [msgspec.json.decode(raw, type=LetterRef) for raw in fields.values()]
        self._waiting = {reference.key: reference for reference in references}
        self._records, self._bytes, self._changed = {}, 0, {}
        self._note_size()

    def add(self, record: KafkaRecord, reason: str) -> None:
        """Send a letter about the record, soon."""
        reference = LetterRef(record.topic, record.offset, reason)
        self._waiting[reference.key] = reference
        self._changed[reference.key] = msgspec.json.encode(reference)
        if self._bytes + record.size <= MAX_BYTES:
            self._records[reference.key] = record
            self._bytes += record.size
        self._note_size()

    async def room(self) -> None:
        """Wait while too many letters are waiting."""
        await self._has_room.wait()

    def take_changes(self) -> dict[Key, bytes | None]:
        """The fields of the checkpoint that changed since the last call (None: delete)."""
        changed, self._changed = self._changed, {}
        return changed

    def fields(self) -> dict[Key, bytes]:
        """Every waiting letter as it stands in the checkpoint."""
        return {key: msgspec.json.encode(letter) for key, letter in self._waiting.items()}

    async def run(self) -> None:
        """Send what waits, for ever."""
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
            async for progress in self._source.read(self.partition, start, end):
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
