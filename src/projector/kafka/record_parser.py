"""Fault-tolerant parser of record batches in Kafka's format v2.

Slower than aiokafka, and only for batches that aiokafka cannot parse. A damaged record carries a
`Fault` and the fields that could be read.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple, Self

# Offset and length of a batch; the length counts the bytes after these two.
PREFIX: Final = struct.Struct(">qi")
MAGIC_AT: Final = 16
ATTRIBUTES_AT: Final = 21
# Attributes, last offset delta, first and last timestamp; the producer's id, epoch and sequence;
# number of records.
_HEADER: Final = struct.Struct(">hiqqqhii")
RECORDS_AT: Final = ATTRIBUTES_AT + _HEADER.size
CODEC: Final = 0x07
_LOG_APPEND_TIME: Final = 0x08
# A record of 2 MiB could have a million headers and block the worker for a second.
MAX_HEADERS: Final = 1000
# The limit of the topics, which counts packed bytes: few kilobytes may unpack to hundreds of MiB.
MAX_VALUE: Final = 2 * 1024 * 1024
# The part that remains of a larger value.
_KEPT: Final = 64 * 1024


class Fault(str):
    """The reason that a record cannot be read: one sentence, the name of a header put first.

    The type distinguishes it from every header in Kafka.
    """

    __slots__ = ()


class Damage(Fault):
    """The broker's copy of a record that it acknowledged does not match its checksum."""

    __slots__ = ()


class Marker(Fault):
    """The end of a transaction, which takes an offset of its partition and is not an event."""

    __slots__ = ()


class RawRecord(NamedTuple):
    """A record with the attributes that aiokafka's consumers read."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    checksum: None = None

    def with_fault(self, fault: Fault) -> Self:
        """Add the fault, unless the record already has one."""
        if self.headers and isinstance(self.headers[0][0], Fault):
            return self
        return self._replace(headers=[(fault, None), *self.headers])


class BatchHeader(NamedTuple):
    """The header of a batch: times in ms; `size` is the number of records."""

    base: int
    attributes: int
    last_delta: int
    first_timestamp: int
    max_timestamp: int
    size: int

    @classmethod
    def of(cls, batch: bytes) -> Self:
        """Read the header at the beginning of `batch`."""
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
        """Create a record of this batch."""
        has_brokers_time = bool(self.attributes & _LOG_APPEND_TIME)
        timestamp = (
            self.max_timestamp if has_brokers_time else self.first_timestamp + timestamp_delta
        )
        return RawRecord(offset, timestamp, int(has_brokers_time), key, value, headers or [])


def parse_batch(batch: bytes, first: int) -> Iterator[RawRecord]:
    """Parse the records of an uncompressed batch from the offset `first` on.

    Offsets rise and stay within the batch, also if the records contain others. If a record's end
    cannot be found, the rest of the batch is one record with a fault.
    """
    header = BatchHeader.of(batch)
    source, last = _Bytes(batch[RECORDS_AT:]), -1
    for number in range(header.size):
        # The records after this one need offsets too, up to the batch's last.
        latest = header.last_delta - (header.size - 1 - number)
        if last == header.last_delta:
            # Later offsets belong to the next batch; a broker refuses a batch with more records.
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


def _placed(header: BatchHeader, body: bytes, last: int, latest: int) -> tuple[int, RawRecord]:
    """Parse a record; return it after its offset delta, above `last`, at most `latest`."""
    try:
        delta, record = _parsed(header, body)
    except ValueError as error:
        delta, record = -1, header.record(0).with_fault(Fault(f"the record is unreadable: {error}"))
    if last < delta <= latest:
        return delta, record
    fault = Fault(f"the record has the position {delta} in its batch, which is impossible")
    return last + 1, record._replace(offset=header.base + last + 1).with_fault(fault)


def _parsed(header: BatchHeader, body: bytes) -> tuple[int, RawRecord]:
    # The first byte, the attributes, has no meaning in this version of the format.
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
    """Read the next headers; return them and what is wrong with their names, or ''."""
    headers, fault = [], ""
    for _ in range(count):
        name, content = source.content() or b"", source.content()
        readable = name.decode(errors="backslashreplace")
        if name != readable.encode():
            fault = fault or f"the name of the header {readable} is not UTF-8"
        headers.append((readable, content))
    return headers, fault


class _Bytes:
    """Reads the parts of a record, or the records of a batch, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        """Read a varint of at most 64 bits."""
        coded = 0
        for shift in range(0, 70, 7):
            if self._at == len(self._data):
                raise ValueError("it is cut off")
            byte = self._data[self._at]
            self._at += 1
            coded |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (coded >> 1) ^ -(coded & 1)
        raise ValueError("a number in it does not end")

    def content(self) -> bytes | None:
        """Read bytes with their size before them; None if the size is negative."""
        size = self.number()
        end = self._at + max(size, 0)
        if end > len(self._data):
            raise ValueError("it is cut off")
        part, self._at = self._data[self._at : end], end
        return None if size < 0 else part
