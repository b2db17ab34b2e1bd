"""Allowed lateness of events: at most the tombstone retention.

Removals are kept for the tombstone retention only, so an older event could undo one. Lateness is
Kafka's timestamp minus the event's own time. No clock is read, so a replay of the topics decides
alike.
"""

import msgspec

from projector.events.model import APPLIED, BadEvent, Event, KafkaRecord
from projector.events.timestamps import to_rfc3339


def refuse_late(event: Event, record: KafkaRecord, retention_ms: int) -> Event:
    """Return the event, with a warning if it is a revocation that comes too late.

    Raises `BadEvent` for any other event that comes too late.
    """
    if event.time is None and event.replays is None:
        return event
    reason = _reason(event, record, retention_ms)
    if reason is None:
        return event
    if not event.kind.revokes:
        raise BadEvent(reason)
    warning = f"{event.warning}; {reason}" if event.warning else APPLIED + reason
    return msgspec.structs.replace(event, warning=warning)


def _reason(event: Event, record: KafkaRecord, retention_ms: int) -> str | None:
    for name, timestamp_ms in _own_times(event):
        if record.timestamp - timestamp_ms > retention_ms:
            return (
                f"too late: Kafka has the record of {to_rfc3339(record.timestamp)}, but {name} is "
                f"{to_rfc3339(timestamp_ms)}; at most {retention_ms / 1000:g} seconds may lie "
                "between them (PROJECTOR_TOMBSTONE_RETENTION)"
            )
    return None


def _own_times(event: Event) -> list[tuple[str, int]]:
    times: list[tuple[str, int]] = []
    if event.time is not None:
        times.append(("its `time`", event.time))
    if event.replays:
        times.append(("the time of the record that it replays", event.replays.timestamp))
    return times
