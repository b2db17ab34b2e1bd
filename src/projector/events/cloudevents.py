"""Decoder from Kafka records to checked events: CloudEvents 1.0, structured or binary."""

import re
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from projector.events import ci_access, redaction, replay_header
from projector.events.model import (
    APPLIED,
    EVENT_TYPES,
    MAX_EVENT_BYTES,
    MAX_NESTING,
    PATTERNS,
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
    Text,
)

E = TypeVar("E", bound=Struct)


class Envelope(Struct, frozen=True):
    """The CloudEvents attributes of an event."""

    specversion: Literal["1.0"]
    id: Text
    source: Text
    type: Text
    partitionkey: RootNamespace
    time: Instant | None = None
    sequence: Sequence | None = None
    data: msgspec.Raw | UnsetType = UNSET


class _Named(Struct, frozen=True):
    """The fields that identify an event's entity."""

    type: Text
    data: msgspec.Raw


class _Numbered(Struct, frozen=True):
    id: Id


class _BareRevocation(Struct, frozen=True):
    """The fields without which a revocation cannot be applied; errors in others do not stop it."""

    type: Text
    partitionkey: RootNamespace
    data: msgspec.Raw


class _Revocation(_BareRevocation, frozen=True):
    """A revocation that has a sequence, valid or not."""

    sequence: Any = None


_REVOCATIONS: Final[tuple[type[_BareRevocation], ...]] = (_Revocation, _BareRevocation)


def _from_wire(kind: type, value: object) -> object:
    if kind is Instant:
        return Instant.parse(value)
    raise NotImplementedError(kind)


_TOO_DEEP: Final = f"the event is nested deeper than {MAX_NESTING} levels"
_MISSING: Final = re.compile(r"Object missing required field `(\w+)`(?: - at `\$([^`]*)`)?")
_DATA: Final = {
    name: msgspec.json.Decoder(kind.data, dec_hook=_from_wire) for name, kind in EVENT_TYPES.items()
}
_SHAPES: Final[tuple[type[Struct], ...]] = (Envelope, _Named, *_REVOCATIONS)
_ENVELOPE: Final[dict[type[Struct], msgspec.json.Decoder[Any]]] = {
    shape: msgspec.json.Decoder(shape, dec_hook=_from_wire) for shape in _SHAPES
}
# The errors of reading JSON.
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# Data with a configuration, of which parts may not count.
_CONFIGURATIONS: Final = (AgentConfigured, InstanceAgentSet)


def decode_event(record: KafkaRecord) -> Event:
    """Decode and check the event that `record` carries.

    A revocation (`*.removed`, `job.finished`) needs readable ids alone; any other error in it
    becomes its `warning`. Raises `BadEvent` for every other invalid record.
    """
    try:
        return _decode_strictly(record)
    except BadEvent as error:
        if revocation := _decode_revocation(record, str(error)):
            return revocation
        raise


def subject(record: KafkaRecord) -> str | None:
    """Name the entity that the record is about; None if its type or ids cannot be read."""
    try:
        envelope = _envelope(record, _Named)
        entity, _, change = known_type(envelope.type).rpartition(".")
        data = bytes(envelope.data)
        if entity == "member":
            return _membership(msgspec.json.decode(data, type=MemberRemoved))
        number = msgspec.json.decode(data, type=_Numbered).id
    except (ValueError, RecursionError):
        return None
    if change == "configured":
        return f"the configuration of agent {number}"
    return f"{entity} {number}"


def _membership(member: MemberRemoved) -> str:
    scope = f"project {member.project_id}" if member.project_id else f"group {member.group_id}"
    return f"the membership of user {member.user_id} in {scope} via {member.via}"


def _decode_strictly(record: KafkaRecord) -> Event:
    if record.fault:
        raise BadEvent(record.fault)
    if record.value is None:
        raise BadEvent("the record has no value")
    if len(record.value) > MAX_EVENT_BYTES:
        raise BadEvent(f"the event has {len(record.value)} bytes; at most {MAX_EVENT_BYTES} fit")
    if location := redaction.secret_in(record.value, record.headers):
        raise BadEvent(f"{location} holds a job token; send `token_sha256`, never the token itself")
    try:
        envelope = _envelope(record, Envelope)
    except _UNREADABLE as error:
        raise _refusal(error, "event") from None
    name = known_type(envelope.type)
    if envelope.data is UNSET:
        raise BadEvent("the event has no `data`; it must be a JSON object")
    raw = bytes(envelope.data)
    _refuse_deep(raw)
    try:
        data = _DATA[name].decode(raw)
    except _UNREADABLE as error:
        raise _refusal(error, "data") from None
    return Event(
        name,
        envelope.partitionkey,
        data,
        envelope.time,
        None if envelope.sequence is None else int(envelope.sequence),
        _warning(data) if type(data) in _CONFIGURATIONS else None,
        replay_header.decode_position(record) if record.headers else None,
    )


