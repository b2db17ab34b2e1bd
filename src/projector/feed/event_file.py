"""Files of events, one CloudEvent a line, and the check of every line."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from projector.events.cloudevents import decode_event
from projector.events.model import APPLIED, BadEvent, Event, KafkaRecord, Topic


class BadLine(NamedTuple):
    """The number of an invalid line and the reason. The line is not kept: it may hold a token."""

    number: int
    reason: str


def numbered_lines(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers from 1."""
    for number, line in enumerate(source, start=1):
        if stripped := line.strip():
            yield number, stripped


def parse_line(line: bytes) -> Event:
    """Decode the event on a line; raises `BadEvent` as `decode_strictly` does."""
    return decode_strictly(KafkaRecord(Topic.MEMBERSHIP, 0, 0, 0, None, line))


def decode_strictly(record: KafkaRecord) -> Event:
    """Decode the event of a record; raises `BadEvent` even if a worker would only warn."""
    event = decode_event(record)
    if event.warning:
        raise BadEvent(event.warning.removeprefix(APPLIED))
    return event


def check_lines(source: BinaryIO) -> tuple[int, list[BadLine]]:
    """Count the events, and return every line that is not a valid one."""
    count, bad = 0, []
    for number, line in numbered_lines(source):
        count += 1
        try:
            parse_line(line)
        except BadEvent as error:
            bad.append(BadLine(number, str(error)))
    return count, bad
