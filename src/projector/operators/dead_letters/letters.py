"""A dead letter as it is in Kafka, its summary, and the choice of some."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, Self

from msgspec import Struct

from projector.errors import LetterError
from projector.events import redaction
from projector.events.header_attributes import all_attributes, is_binary
from projector.events.lenient_json import read_object
from projector.events.model import LETTER_HEADERS, MAX_REASON, BadEvent, KafkaRecord, Topic
from projector.store.replay_marks import mark_of

# Characters of an event's attribute in a list.
MAX_ATTRIBUTE: Final = 200
_POSITION: Final = ("partition", "offset", "timestamp")
_ID: Final = re.compile(r"(?:(\d{1,9}):)?(\d{1,18})", re.ASCII)


class LetterId(NamedTuple):
    """A letter's position in the topic `dead-letters`; as text `partition:offset`."""

    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `2:17`, or `17` for partition 0; raises `LetterError`."""
        match = _ID.fullmatch(text)
        if match is None:
            raise LetterError(f"{text} is not a letter; name it as `list` does: 0:17, or 17")
        return cls(int(match[1] or 0), int(match[2]))

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


class LetterSummary(Struct, frozen=True):
    """A letter without its content; `timestamp` (ms) is the original's. Only `id` is certain.

    `type`, `source` and `event_id` are the refused event's, as far as they can be read. `replayed`
    is the place of its latest replay.
    """

    id: str
    time: str | None
    topic: str | None
    reason: str | None
    partition: int | None
    offset: int | None
    timestamp: int | None
    type: str | None = None
    source: str | None = None
    event_id: str | None = None
    replayed: str | None = None


class LetterFilter(NamedTuple):
    """Selects letters by their original's topic and partition, and by a text in the reason.

    With `waiting` alone those that were not replayed.
    """

    topic: Topic | None = None
    partition: int | None = None
    reason: str = ""
    waiting: bool = False

    def matches(self, summary: LetterSummary) -> bool:
        """Whether the letter of this summary is selected."""
        return (
            self.topic in (None, summary.topic)
            and self.partition in (None, summary.partition)
            and self.reason.lower() in (summary.reason or "").lower()
            and not (self.waiting and summary.replayed)
        )


class LatestLetters(NamedTuple):
    """The latest letters that match, oldest first; how many match, were read, and replayed."""

    letters: list[LetterSummary]
    matching: int
    total: int
    replayed: int = 0


class Letter(NamedTuple):
    """A dead letter as it is in Kafka, with tokens redacted. Any producer may have written it."""

    id: LetterId
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: redaction.Headers

    def finding(self, name: str) -> str | None:
        """Return the text of the header `dead-letter-<name>`; the first one is the worker's."""
        contents = (content for header, content in self.headers if header == LETTER_HEADERS + name)
        content = next(contents, None)
        return None if content is None else content.decode(errors="replace")

    @property
    def mark(self) -> str:
        """The letter's name in the marks of replays."""
        return mark_of(*self.id, self.timestamp)

    def summary(self, places: Mapping[str, str] = MappingProxyType({})) -> LetterSummary:
        """Return the letter without its content, for lists; `places` are those of replays."""
        time, topic, reason = (
            (self.finding(name) or "")[:MAX_REASON] or None for name in ("time", "topic", "reason")
        )
        partition, offset, timestamp = (_number(self.finding(name)) for name in _POSITION)
        kind, source, event_id = map(self._attributes().get, ("type", "source", "id"))
        return LetterSummary(
            str(self.id), time, topic, reason, partition, offset, timestamp,
            kind, source, event_id, places.get(self.mark),
        )  # fmt: skip

    def _attributes(self) -> dict[str, str]:
        """Read the attributes of the refused event, as far as they are text."""
        headers = self.original_headers
        if is_binary(headers):
            found: Mapping[str, object] = dict(all_attributes(headers))
        else:
            found = read_object(self.value or b"") or {}
        return {name: text[:MAX_ATTRIBUTE] for name, text in found.items() if isinstance(text, str)}

    @property
    def original_headers(self) -> redaction.Headers:
        """The headers of the original record."""
        return tuple(header for header in self.headers if not header[0].startswith(LETTER_HEADERS))

    def original(self) -> KafkaRecord:
        """Return the refused record at its own position; raises `BadEvent` if that is missing."""
        try:
            topic = Topic(self.finding("topic") or "")
            partition, offset, timestamp = (int(self.finding(name) or "") for name in _POSITION)
        except ValueError:
            raise BadEvent(
                "the letter does not name the original's position; send the event as a new one"
            ) from None
        return KafkaRecord(topic, partition, offset, timestamp, self.key, self.value, self.headers)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 20 else None
