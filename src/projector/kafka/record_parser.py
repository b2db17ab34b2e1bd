"""The records of a batch of Kafka's format v2, read whatever they hold.

Slower than aiokafka, and only for batches on which that gives up. What is wrong with a record is
its `Fault`; what can be had of it is there all the same.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple, Self

# Offset and length of a batch; behind these two it has as many bytes as the length says.
PREFIX: Final = struct.Struct(">qi")
MAGIC_AT: Final = 16
ATTRIBUTES_AT: Final = 21
# Attributes, last offset delta, first and last timestamp; the producer's id, epoch and sequence;
# number of records.
_HEADER: Final = struct.Struct(">hiqqqhii")
RECORDS_AT: Final = ATTRIBUTES_AT + _HEADER.size
CODEC: Final = 0x07
_LOG_APPEND_TIME: Final = 0x08
# A record of 2 MiB could have a million, and hold up everything for a second.
MAX_HEADERS: Final = 1000
# What a topic takes unpacked; packed, hundreds of megabytes can hide in a few kilobytes.
MAX_VALUE: Final = 2 * 1024 * 1024
# What is kept of a value that is too large.
_KEPT: Final = 64 * 1024


class Fault(str):
    """Why a record cannot be read as it is: one sentence, in place of its first header's name.

    No record from Kafka has such a header, since only this process has the type.
    """

    __slots__ = ()


class Damage(Fault):
    """The broker no longer has what it acknowledged: its copy does not match its checksum."""

    __slots__ = ()


class RawRecord(NamedTuple):
    """A record as aiokafka's consumers take it from a batch."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    checksum: None = None

    def with_fault(self, fault: Fault) -> Self:
        """The same, with this fault unless it already has one."""
        if self.headers and isinstance(self.headers[0][0], Fault):
            return self
        return self._replace(headers=[(fault, None), *self.headers])


class RecordHeaderBytes(NamedTuple):
    """What a batch says about its records: times in ms; `size` is their number."""

    base: int
    attributes: int
    last_delta: int
    first_timestamp: int
    max_timestamp: int
    size: int

    @classmethod
    def of(cls, batch: bytes) -> Self:
        """The header at the beginning of `batch`."""
        base, _ = PREFIX.unpack_from(batch)
        attributes, last_delta, first_timestamp, max_timestamp, *_, size = _HEADER.unpack_from(
            batch, ATTRIBUTES_AT
        )
        return cls(base, attributes, last_delta, first_timestamp, max_timestamp, size)

    def record(
        self,
        offset: int,
        timestamp_delta: int = 0,
        key: bytes | None = None,
        value: bytes | None = None,
        headers: list[tuple[str, bytes | None]] | None = None,
    ) -> RawRecord:
        """A record of this batch."""
        broker_says = bool(self.attributes & _LOG_APPEND_TIME)
        timestamp = self.max_timestamp if broker_says else self.first_timestamp + timestamp_delta
        return RawRecord(offset, timestamp, int(broker_says), key, value, headers or [])


def parse_batch(batch: bytes, first: int) -> Iterator[RawRecord]:
    """The records of an uncompressed batch from the offset `first` on.

    Offsets rise and stay within the batch, whatever the records say. Where no record's end can be
    found, the rest of the batch is one record with a fault.
    """
    header = RecordHeaderBytes.of(batch)
    source, last = _Bytes(batch[RECORDS_AT:]), -1
    for number in range(header.size):
        # Each record behind this one needs an offset too, up to the batch's last.
        latest = header.last_delta - (header.size - 1 - number)
        if last == header.last_delta:
            # The offsets behind are another batch's; a broker takes no batch that says otherwise.
            return
        try:
            body = source.content() or b""
        except ValueError as error:
            rest = f"the rest of its batch, to offset {header.base + header.last_delta},"
            fault = Fault(f"{rest} is unreadable: {error}")
            yield header.record(header.base + last + 1).with_fault(fault)
            return
        last, record = _placed(header, body, last, latest)
        if record.offset >= first:
            yield record


def _placed(
    header: RecordHeaderBytes, body: bytes, last: int, latest: int
) -> tuple[int, RawRecord]:
    """A record's offset delta, which is above `last` and at most `latest`, and the record."""
    try:
        delta, record = _parsed(header, body)
    except ValueError as error:
        delta, record = -1, header.record(0).with_fault(Fault(f"the record is unreadable: {error}"))
    if last < delta <= latest:
        return delta, record
    fault = Fault(f"the record is at {delta} in its batch by its own account, which cannot be")
    return last + 1, record._replace(offset=header.base + last + 1).with_fault(fault)


def _parsed(header: RecordHeaderBytes, body: bytes) -> tuple[int, RawRecord]:
    # The first byte, a record's attributes, means nothing yet.
    source = _Bytes(body[1:])
    timestamp_delta, delta = source.number(), source.number()
    key, value, count = source.content(), source.content(), source.number()
    headers, fault = _headers(source, min(count, MAX_HEADERS))
    if count > MAX_HEADERS:
        fault = f"the record has {count} headers; at most {MAX_HEADERS} fit"
    if value is not None and len(value) > MAX_VALUE:
        fault = fault or f"the value has {len(value)} bytes; at most {MAX_VALUE} fit"
        value = value[:_KEPT]
    record = header.record(header.base + delta, timestamp_delta, key, value, headers)
    return delta, record.with_fault(Fault(fault)) if fault else record


def _headers(source: "_Bytes", count: int) -> tuple[list[tuple[str, bytes | None]], str]:
    """The next headers, and what is wrong with their names, if anything is."""
    headers, fault = [], ""
    for _ in range(count):
        name, content = source.content() or b"", source.content()
        readable = name.decode(errors="backslashreplace")
        if name != readable.encode():
            fault = fault or f"the name of the header {readable} is not UTF-8"
        headers.append((readable, content))
    return headers, fault


class _Bytes:
    """Reads the parts of a record, or the records of a batch, one behind the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        """A varint of at most 64 bits."""
        coded = 0
        for shift in range(0, 70, 7):
            if self._at == len(self._data):
                raise ValueError("it is cut off")
            byte = self._data[self._at]
            self._at += 1
            coded |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (coded >> 1) ^ -(coded & 1)
        raise ValueError("a number in it has no end")

    def content(self) -> bytes | None:
        """Bytes with their size before them; None where that is negative."""
        size = self.number()
        end = self._at + max(size, 0)
        if end > len(self._data):
            raise ValueError("it is cut off")
        part, self._at = self._data[self._at : end], end
        return None if size < 0 else part
