"""CloudEvents from rows of the outbox, and the check that a worker would accept them."""

import re
from typing import Final, NamedTuple

from projector.events.cloudevents import decode_event
from projector.events.model import EVENT_TYPES, BadEvent, KafkaRecord
from projector.events.timestamps import to_rfc3339

BROADCAST: Final = "*"
# A broadcast may have any key.
_ANY_ROOT: Final = "1"
# A worker refuses an event with an older `time` as too late, as after a long outage of Kafka.
MAX_TIME_AGE_MS: Final = 24 * 3600 * 1000
# As long as any number of an outbox row, so that a checked event is never shorter.
_LONGEST_NUMBER: Final = 2**63 - 1
# Reasons that have no content of a row in them: fields, types and bounds.
_FIELD: Final = r"`data[\w.\[\]]*`"
_FAULT: Final = rf"{_FIELD} (is missing|must [\w` ,.:'-]+)"
_HARMLESS: Final = re.compile(
    rf"{_FAULT}(; {_FAULT})*"
    r"|the event has \d+ bytes; at most \d+ fit|the event is nested deeper than \d+ levels"
)


class OutboxRow(NamedTuple):
    """An event that is remembered, but not yet acknowledged; `time` in milliseconds."""

    number: int
    type: str
    root: str
    sequence: str
    time: int | None
    data: str


def partition_key(root: str) -> str:
    """Return the `partitionkey` of the events of a root namespace."""
    return _ANY_ROOT if root == BROADCAST else root


def encode(row: OutboxRow, now_ms: int, max_age_ms: int = MAX_TIME_AGE_MS) -> bytes:
    """Encode the event of an outbox row as it is sent at `now_ms`; an older time is left out."""
    time = ""
    if row.time is not None and now_ms - row.time < max_age_ms:
        time = f'"time":"{to_rfc3339(row.time)}",'
    return (
        f'{{"specversion":"1.0","id":"{row.sequence}-{row.number}","source":"/gitlab",'
        f'"type":"{row.type}","partitionkey":"{partition_key(row.root)}",'
        f'"sequence":"{row.sequence}",{time}"data":{row.data}}}'
    ).encode()


def refusal(kind: str, root: str, sequence: str, time_ms: int | None, data: str) -> str | None:
    """Return why a worker would refuse the event, without a row's content; None if it would not."""
    row = OutboxRow(_LONGEST_NUMBER, kind, root, sequence, time_ms, data)
    try:
        value = encode(row, time_ms or 0)
        decode_event(KafkaRecord(EVENT_TYPES[kind].topic, 0, 0, 0, None, value))
    except BadEvent as error:
        return _without_content(str(error))
    except Exception as error:
        # A defect of this program in one event must not stop all others, which revoke.
        return f"internal error: {type(error).__name__}"
    return None


def _without_content(reason: str) -> str:
    if _HARMLESS.fullmatch(reason):
        return reason
    if "holds a job token" in reason:
        return "a text in it looks like a job token"
    return "a worker would refuse the event"
