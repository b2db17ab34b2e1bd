"""Lenient reader of revocations: what is wrong beside their type, namespace and ids stops none."""

import base64
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from projector.events import redaction
from projector.events.header_attributes import all_attributes, is_binary
from projector.events.lenient_json import Fields, read_object
from projector.events.model import (
    EVENT_TYPES,
    ROOT_PATTERN,
    BadEvent,
    Data,
    KafkaRecord,
    MemberRemoved,
    Sequence,
    known_type,
)

# Around a text: what C's strings, editors and mappers of headers leave there.
_AROUND: Final = '\0\ufeff" \t\r\n'
# Fields that only a whole event has.
_WHOLE: Final = frozenset(("specversion", "type", "data", "data_base64"))
_ROOT: Final = re.compile(ROOT_PATTERN)


class Reading(NamedTuple):
    """The attributes and the data of a record, read in one of the two modes.

    `attributes` has every value of a repeated name.
    """

    attributes: list[tuple[str, Any]]
    data: Fields | None

    def texts(self, name: str) -> list[str]:
        """Return every text of the attribute; a number counts as its digits."""
        contents = (content for attribute, content in self.attributes if attribute == name)
        return [str(content).strip(_AROUND) for content in contents if type(content) in (str, int)]

    def types(self) -> Iterator[str]:
        """Yield the known types among the attribute's texts."""
        for text in self.texts("type"):
            try:
                yield known_type(text.lower())
            except BadEvent:
                continue


class Revocation(NamedTuple):
    """A revocation, as far as it could be read."""

    type: str
    root: str
    data: Data
    sequence: int | None


def readings(record: KafkaRecord) -> list[Reading]:
    """Return the record as read in its own mode, then as read in the other.

    A whole event is never read as `data`: its `id` is another.
    """
    value = read_object(record.value or b"")
    if value is None:
        return []
    structured = Reading(value.pairs, _data_of(value))
    if not record.headers or not _WHOLE.isdisjoint(value):
        return [structured]
    binary = Reading(list(all_attributes(record.headers)), value)
    return [binary, structured] if is_binary(record.headers) else [structured, binary]


def read_revocation(record: KafkaRecord) -> Revocation | None:
    """Return the revocation in the record; None if there is none, or its ids cannot be read.

    Of several types the one that revokes counts.
    """
    for reading in readings(record):
        root = _root(reading.texts("partitionkey"), record.key)
        for name in reading.types():
            if root and EVENT_TYPES[name].revokes and (data := _ids(reading.data, name)):
                return Revocation(name, root, data, _sequence(reading.texts("sequence")))
    return None


def _data_of(event: Fields) -> Fields | None:
    data = event.get("data")
    if isinstance(data, str):
        return read_object(data.encode(errors="replace"))
    if data is None and isinstance(encoded := event.get("data_base64"), str):
        try:
            return read_object(base64.b64decode(encoded))
        except ValueError:
            return None
    return data if isinstance(data, Fields) else None


def _root(texts: Iterable[str], key: bytes | None) -> str | None:
    """Return the namespace: the record's key if it is one of several, or the only one."""
    own = (key or b"").decode(errors="replace").strip(_AROUND)
    valid = [text for text in texts if _ROOT.fullmatch(text)]
    if own in valid or (not valid and _ROOT.fullmatch(own)):
        return own
    return valid[-1] if valid else None


def _ids(data: Fields | None, name: str) -> Data | None:
    kind = EVENT_TYPES[name].data
    # Other names may be halves of surrogate pairs, which msgspec cannot compare.
    known = {
        field: content for field, content in (data or {}).items() if field in kind.__struct_fields__
    }
    try:
        ids: Data = msgspec.convert(known, kind, strict=False)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return None
    # No membership has a token or half of a surrogate pair as `via`, and the facts would keep it.
    if isinstance(ids, MemberRemoved) and redaction.redact_text(ids.via) != ids.via:
        return None
    return ids


def _sequence(texts: list[str]) -> int | None:
    try:
        return int(msgspec.convert(texts[-1], Sequence)) if texts else None
    except msgspec.ValidationError:
        return None
