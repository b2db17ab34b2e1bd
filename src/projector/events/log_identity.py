"""The identity of a topic partition's log: the topic's id, and the mark of a record in it.

An offset means something only in the log that it was taken from. A topic that is made again, or
cut and filled again, has other records at the same offsets.
"""

import hashlib
from typing import Final, NamedTuple, Self

from projector.events.model import KafkaRecord

# Of a broker that reports no topic ids.
_NO_ID: Final = "-"
_CHECKSUM_CHARS: Final = 16


class RecordMark(NamedTuple):
    """A record by its offset, Kafka's time (ms), and a checksum of its key and value."""

    offset: int
    timestamp: int
    checksum: str

    @classmethod
    def of(cls, record: KafkaRecord) -> Self:
        """Mark the record."""
        checksum = hashlib.sha256()
        for content in (record.key, record.value):
            checksum.update(b"-" if content is None else b"%d:" % len(content))
            checksum.update(content or b"")
        return cls(record.offset, record.timestamp, checksum.hexdigest()[:_CHECKSUM_CHARS])


class LogIdentity(NamedTuple):
    """A log by its topic's id, '' if not known, and the latest record that was applied of it."""

    topic_id: str = ""
    mark: RecordMark | None = None

    def encode(self) -> str:
        """Encode it as words: `<topic id or -> <offset> <timestamp> <checksum>`."""
        return " ".join([self.topic_id or _NO_ID, *map(str, self.mark or ())])

    def is_of_another(self, topic_id: str) -> bool:
        """Whether the topic with this id is another one; false if one of them is not known."""
        return bool(self.topic_id and topic_id) and self.topic_id != topic_id

    @classmethod
    def decode(cls, text: str) -> Self:
        """Decode a stored identity; raises `ValueError`."""
        topic_id, *words = text.split(" ")
        topic_id = "" if topic_id == _NO_ID else topic_id
        if not words:
            return cls(topic_id)
        offset, timestamp, checksum = words
        return cls(topic_id, RecordMark(int(offset), int(timestamp), checksum))
