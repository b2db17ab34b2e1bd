"""Offsets of one partition: next, being read, in the checkpoint, confirmed, awaited."""

from collections.abc import Iterable, Mapping
from typing import Final

from projector.events.model import Topic
from projector.kafka.range_reader import Offsets

# With more events than this in Kafka that are not applied, larger batches are worth the delay.
BEHIND: Final = 100


class PartitionProgress:
    """The offsets up to which the three topics of one partition are applied.

    `next` has the offset of the next event to apply of each topic, `reading` the offsets up to
    which Kafka is being read at the moment.
    """

    def __init__(self) -> None:
        self.next: Offsets = {}
        self.reading: Offsets = {}
        self._checkpointed: Offsets = {}
        # The next offsets that a fetch found although the broker's end offsets were lower.
        self._confirmed: Offsets = {}
        # The offset that each topic waits for, and since when (seconds of the loop's clock).
        self._awaited: dict[Topic, tuple[int, float]] = {}
        # The next offsets at which a transaction was open.
        self._open: Offsets = {}

    def known_offset(self, topic: Topic) -> int:
        """Return the offset below which all is applied, or is being read from Kafka."""
        return max(self.next.get(topic, 0), self.reading.get(topic, 0))

    def has_reached(self, ends: Mapping[Topic, int]) -> bool:
        """Whether everything below `ends` is applied."""
        return all(self.next[topic] >= end for topic, end in ends.items())

    def is_behind(self, ends: Mapping[Topic, int]) -> bool:
        """Whether Kafka, up to `ends`, has many events that are not applied."""
        missing = (end - self.next[topic] for topic, end in ends.items())
        return sum(max(0, events) for events in missing) > BEHIND

    def stalled(self, ends: Mapping[Topic, int], now: float, stall_s: float) -> list[Topic]:
        """Return the topics whose next event, below `ends`, has been missing for `stall_s`.

        `now` is in seconds of the loop's clock. Every event that is applied starts the wait again,
        and so does being returned.
        """
        waits = {topic: self._waits_since(topic, ends[topic], now) for topic in Topic}
        found = [topic for topic, since in waits.items() if now - since > stall_s]
        self._awaited |= {topic: (self.next[topic], now) for topic in found}
        return found

    def note_open(self, topic: Topic) -> bool:
        """Note that a transaction is open at the next offset; whether that is new."""
        is_new = self._open.get(topic) != self.next[topic]
        self._open[topic] = self.next[topic]
        return is_new

    def _waits_since(self, topic: Topic, end: int, now: float) -> float:
        expected = self.next[topic]
        awaited, since = self._awaited.get(topic, (-1, now))
        if expected >= end or expected != awaited:
            since = now
        self._awaited[topic] = (expected, since)
        return since

    def unconfirmed(self, truncated: Iterable[Topic]) -> list[Topic]:
        """Return those of the topics whose next offset no fetch has found yet."""
        return [topic for topic in truncated if self._confirmed.get(topic) != self.next[topic]]

    def confirm(self, topic: Topic) -> None:
        """Note that a fetch found the next offset, although the broker's end offset is lower."""
        self._confirmed[topic] = self.next[topic]

    @property
    def is_checkpointed(self) -> bool:
        """Whether the last checkpoint has these next offsets."""
        return self.next == self._checkpointed

    def note_checkpoint(self) -> None:
        """Note that the checkpoint has these next offsets."""
        self._checkpointed = dict(self.next)
