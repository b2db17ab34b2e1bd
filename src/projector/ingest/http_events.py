"""CloudEvents' HTTP binding: from a request's headers and body to records for Kafka. No I/O.

The bytes of an event go to Kafka as they came: structured ones as they are, binary ones with their
attributes as headers. So workers read what was checked here.
"""

import re
from collections.abc import Iterable
from email.message import Message
from enum import StrEnum
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from projector.events import lenient_json
from projector.events.model import MAX_EVENT_BYTES, KafkaRecord, Topic
from projector.events.redaction import Headers
from projector.feed.producer import CONTENT_TYPE
from projector.ingest.refusals import RefusedRequestError

MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
MAX_BATCH_EVENTS: Final = 1000
# Workers refuse a record with more than 1000 headers.
MAX_ATTRIBUTES: Final = 100
# A longer header content-type is parsed each time: clients would fill memory with 64 KiB each.
MAX_KEPT_BYTES: Final = 200
STRUCTURED_TYPE: Final = "application/cloudevents+json"
BATCH_TYPE: Final = "application/cloudevents-batch+json"
JSON_TYPE: Final = "application/json"
ACCEPTED: Final = (STRUCTURED_TYPE, BATCH_TYPE, JSON_TYPE)
_JSON: Final = re.compile(r"(application|text)/([\w.-]+\+)?json")
_ATTRIBUTE: Final = re.compile(rb"ce-([a-z0-9]+)")
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_EVENTS: Final = msgspec.json.Decoder(list[msgspec.Raw])

# As ASGI has them: lower-case names, each perhaps several times.
HttpHeaders = Iterable[tuple[bytes, bytes]]


class Mode(StrEnum):
    """The three modes of the binding."""

    STRUCTURED = "structured"
    BINARY = "binary"
    BATCH = "batch"

    @property
    def max_bytes(self) -> int:
        """The largest body."""
        return MAX_BATCH_BYTES if self is Mode.BATCH else MAX_EVENT_BYTES


def mode_of(headers: HttpHeaders) -> Mode:
    """Return the mode that the headers announce; raises `RefusedRequestError`."""
    headers = list(headers)
    if any(v.strip().lower() not in (b"", b"identity") for v in _all(headers, b"content-encoding")):
        raise RefusedRequestError(
            415, "the body is compressed; send it as it is", {"accept-encoding": "identity"}
        )
    media_type, charset = _media_type(tuple(_all(headers, b"content-type")))
    mode = _mode(media_type, is_binary=bool(_all(headers, b"ce-specversion")))
    if charset and charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise _unsupported("the charset must be utf-8")
    return mode


def _mode(media_type: str, *, is_binary: bool) -> Mode:
    if media_type == STRUCTURED_TYPE:
        return Mode.STRUCTURED
    if media_type == BATCH_TYPE:
        return Mode.BATCH
    if media_type.startswith("application/cloudevents"):
        raise _unsupported(f"events are read as JSON: send {STRUCTURED_TYPE} or {BATCH_TYPE}")
    if not is_binary:
        raise _unsupported(
            f"send one event with the Content-Type {STRUCTURED_TYPE}, or several with "
            f"{BATCH_TYPE}, or `data` with {JSON_TYPE} and the attributes in headers "
            "(`ce-specversion: 1.0`, `ce-type`, ...)"
        )
    if media_type and not _JSON.fullmatch(media_type):
        raise _unsupported(f"the `data` of an event is JSON: send the Content-Type {JSON_TYPE}")
    return Mode.BINARY


def _unsupported(message: str) -> RefusedRequestError:
    return RefusedRequestError(415, message, {"accept": ", ".join(ACCEPTED)})


def _media_type(values: tuple[bytes, ...]) -> tuple[str, str]:
    """Return the media type and its charset, both empty where there are none."""
    is_short = sum(map(len, values)) <= MAX_KEPT_BYTES
    return _kept_media_type(values) if is_short else _parse_media_type(values)


def _parse_media_type(values: tuple[bytes, ...]) -> tuple[str, str]:
    if not values or values == (b"",):
        return "", ""
    if len(values) > 1:
        raise RefusedRequestError(400, "the header content-type is there more than once")
    header = Message()
    header["content-type"] = values[0].decode("latin-1")
    if header.get_content_type() != values[0].decode("latin-1").partition(";")[0].strip().lower():
        raise _unsupported("the header content-type is not a media type")
    return header.get_content_type(), str(header.get_content_charset() or "")


# A feeder's requests have the same one.
_kept_media_type = lru_cache(maxsize=64)(_parse_media_type)


def _all(headers: HttpHeaders, name: bytes) -> list[bytes]:
    return [value for given, value in headers if given == name]


def records_of(mode: Mode, headers: HttpHeaders, body: bytes, now_ms: int) -> list[KafkaRecord]:
    """Return the events of a request as records of this time; raises `RefusedRequestError`."""
    if mode is Mode.BATCH:
        return [_record(bytes(raw), now_ms, (CONTENT_TYPE,)) for raw in _split(body)]
    if mode is Mode.STRUCTURED and body.lstrip().startswith(b"["):
        raise RefusedRequestError(
            400, f"the body is an array, not one event; send it as {BATCH_TYPE}", errors=[]
        )
    kafka_headers = (CONTENT_TYPE,) if mode is Mode.STRUCTURED else _attributes(headers)
    return [_record(body, now_ms, kafka_headers)]


def _record(value: bytes, now_ms: int, headers: Headers) -> KafkaRecord:
    return KafkaRecord(Topic.MEMBERSHIP, 0, 0, now_ms, None, value, headers)


def _split(body: bytes) -> list[msgspec.Raw]:
    try:
        events = _EVENTS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        fault = lenient_json.fault(body, "body") or "it is nested too deep, or not a list"
        if isinstance(error, msgspec.ValidationError):
            fault = "it is not a list"
        raise RefusedRequestError(
            400, f"the body is not a JSON array of events: {fault}", errors=[]
        ) from None
    if len(events) > MAX_BATCH_EVENTS:
        raise RefusedRequestError(
            413, f"the batch has {len(events)} events; at most {MAX_BATCH_EVENTS} fit"
        )
    for index, event in enumerate(events):
        # Decoding a revocation bounds no size, and Kafka would refuse it among others' events.
        if len(event) > MAX_EVENT_BYTES:
            raise RefusedRequestError(
                413, f"event {index} has {len(event)} bytes; at most {MAX_EVENT_BYTES} fit"
            )
    return events


def _attributes(headers: HttpHeaders) -> Headers:
    """Return the attributes as Kafka's binary mode has them."""
    found = []
    for name, value in headers:
        if match := _ATTRIBUTE.fullmatch(name):
            found.append((f"ce_{match[1].decode()}", unescape(value)))
    if len(found) > MAX_ATTRIBUTES:
        raise RefusedRequestError(
            400, f"the event has {len(found)} attributes; at most {MAX_ATTRIBUTES} fit", errors=[]
        )
    return (("content-type", JSON_TYPE.encode()), *found)


def unescape(value: bytes) -> bytes:
    """Undo a header's quotes, then one round of percent-encoding."""
    value = value.strip(b" \t")
    if len(value) > 1 and value[:1] == value[-1:] == b'"':
        value = _ESCAPED.sub(rb"\1", value[1:-1])
    return unquote_to_bytes(value)
