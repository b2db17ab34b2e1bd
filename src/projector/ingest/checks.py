"""The check of each event of a request: by the worker's own code, then by its feeder's rights."""

from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType

from projector.events import lenient_json, redaction
from projector.events.cloudevents import decode_event, from_wire, read_data, read_envelope
from projector.events.header_attributes import all_attributes, is_binary
from projector.events.heartbeats import HeartbeatEnvelope, Offset, SourceName
from projector.events.late_events import refuse_late
from projector.events.model import (
    APPLIED,
    HEARTBEAT,
    BadEvent,
    Event,
    KafkaRecord,
    SourceRecord,
    without_prefix,
)
from projector.ingest.feeders import Feeder


class HeartbeatData(Struct, frozen=True):
    """The data of a heartbeat as a feeder sends it: the offsets are the ingest's to add."""

    source: SourceName
    after: Offset | None = None
    offsets: msgspec.Raw | UnsetType = UNSET


class GivenHeartbeat(NamedTuple):
    """A heartbeat of a feeder: its attributes, without those that only a worker reads."""

    id: str
    origin: str
    source: str
    after: int | None


class Finding(Struct, frozen=True):
    """The index of an event in its request, from 0, and what is wrong with it."""

    index: int
    reason: str


class CheckedEvent(NamedTuple):
    """An event that a worker applies, and the record that carries it."""

    event: Event
    record: KafkaRecord


class _Typed(Struct, frozen=True):
    type: str


class _Sourced(Struct, frozen=True):
    source: str


_TYPED: Final = msgspec.json.Decoder(_Typed)
_SOURCED: Final = msgspec.json.Decoder(_Sourced)
_ENVELOPE: Final = msgspec.json.Decoder(HeartbeatEnvelope, dec_hook=from_wire)
_HEARTBEAT: Final = msgspec.json.Decoder(HeartbeatData)
# The errors of reading JSON.
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Checks:
    """Checks the events of one request, one after the other."""

    def __init__(self, feeder: Feeder, retention_ms: int, *, strict: bool) -> None:
        self._feeder = feeder
        self._retention_ms = retention_ms
        self._strict = strict
        self.events: list[CheckedEvent] = []
        self.heartbeat: GivenHeartbeat | None = None
        self.bad: list[Finding] = []
        self.forbidden: list[Finding] = []
        self.warnings: list[Finding] = []

    def add(self, index: int, record: KafkaRecord) -> None:
        """Check an event; what is wrong with it is a finding."""
        if self.heartbeat:
            self.bad.append(Finding(index, f"{HEARTBEAT} must be the last event of its batch"))
            return
        try:
            if _is_heartbeat(record):
                reason = self._add_heartbeat(record)
            else:
                reason = self._add_event(index, check_event(record, self._retention_ms), record)
        except BadEvent as error:
            self.bad.append(_finding(index, str(error)))
        else:
            if reason:
                self.forbidden.append(Finding(index, reason))

    def _add_event(self, index: int, event: Event, record: KafkaRecord) -> str | None:
        if reason := self._feeder.refusal(event, source_of(record)):
            return reason
        if event.warning:
            warning = event.warning.removeprefix(APPLIED)
            if self._strict:
                raise BadEvent(warning)
            self.warnings.append(_finding(index, warning))
        self.events.append(CheckedEvent(event, record))
        return None

    def _add_heartbeat(self, record: KafkaRecord) -> str | None:
        heartbeat = read_heartbeat(record)
        reason = self._feeder.heartbeat_refusal(heartbeat.source, source_of(record))
        if not reason:
            self.heartbeat = heartbeat
        return reason


def _finding(index: int, reason: str) -> Finding:
    # Workers name the headers of Kafka, which a sender over HTTP would look for in vain.
    return Finding(index, reason.replace("the header `ce_", "the header `ce-"))


def check_event(record: KafkaRecord, retention_ms: int) -> Event:
    """Decode the event as a worker would, at the time of the record.

    Raises `BadEvent`; also for a token in a revocation, since tokens never travel.
    """
    event = decode_event(record)
    if event.warning:
        event = _as_sent(event, record)
    if event.warning and (location := redaction.secret_in(record.value, record.headers)):
        raise BadEvent(f"{location} holds a job token; send `token_sha256`, never the token itself")
    return refuse_late(event, record, retention_ms)


def _as_sent(event: Event, record: KafkaRecord) -> Event:
    """Decode once more with the record's key, as the worker will.

    A lenient reading may find the namespace where the strict one does not. With the key the strict
    one succeeds, and may read another type. Raises `BadEvent` then: rights were given for this one.
    """
    key = event.root.encode()
    again = decode_event(record._replace(key=key, topic=event.kind.topic))
    if (again.type, again.root, again.data) != (event.type, event.root, event.data):
        raise BadEvent("the event is another one in the headers than in the value")
    return again


def source_of(record: KafkaRecord) -> str | None:
    """Return the one CloudEvents source of an event; None if it cannot be read, or if two differ.

    Workers do not read it, but a feeder's rights may depend on it.
    """
    if is_binary(record.headers):
        sources = {text for name, text in all_attributes(record.headers) if name == "source"}
        return sources.pop() if len(sources) == 1 else None
    value = record.value or b""
    try:
        source = _SOURCED.decode(value).source
    except _UNREADABLE:
        return None
    # The name may be there twice, once with escapes.
    if value.count(b'"source"') > 1 or b"\\u" in value:
        pairs = (lenient_json.read_object(value) or lenient_json.Fields([])).pairs
        return source if all(text == source for name, text in pairs if name == "source") else None
    return source


def read_heartbeat(record: KafkaRecord) -> GivenHeartbeat:
    """Decode a feeder's heartbeat; raises `BadEvent`."""
    plain = SourceRecord(0, None, record.value, record.headers)
    binary = is_binary(record.headers)
    envelope = read_envelope(plain, binary, _ENVELOPE)
    if without_prefix(envelope.type) != HEARTBEAT:
        raise BadEvent("`event.type` is there more than once, with different contents")
    data = read_data(envelope.data, binary, _HEARTBEAT)
    if data.offsets is not UNSET:
        raise BadEvent(
            "leave `data.offsets` out: Kafka is asked for them once all that came before is "
            "acknowledged"
        )
    if envelope.partitionkey not in (None, data.source):
        raise BadEvent(
            f"`event.partitionkey` must be the source's name, {data.source!r}, or left out"
        )
    return GivenHeartbeat(envelope.id, envelope.source, data.source, data.after)


def _is_heartbeat(record: KafkaRecord) -> bool:
    if is_binary(record.headers):
        types = [text for name, text in all_attributes(record.headers) if name == "type"]
        return any(without_prefix(text) == HEARTBEAT for text in types)
    try:
        return without_prefix(_TYPED.decode(record.value or b"").type) == HEARTBEAT
    except _UNREADABLE:
        return False
