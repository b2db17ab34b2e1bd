"""Batches read through aiokafka's own fetcher classes: a bad record does not hide the others."""

import gzip
import struct
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from projector import errors
from projector.kafka import record_parser, tolerant_batches
from projector.kafka.record_parser import MAX_HEADERS
from projector.kafka.tolerant_batches import TolerantBatches, split_fault
from tests.wire import NOW, batch, record

VALUE = b'{"a":1}'


def placed(data: bytes, offset: int) -> bytes:
    """The batch as the broker keeps it, from this offset on."""
    return struct.pack(">q", offset) + data[8:]


def read(*parts: bytes, first: int = 0, reader: type[Any] = TolerantBatches) -> list[Any]:
    """What a consumer gets, and the offset that it would fetch next as the last element."""
    records = fetcher.PartitionRecords(
        TopicPartition("t", 0), reader(b"".join(parts)), None, first, None, None, True, 0
    )
    return [*records, records.next_fetch_offset]


def faults(records: list[Any]) -> list[str | None]:
    return [split_fault(found.headers)[1] for found in records]


def ordinary(number: int, codec: str = "none") -> bytes:
    records = [record(VALUE, headers=[(b"h", b"%d" % i)], offset_delta=i) for i in range(number)]
    packed = {"none": None, "gzip": gzip.compress(b"".join(records))}[codec]
    return batch(*records, codec=codec, packed=packed)


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_ordinary_batches_read_as_aiokafka_reads_them(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(record_parser, "parse_batch")  # too slow for every record
    parts = placed(ordinary(3, codec), 0), placed(ordinary(2, codec), 3), ordinary(2)[:40]
    assert read(*parts, first=1) == read(*parts, first=1, reader=MemoryRecords)
    assert read(*parts)[-1] == 5


@pytest.mark.parametrize("packed", [False, True])
def test_a_name_that_is_not_utf_8_is_a_fault_of_its_record_alone(packed: bool) -> None:
    records = [
        record(VALUE),
        record(VALUE, headers=[(b"a\xff", b"x"), (b"b", None)], offset_delta=1),
        record(VALUE, offset_delta=2),
    ]
    codec = ("gzip", gzip.compress(b"".join(records))) if packed else ("none", None)
    *found, following = read(batch(*records, codec=codec[0], packed=codec[1]))
    assert faults(found) == [None, "the name of the header a\\xff is not UTF-8", None]
    assert [(r.offset, r.timestamp, r.key, r.value) for r in found] == [
        (offset, NOW, b"3", VALUE) for offset in range(3)
    ]
    assert split_fault(found[1].headers)[0] == (("a\\xff", b"x"), ("b", None))
    assert following == 3


def test_offsets_that_cannot_be_are_faults_and_every_record_has_its_own() -> None:
    for deltas, bad in [((5, 1), 1), ((-1, 1), 1), ((0, 0), 1), ((1, 0), 2), ((0, 1), 0)]:
        *found, following = read(batch(*(record(VALUE, offset_delta=d) for d in deltas)))
        assert [r.offset for r in found] == [0, 1]
        assert len([fault for fault in faults(found) if fault]) == bad
        assert following == 2


def test_the_lenient_reading_begins_where_the_other_ended_and_knows_the_brokers_time() -> None:
    records = [record(VALUE, offset_delta=delta) for delta in range(3)]
    found = list(record_parser.parse_batch(placed(batch(*records), 5), first=6))
    assert [(r.offset, r.timestamp, r.timestamp_type) for r in found] == [(6, NOW, 0), (7, NOW, 0)]
    (only,) = record_parser.parse_batch(batch(record(VALUE), broker_time=NOW + 5), first=0)
    assert (only.timestamp, only.timestamp_type) == (NOW + 5, 1)


def test_the_attributes_of_a_record_mean_nothing() -> None:
    *found, _ = read(batch(record(VALUE, attributes=0xFF)))
    assert (found[0].key, found[0].value, faults(found)) == (b"3", VALUE, [None])


def test_of_too_many_headers_the_first_are_kept() -> None:
    headers: list[tuple[bytes, bytes | None]] = [(b"h", None)] * MAX_HEADERS
    *found, _ = read(
        batch(record(VALUE, headers=headers)),
        placed(batch(record(VALUE, headers=[*headers, (b"x", None)])), 1),
    )
    assert faults(found) == [None, "the record has 1001 headers; at most 1000 fit"]
    assert [len(r.headers) for r in found] == [MAX_HEADERS, MAX_HEADERS + 1]


@given(st.binary(max_size=60), st.integers(0, 5), st.booleans())
def test_nothing_in_a_batch_raises_or_leaves_it(noise: bytes, count: int, compressed: bool) -> None:
    """Brokers refuse most such batches; one that a broker accepts must not stop a partition."""
    codec, packed = ("gzip", gzip.compress(noise)) if compressed else ("none", noise)
    last = max(count - 1, 0)
    *found, following = read(batch(codec=codec, packed=packed, count=count, last_delta=last))
    offsets = [r.offset for r in found]
    assert offsets == sorted(set(offsets))
    assert all(0 <= offset <= last for offset in offsets)
    assert following == last + 1


def test_another_aiokafka_is_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    tolerant_batches.install_tolerant_batches()
    assert fetcher.MemoryRecords is TolerantBatches
    monkeypatch.setattr(fetcher, "MemoryRecords", object)
    with pytest.raises(errors.UnsupportedAiokafkaError, match="aiokafka"):
        tolerant_batches.install_tolerant_batches()
    monkeypatch.setattr(fetcher, "MemoryRecords", MemoryRecords)
    monkeypatch.setattr(fetcher.Fetcher, "_proc_fetch_request", fetcher.Fetcher.close)
    with pytest.raises(errors.UnsupportedAiokafkaError, match=r"requirements\.lock"):
        tolerant_batches.install_tolerant_batches()
