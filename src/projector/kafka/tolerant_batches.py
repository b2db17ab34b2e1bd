"""How aiokafka's consumers split what they fetch: such that no record hides those behind it.

A broker keeps what its clients write. aiokafka refuses some of that while it parses a batch, and
then no consumer gets past it, neither Faust's nor the range reader's. Here such a record, or a
batch that cannot be unpacked, comes as a record with a `Fault`, and reading goes on behind it.
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
    Damage,
    Fault,
    RecordHeaderBytes,
)


def install_tolerant_batches() -> None:
    """Let every consumer of this process read batches like this, Faust's too.

    Raises `UnsupportedAiokafkaError` where that would have no effect.
    """
    names = fetcher.Fetcher._proc_fetch_request.__code__.co_names
    if "MemoryRecords" not in names or fetcher.MemoryRecords not in (
        MemoryRecords,
        TolerantBatches,
    ):
        raise UnsupportedAiokafkaError(
            "aiokafka's fetcher no longer uses its global MemoryRecords, so one bad record could "
            "stop a partition for good; install the version that requirements.lock names"
        )
    fetcher.MemoryRecords = TolerantBatches


def split_fault(headers: redaction.Headers) -> tuple[redaction.Headers, Fault | None]:
    """A record's own headers, and why it cannot be read as it is, or None."""
    if headers and isinstance(headers[0][0], Fault):
        return headers[1:], headers[0][0]
    return headers, None


def _is_too_large(record: Any) -> bool:
    return len(record.headers) > MAX_HEADERS or len(record.value or b"") > MAX_VALUE


class TolerantBatches:
    """What a fetch brought of one partition; stands in for aiokafka's `MemoryRecords`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._start = 0
        self._strict = MemoryRecords(data)
        self.has_next = self._strict.has_next
        self.size_in_bytes = self._strict.size_in_bytes

    def next_batch(self) -> Any:
        """The next batch; aiokafka's own where the format is older than v2."""
        strict = self._strict.next_batch()
        start, length = self._start, PREFIX.unpack_from(self._data, self._start)[1]
        self._start = start + PREFIX.size + length
        if self._data[start + MAGIC_AT] < 2:
            return strict
        return Batch(strict, self._data[start : self._start])


class Batch:
    """One batch: aiokafka's own in everything but its records."""

    def __init__(self, strict: Any, data: bytes) -> None:
        self._strict = strict
        self._data = data
        self.is_control_batch = strict.is_control_batch
        self.next_offset = strict.next_offset

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strict, name)

    def validate_crc(self) -> bool:
        """True: aiokafka would raise, and Faust's worker end. Damage is a fault of its records."""
        return True

    def __iter__(self) -> Iterator[Any]:
        """The records as aiokafka reads them, until it stumbles or reads what cannot be."""
        offset: int = self._strict.base_offset
        if fault := self._fault():
            yield RecordHeaderBytes.of(self._data).record(offset).with_fault(fault)
            return
        try:
            for record in self._strict:
                if record.offset != offset or _is_too_large(record):
                    break
                yield record
                offset += 1
            else:
                return
        except Exception:  # noqa: S110  whatever it is, reading goes on
            pass
        yield from record_parser.parse_batch(self._data, offset)

    def _fault(self) -> Fault | None:
        """Why the batch as a whole cannot be read; None if it can, and then it is unpacked."""
        batch = f"the batch of offsets {self._strict.base_offset} to {self.next_offset - 1}"
        if not self._strict.validate_crc():
            return Damage(f"{batch} is damaged on the broker: its checksum is wrong")
        try:
            if self._strict.compression_type:
                self._unpack()
        except Exception as error:  # whatever a codec raises
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
