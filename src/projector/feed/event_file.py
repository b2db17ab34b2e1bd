"""Files of events, one CloudEvent a line, and the check of every line."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from projector.events import redaction
from projector.events.cloudevents import decode_event
from projector.events.model import APPLIED, BadEvent, Event, KafkaRecord, Topic


class BadLine(NamedTuple):
    """The number of a line and what is wrong. The line is not kept: it may hold a token."""

    number: int
    reason: str


class Findings(NamedTuple):
    """Number of events of a file, its bad lines, and the lines that a worker applies in part."""

    events: int
    bad: list[BadLine]
    doubtful: list[BadLine]


def numbered_lines(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers from 1."""
    for number, line in enumerate(source, start=1):
        if stripped := line.strip():
            yield number, stripped


def parse_line(line: bytes) -> Event:
    """Decode the event on a line as a worker would.

    Raises `BadEvent`; also for a token in a revocation, since tokens never travel.
    """
    event = decode_event(_record(line))
    if event.warning and (location := redaction.secret_in(line, ())):
        raise BadEvent(f"{location} holds a job token; send `token_sha256`, never the token itself")
    return event


def decode_strictly(record: KafkaRecord) -> Event:
    """Decode the event of a record; raises `BadEvent` even if a worker would only warn."""
    event = decode_event(record)
    if event.warning:
        raise BadEvent(event.warning.removeprefix(APPLIED))
    return event


def check_lines(source: BinaryIO) -> Findings:
    """Check every line, and return what is wrong."""
    events, bad, doubtful = 0, [], []
    for number, line in numbered_lines(source):
        events += 1
        try:
            warning = parse_line(line).warning
        except BadEvent as error:
            bad.append(BadLine(number, str(error)))
        else:
            if warning:
                doubtful.append(BadLine(number, warning.removeprefix(APPLIED)))
    return Findings(events, bad, doubtful)


def layout_hint(source: BinaryIO) -> str:
    """Return how to bring an array, or events of several lines, to one event a line; else ''."""
    _, first = next(numbered_lines(source), (0, b""))
    if first.startswith(b"["):
        return "; write one event a line, as `jq -c '.[]'` does with an array"
    if first == b"{":
        return "; write one event a line, as `jq -c .` does"
    return ""


def _record(line: bytes) -> KafkaRecord:
    return KafkaRecord(Topic.MEMBERSHIP, 0, 0, 0, None, line)
