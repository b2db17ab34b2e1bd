"""Files of events, one CloudEvent a line, checked before anything is sent."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from projector.events.cloudevents import decode_event
from projector.events.model import APPLIED, BadEvent, Event, KafkaRecord, Topic


class BadLine(NamedTuple):
    """A line that is no valid event. The line itself is not kept: it may hold a token."""

    number: int
    reason: str


def numbered_lines(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The numbered lines that are not blank."""
    for number, line in enumerate(source, start=1):
        if stripped := line.strip():
            yield number, stripped


def parse_line(line: bytes) -> Event:
    """The event on a line; raises `BadEvent` as `strict` does."""
    return decode_strictly(KafkaRecord(Topic.MEMBERSHIP, 0, 0, 0, None, line))


def decode_strictly(record: KafkaRecord) -> Event:
    """The event of a record; raises `BadEvent` also where a worker would only complain."""
    event = decode_event(record)
    if event.warning:
        raise BadEvent(event.warning.removeprefix(APPLIED))
    return event


def check_lines(source: BinaryIO) -> tuple[int, list[BadLine]]:
    """How many events there are, and every line that is none."""
    count, bad = 0, []
    for number, line in numbered_lines(source):
        count += 1
        try:
            parse_line(line)
        except BadEvent as error:
            bad.append(BadLine(number, str(error)))
    return count, bad
