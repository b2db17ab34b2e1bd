"""Record batches that let aiokafka step over records it cannot parse, and show transactions' ends.

Brokers store records that aiokafka refuses while it parses their batch. No consumer gets past such
a batch, neither Faust's nor the range reader's. Here such a record, or a batch that cannot be
unpacked, is returned as a record with a `Fault`, and reading continues after it.

The end of a transaction takes an offset. aiokafka skips it, so an owner could not distinguish it
from an event that is late. Here it is a record with a `Marker`.
"""

import struct
from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.memory_records import MemoryRecords

from projector.errors import UnsupportedAiokafkaError
from projector.events import redaction
from projector.kafka import record_parser
from projector.kafka.decompression import unpack
from projector.kafka.record_parser import (
    ATTRIBUTES_AT,
    CODEC,
    MAGIC_AT,
    MAX_HEADERS,
    MAX_VALUE,
    PREFIX,
    RECORDS_AT,
    BatchHeader,
    Damage,
    Fault,
    Marker,
)


def install_tolerant_batches() -> None:
    """Make every consumer of this process, Faust's too, parse batches tolerantly.

    Raises `UnsupportedAiokafkaError` if that would have no effect.
    """
    names = fetcher.Fetcher._proc_fetch_request.__code__.co_names
    if "MemoryRecords" not in names or fetcher.MemoryRecords not in (
        MemoryRecords,
        TolerantBatches,
    ):
        raise UnsupportedAiokafkaError(
            "aiokafka's fetcher no longer uses its global MemoryRecords, so one bad record could "
            "stop a partition; install the version that requirements.lock names"
        )
    fetcher.MemoryRecords = TolerantBatches


def split_fault(headers: redaction.Headers) -> tuple[redaction.Headers, Fault | None]:
    """Separate a record's own headers from its fault, if it has one."""
    if headers and isinstance(headers[0][0], Fault):
        return headers[1:], headers[0][0]
    return headers, None


def _is_too_large(record: Any) -> bool:
    return len(record.headers) > MAX_HEADERS or len(record.value or b"") > MAX_VALUE


class TolerantBatches:
    """The batches of one partition in a fetch; replaces aiokafka's `MemoryRecords`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._start = 0
        self._strict = MemoryRecords(data)
        # aiokafka's own control batch, which follows the one with its markers.
        self._control: Any = None
        self.size_in_bytes = self._strict.size_in_bytes

    def has_next(self) -> bool:
        """Whether there is another complete batch."""
        return self._control is not None or bool(self._strict.has_next())

    def next_batch(self) -> Any:
        """Return the next batch; aiokafka's own if its format is older than v2.

        A control batch is preceded by an ordinary one, at the same offsets, with its markers.
        """
        if self._control is not None:
            control, self._control = self._control, None
            return control
        strict = self._strict.next_batch()
        start, length = self._start, PREFIX.unpack_from(self._data, self._start)[1]
        self._start = start + PREFIX.size + length
        if self._data[start + MAGIC_AT] < 2:
            return strict
        batch = Batch(strict, self._data[start : self._start])
        if batch.is_control_batch:
            self._control = strict
            return Markers(batch)
        return batch


class Batch:
    """A batch with tolerant records; aiokafka's own in all else."""

    def __init__(self, strict: Any, data: bytes) -> None:
        self._strict = strict
        self._data = data
        self._is_damaged = not strict.validate_crc()
        self.next_offset = strict.next_offset
        # Or damage would be skipped with what an aborted transaction wrote.
        self.is_control_batch = strict.is_control_batch and not self._is_damaged
        self.producer_id = None if self._is_damaged else strict.producer_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strict, name)

    def validate_crc(self) -> bool:
        """Return True, or aiokafka would end Faust's worker; damage is a fault of a record."""
        return True

    def __iter__(self) -> Iterator[Any]:
        """Yield aiokafka's records up to one that is impossible or fails; parse the others here."""
        offset: int = self._strict.base_offset
        if fault := self._fault():
            yield BatchHeader.of(self._data).record(offset).with_fault(fault)
            return
        try:
            for record in self._strict:
                if record.offset != offset or _is_too_large(record):
                    break
                yield record
                offset += 1
            else:
                return
        except Exception:  # noqa: S110  any error: the parser below reports it
            pass
        yield from record_parser.parse_batch(self._data, offset)

    def markers(self) -> Iterator[Any]:
        """Yield the records of a control batch, each with a `Marker`."""
        for record in record_parser.parse_batch(self._data, self._strict.base_offset):
            yield record.with_fault(Marker("the end of a transaction"))

    def _fault(self) -> Fault | None:
        """Unpack the batch; return why it cannot be read as a whole, or None."""
        batch = f"the batch of offsets {self._strict.base_offset} to {self.next_offset - 1}"
        if self._is_damaged:
            return Damage(f"{batch} is damaged on the broker: its checksum is wrong")
        try:
            if self._strict.compression_type:
                self._unpack()
        except Exception as error:  # codecs have no common error
            return Fault(f"{batch} cannot be unpacked: {error}")
        return None

    def _unpack(self) -> None:
        batch = self._strict
        data = bytearray(self._data[:RECORDS_AT])
        data += unpack(batch.compression_type, self._data[RECORDS_AT:])
        struct.pack_into(PREFIX.format, data, 0, batch.base_offset, len(data) - PREFIX.size)
        struct.pack_into(">h", data, ATTRIBUTES_AT, batch.attributes & ~CODEC)
        self._data = bytes(data)
        self._strict = MemoryRecords(self._data).next_batch()


class Markers:
    """The markers of a control batch, as a batch of records that belongs to no transaction."""

    is_control_batch = False
    producer_id = None

    def __init__(self, control: Batch) -> None:
        self._control = control
        self.next_offset = control.next_offset

    def validate_crc(self) -> bool:
        """Return True: a damaged batch does not count as a control batch."""
        return True

    def __iter__(self) -> Iterator[Any]:
        return self._control.markers()