def _warning(data: Data) -> str | None:
    """Return why parts of the data do not count, or None if all of it does."""
    reasons: list[str] = []
    match data:
        case AgentConfigured(
            config=AgentFile(ci_access=CiAccess(projects=projects, groups=groups))
        ):
            for name, entries in ("projects", projects), ("groups", groups):
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


def _decode_revocation(record: KafkaRecord, reason: str) -> Event | None:
    for shape in _REVOCATIONS:
        try:
            envelope = _envelope(record, shape)
            name = known_type(envelope.type)
            data = _DATA[name].decode(bytes(envelope.data))
        except (ValueError, RecursionError):
            continue
        if EVENT_TYPES[name].revokes:
            sequence = _sequence(getattr(envelope, "sequence", None))
            warning = APPLIED + reason
            replays = _replays(record)
            return Event(name, envelope.partitionkey, data, None, sequence, warning, replays)
    return None


def _sequence(text: object) -> int | None:
    try:
        return int(msgspec.convert(text, Sequence))
    except msgspec.ValidationError:
        return None


def _replays(record: KafkaRecord) -> ReplayPosition | None:
    try:
        return replay_header.decode_position(record)
    except BadEvent:
        return None


def _envelope(record: KafkaRecord, shape: type[E]) -> E:
    """Read the attributes from the headers in binary mode, else from the value."""
    if _is_binary(record.headers):
        return msgspec.convert(_attributes(record, shape), shape, dec_hook=_from_wire)
    envelope: E = _ENVELOPE[shape].decode(record.value or b"")
    return envelope


def _is_binary(headers: redaction.Headers) -> bool:
    contents = dict(headers)
    if "ce_specversion" not in contents:
        return False
    return not (contents.get("content-type") or b"").startswith(b"application/cloudevents")


def _attributes(record: KafkaRecord, shape: type[Struct]) -> dict[str, Any]:
    headers = {name: content or b"" for name, content in record.headers}
    attributes: dict[str, Any] = {
        name.removeprefix("ce_"): _attribute(name, content)
        for name, content in headers.items()
        if name.startswith("ce_") and name.removeprefix("ce_") in shape.__struct_fields__
    }
    attributes["data"] = msgspec.Raw(record.value or b"null")
    return attributes


def _attribute(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BadEvent(f"the header {name} is not UTF-8") from None


def _refuse_deep(raw: bytes) -> None:
    if raw.count(b"{") + raw.count(b"[") <= MAX_NESTING:
        return
    try:
        tree = msgspec.json.decode(raw)
    except _UNREADABLE as error:
        raise _refusal(error, "event") from None
    if redaction.nesting(tree) > MAX_NESTING:
        raise BadEvent(_TOO_DEEP)


def _refusal(error: Exception, where: str) -> BadEvent:
    """Turn an error of msgspec into a reason for the event's sender."""
    if isinstance(error, msgspec.ValidationError):
        return BadEvent(_in_words(str(error)).replace("`$", f"`{where}"))
    if isinstance(error, RecursionError):
        return BadEvent(_TOO_DEEP)
    return BadEvent(f"the value is not JSON: {error}")


def _in_words(message: str) -> str:
    for pattern, words in PATTERNS.items():
        message = message.replace(f"matching regex {pattern!r}", words)
    return _MISSING.sub(lambda match: f"`${match[2] or ''}.{match[1]}` is missing", message)


def known_type(name: str) -> str:
    """Return the type without a reverse-DNS prefix: `job.started` for `com.example.job.started`.

    Raises `BadEvent` for a type that is not in `EVENT_TYPES`.
    """
    if name in EVENT_TYPES:
        return name
    short = ".".join(name.split(".")[-2:])
    if short not in EVENT_TYPES:
        given = redaction.redact_text(name)[:100]
        raise BadEvent(f"unknown type {given!r}; known are {', '.join(EVENT_TYPES)}")
    return short
