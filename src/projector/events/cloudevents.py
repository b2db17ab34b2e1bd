"""Decoder from Kafka records to checked events: CloudEvents 1.0, structured or binary."""

import re
from contextlib import suppress
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from projector.events import ci_access, lenient_json, redaction, replay_header
from projector.events.faults import find_faults, in_words
from projector.events.header_attributes import all_attributes, is_binary, read_attributes
from projector.events.model import (
    APPLIED,
    EVENT_TYPES,
    HEARTBEAT,
    MAX_EVENT_BYTES,
    MAX_NESTING,
    ROOT_PATTERN,
    AgentConfigured,
    AgentFile,
    BadEvent,
    CiAccess,
    Data,
    Event,
    Id,
    InstanceAgentSet,
    Instant,
    KafkaRecord,
    MemberRemoved,
    ReplayPosition,
    RootNamespace,
    Sequence,
    SharedAgentSet,
    SourceRecord,
    Text,
    known_type,
    without_prefix,
)
from projector.events.revocations import read_revocation, readings

S = TypeVar("S", bound=Struct)
Decoder = msgspec.json.Decoder
AnyRecord = KafkaRecord | SourceRecord


class Envelope(Struct, frozen=True):
    """The CloudEvents attributes of an event; the record's key may replace `partitionkey`."""

    specversion: Literal["1.0"]
    id: Text
    source: Text
    type: Text
    partitionkey: RootNamespace | None = None
    time: Instant | None = None
    sequence: Sequence | None = None
    data: msgspec.Raw | UnsetType = UNSET


class _Typed(Struct, frozen=True):
    type: str


class _Numbered(Struct, frozen=True):
    id: Id


def from_wire(kind: type, value: object) -> object:
    """Parse an `Instant` for msgspec."""
    if kind is Instant:
        return Instant.parse(value)
    raise NotImplementedError(kind)


_TOO_DEEP: Final = f"the event is nested deeper than {MAX_NESTING} levels"
_TAKEN_AS_BINARY: Final = (
    "the value is read as `data`, because of the header `ce_specversion`; if it is the whole "
    "event, set content-type to application/cloudevents+json"
)
_AS_HEADER: Final = re.compile(r"`\$\.(\w+)`")
_DATA: Final[dict[str, Decoder[Any]]] = {
    name: msgspec.json.Decoder(kind.data, dec_hook=from_wire) for name, kind in EVENT_TYPES.items()
}
_ENVELOPE: Final = msgspec.json.Decoder(Envelope, dec_hook=from_wire)
_ANYTHING: Final = msgspec.json.Decoder(Any)
_TYPED: Final = msgspec.json.Decoder(_Typed)
_ROOT: Final = re.compile(ROOT_PATTERN.encode())
# The errors of reading JSON.
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# Data with a configuration, of which parts may not count.
_CONFIGURATIONS: Final = (AgentConfigured, SharedAgentSet, InstanceAgentSet)


def decode_event(record: KafkaRecord) -> Event:
    """Decode and check the event that `record` carries.

    A revocation (`*.removed`, `job.finished`) needs readable ids alone; any other error in it
    becomes its `warning`. Raises `BadEvent` for every other invalid record.
    """
    try:
        return _decode_strictly(record)
    except BadEvent as error:
        found = read_revocation(record)
        if found is None:
            raise
        name, root, data, sequence = found
        return Event(name, root, data, None, sequence, APPLIED + str(error), _replays(record))


def subject(record: KafkaRecord) -> str | None:
    """Name the entity that the record is about; None if its type or ids cannot be read."""
    named = ((name, reading.data) for reading in readings(record) for name in reading.types())
    name, data = next(named, ("", None))
    entity, _, change = name.rpartition(".")
    try:
        if entity == "member":
            return _membership(msgspec.convert(data, MemberRemoved))
        number = msgspec.convert(data, _Numbered).id
    except (msgspec.ValidationError, UnicodeEncodeError):
        return None
    if change == "configured":
        return f"the configuration of agent {number}"
    return f"{entity} {number}"


def _membership(member: MemberRemoved) -> str:
    scope = f"project {member.project_id}" if member.project_id else f"group {member.group_id}"
    return f"the membership of user {member.user_id} in {scope} via {member.via}"


def _decode_strictly(record: KafkaRecord) -> Event:
    binary = is_binary(record.headers)
    envelope = read_envelope(record, binary, _ENVELOPE)
    name = known_type(envelope.type)
    root = envelope.partitionkey or _root_in_key(record, binary)
    data: Data = read_data(envelope.data, binary, _DATA[name])
    return Event(
        name,
        root,
        data,
        envelope.time,
        None if envelope.sequence is None else int(envelope.sequence),
        _warning(data) if type(data) in _CONFIGURATIONS else None,
        replay_header.decode_position(record) if record.headers else None,
    )


def read_envelope(record: AnyRecord, binary: bool, decoder: Decoder[S]) -> S:
    """Check the record, and decode its attributes; raises `BadEvent`."""
    value = record.value
    if record.fault:
        raise BadEvent(record.fault)
    if value is None:
        raise BadEvent("the record has no value")
    if len(value) > MAX_EVENT_BYTES:
        raise BadEvent(f"the event has {len(value)} bytes; at most {MAX_EVENT_BYTES} fit")
    if location := redaction.secret_in(value, record.headers):
        raise BadEvent(f"{location} holds a job token; send `token_sha256`, never the token itself")
    try:
        envelope = _from_headers(record, decoder) if binary else decoder.decode(value)
    except _UNREADABLE as error:
        if decoder is _ENVELOPE:
            _refuse_heartbeat(record, binary)
        raise _envelope_refusal(error, record, binary, decoder) from None
    if not binary and value.count(b'"type"') > 1:
        _refuse_two_types(value)
    return envelope


