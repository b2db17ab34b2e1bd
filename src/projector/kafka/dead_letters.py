"""Dead letters: bad events, and why they were refused, in the topic `dead-letters`."""

import asyncio
from datetime import UTC, datetime
from typing import Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

from projector.clients import kafka
from projector.config.settings import Settings
from projector.events import redaction
from projector.events.model import DEAD_LETTERS, LETTER_HEADERS, KafkaRecord

PREFIX: Final = LETTER_HEADERS
MAX_ORIGINAL_BYTES: Final = 1024 * 1024
MAX_LETTER_BYTES: Final = 4 * 1024 * 1024
# If the original's headers exceed this many bytes, the letter omits them, or it could be too large.
MAX_HEADER_BYTES: Final = 64 * 1024
MAX_KEY_BYTES: Final = 64 * 1024

# aiokafka refuses to send a record with neither key nor value.
EMPTY_VALUE: Final = b""

Headers = list[tuple[str, bytes | None]]


class DeadLetter(NamedTuple):
    """A record, and the reason of its refusal in one sentence."""

    record: KafkaRecord
    reason: str


class DeadLetterProducer:
    """Sends dead letters; a letter is sent once all replicas have it."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topic(DEAD_LETTERS)
        self._producer = AIOKafkaProducer(
            **kafka.client_arguments(settings),
            client_id=f"{settings.topic_prefix}projector-dead-letters",
            acks="all",
            max_request_size=MAX_LETTER_BYTES,
        )

    async def start(self) -> None:
        """Connect; raises `KafkaError` if no broker can be reached."""
        await self._producer.start()

    async def stop(self) -> None:
        """Send the remaining letters and disconnect."""
        await self._producer.stop()

    async def send(self, letters: list[DeadLetter]) -> None:
        """Send the letters and wait until Kafka has them all."""
        await asyncio.gather(*(self._send(letter) for letter in letters))
        # Here, as readers of letters do without: it costs a command 20 ms.
        from projector import metrics  # noqa: PLC0415

        metrics.DEAD_LETTERS.inc(len(letters))

    async def _send(self, letter: DeadLetter) -> None:
        key, value, headers = compose_dead_letter(letter, datetime.now(UTC))
        try:
            await self._producer.send_and_wait(self._topic, value, key, headers=headers)
        except MessageSizeTooLargeError:
            # An operator may have created the topic with a smaller limit; that must not stop a
            # partition.
            finding = [header for header in headers if header[0].startswith(PREFIX)]
            await self._producer.send_and_wait(self._topic, EMPTY_VALUE, None, headers=finding)


def compose_dead_letter(
    letter: DeadLetter, now: datetime
) -> tuple[bytes | None, bytes | None, Headers]:
    """Compose the letter's key, value and headers: the original without tokens, and the finding."""
    record = letter.record
    value = redaction.redact_value(record.value)
    finding = {
        "reason": redaction.redact_text(letter.reason),
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp": str(record.timestamp),
        "time": now.isoformat(timespec="milliseconds"),
    }
    headers: Headers = [(f"{PREFIX}{name}", text.encode()) for name, text in finding.items()]
    kept = redaction.redact_headers(record.headers)
    if sum(len(name) + len(content or b"") for name, content in kept) <= MAX_HEADER_BYTES:
        headers += kept
    key = redaction.redact_key(record.key)
    if key is None and value is None:
        value = EMPTY_VALUE
    return key and key[:MAX_KEY_BYTES], value and value[:MAX_ORIGINAL_BYTES], headers
