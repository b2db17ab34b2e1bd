"""Events that come later than anything remembers what they could contradict.

Removed things are remembered for the tombstone retention only. How late an event is, its record
says, and never a clock: so whoever reads the topics again decides alike.
"""

import msgspec

from projector.events.model import APPLIED, BadEvent, Event, KafkaRecord
from projector.events.timestamps import to_rfc3339


def refuse_late(event: Event, record: KafkaRecord, retention_ms: int) -> Event:
    """The event, with a complaint if it is a revocation that comes too late.

    Raises `BadEvent` for any other that comes too late.
    """
    if event.time is None and event.replays is None:
        return event
    reason = _reason(event, record, retention_ms)
    if reason is None:
        return event
    if not event.kind.revokes:
        raise BadEvent(reason)
    complaint = f"{event.complaint}; {reason}" if event.complaint else APPLIED + reason
    return msgspec.structs.replace(event, complaint=complaint)


def _reason(event: Event, record: KafkaRecord, retention_ms: int) -> str | None:
    for what, moment in _moments(event):
        if record.timestamp - moment > retention_ms:
            return (
                f"too late: Kafka has the record of {to_rfc3339(record.timestamp)}, but {what} is "
                f"{to_rfc3339(moment)}; at most {retention_ms / 1000:g} seconds may lie between them "
                "(PROJECTOR_TOMBSTONE_RETENTION)"
            )
    return None


def _moments(event: Event) -> list[tuple[str, int]]:
    moments: list[tuple[str, int]] = []
    if event.time is not None:
        moments.append(("its `time`", event.time))
    if event.replays:
        moments.append(("the time of the record that it replays", event.replays.timestamp))
    return moments