def read_data(data: msgspec.Raw | UnsetType, binary: bool, decoder: Decoder[S]) -> S:
    """Decode the `data` of an event; raises `BadEvent`."""
    if data is UNSET:
        raise BadEvent("the event has no `data`; it must be a JSON object")
    raw = bytes(data)
    _refuse_deep(raw)
    try:
        return decoder.decode(raw)
    except _UNREADABLE as error:
        raise _data_refusal(error, raw, binary, decoder) from None


def _warning(data: Data) -> str | None:
    """Return why parts of the data do not count, or None if all of it does."""
    reasons: list[str] = []
    match data:
        case (
            AgentConfigured(config=AgentFile(ci_access=CiAccess() as access))
            | SharedAgentSet(config=AgentFile(ci_access=CiAccess() as access))
        ):
            for name, entries in ("projects", access.projects), ("groups", access.groups):
                counted = (entries or [])[: ci_access.MAX_ENTRIES]
                reasons += ci_access.rejections(f"ci_access.{name}", counted)
        case InstanceAgentSet(configuration=configuration):
            reason = ci_access.unreadable_reason(configuration)
            reasons += [f"the agent does not count: {reason}"] if reason else []
    if not reasons:
        return None
    shown = reasons[: ci_access.MAX_REJECTIONS_SHOWN]
    if len(reasons) > len(shown):
        shown.append(f"and {len(reasons) - len(shown)} more")
    return APPLIED + redaction.redact_text("; ".join(shown))


def _replays(record: KafkaRecord) -> ReplayPosition | None:
    try:
        return replay_header.decode_position(record)
    except BadEvent:
        return None


def _refuse_heartbeat(record: AnyRecord, binary: bool) -> None:
    """Raise `BadEvent` for a heartbeat, whose other attributes need not be those of an event."""
    with suppress(*_UNREADABLE):
        typed = _from_headers(record, _TYPED) if binary else _TYPED.decode(record.value or b"")
        if without_prefix(typed.type) == HEARTBEAT:
            known_type(typed.type)


def _from_headers(record: AnyRecord, decoder: Decoder[S]) -> S:
    return msgspec.convert(_attributes(record), decoder.type, dec_hook=from_wire)


def _attributes(record: AnyRecord) -> dict[str, Any]:
    return {**read_attributes(record.headers), "data": msgspec.Raw(record.value or b"null")}


def _root_in_key(record: KafkaRecord, binary: bool) -> str:
    """Return the record's key as the namespace: SDKs of CloudEvents write it there alone."""
    key = record.key
    if key is not None and _ROOT.fullmatch(key):
        return key.decode()
    where = "the header `ce_partitionkey`" if binary else "`event.partitionkey`"
    if key is None:
        raise BadEvent(f"{where} is missing; give the id of the root namespace, as text")
    raise BadEvent(f"{where} is missing, and the record's key is not a namespace's id")


def _refuse_two_types(value: bytes) -> None:
    event = lenient_json.read_object(value) or lenient_json.Fields([])
    if any(name == "type" and content != event["type"] for name, content in event.pairs):
        raise BadEvent("`event.type` is there more than once, with different contents")


def _refuse_deep(raw: bytes) -> None:
    # What is opened must be closed, so short data is not deep.
    if len(raw) <= 2 * MAX_NESTING or raw.count(b"{") + raw.count(b"[") <= MAX_NESTING:
        return
    try:
        tree = msgspec.json.decode(raw)
    except _UNREADABLE as error:
        raise _refusal(error, raw, "data", _ANYTHING) from None
    if redaction.nesting(tree) > MAX_NESTING:
        raise BadEvent(_TOO_DEEP)


def _envelope_refusal(
    error: Exception, record: AnyRecord, binary: bool, decoder: Decoder[Any]
) -> BadEvent:
    """Return the reason why the attributes cannot be read, with where they are looked for."""
    if binary:
        found = find_faults(decoder.type, _attributes(record), from_wire)
        reason = "; ".join(found) or in_words(str(error))
        return BadEvent(_AS_HEADER.sub(r"the header `ce_\1`", reason))
    refusal = _refusal(error, record.value or b"", "event", decoder)
    attributes = {name for name, _ in all_attributes(record.headers)}
    if "type" not in attributes:
        return refusal
    why = "of the content-type" if "specversion" in attributes else "`ce_specversion` is missing"
    return BadEvent(f"the value is read as the whole event, because {why}: {refusal}")


def _data_refusal(error: Exception, raw: bytes, binary: bool, decoder: Decoder[Any]) -> BadEvent:
    refusal = _refusal(error, raw, "data", decoder)
    if binary and "specversion" in (lenient_json.read_object(raw) or ()):
        return BadEvent(f"{refusal}; {_TAKEN_AS_BINARY}")
    return refusal


def _refusal(error: Exception, value: bytes, where: str, decoder: Decoder[Any]) -> BadEvent:
    """Turn an error of msgspec into a reason for the event's feeder."""
    if isinstance(error, msgspec.ValidationError):
        return BadEvent("; ".join(_faults_of(value, error, decoder)).replace("`$", f"`{where}"))
    if isinstance(error, RecursionError):
        return BadEvent(_TOO_DEEP)
    return BadEvent(f"the value is not JSON: {lenient_json.fault(value, where) or error}")


def _faults_of(value: bytes, error: Exception, decoder: Decoder[Any]) -> list[str]:
    """Return all faults; where the rest of the value is not JSON, only the one that msgspec met."""
    with suppress(*_UNREADABLE):
        if found := find_faults(decoder.type, msgspec.json.decode(value), from_wire):
            return found
    return [in_words(str(error))]
