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
from projector.kafka.record_parser import MAX_HEADERS, Damage, Marker
from projector.kafka.tolerant_batches import TolerantBatches, split_fault
from tests.wire import NOW, batch, record, transaction_end

VALUE = b'{"a":1}'


def placed(data: bytes, offset: int) -> bytes:
    """The batch as the broker keeps it, from this offset on."""
    return struct.pack(">q", offset) + data[8:]


def read(
    *parts: bytes,
    first: int = 0,
    reader: type[Any] = TolerantBatches,
    aborted: list[tuple[int, int]] | None = None,
) -> list[Any]:
    """What a consumer gets, and the offset that it would fetch next as the last element.

    It reads what is committed; `aborted` are transactions by producer and first offset.
    """
    records = fetcher.PartitionRecords(
        TopicPartition("t", 0), reader(b"".join(parts)), aborted, first, None, None, True, 1
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


def is_marker(found: Any) -> bool:
    return isinstance(split_fault(found.headers)[1], Marker)


def test_the_end_of_a_transaction_is_a_marker_at_its_own_offset() -> None:
    """Or an owner would wait for an event there, and unknown tokens with it."""
    written = batch(record(VALUE), producer=7)
    *found, following = read(
        written, placed(transaction_end(7, commit=True), 1), placed(ordinary(1), 2)
    )
    assert [r.offset for r in found] == [0, 1, 2]
    assert [is_marker(r) for r in found] == [False, True, False]
    assert (found[1].key, found[1].timestamp) == (struct.pack(">hh", 0, 1), NOW)
    assert following == 3


def test_a_fetch_may_begin_or_end_at_a_marker() -> None:
    end = placed(transaction_end(7, commit=True), 4)
    *found, following = read(end, first=4)
    assert ([r.offset for r in found], following) == ([4], 5)


def test_what_was_aborted_is_skipped_and_what_the_same_producer_commits_later_is_not() -> None:
    aborted, committed = batch(record(b"aborted"), producer=7), batch(record(VALUE), producer=7)
    *found, following = read(
        aborted,
        placed(transaction_end(7, commit=False), 1),
        placed(committed, 2),
        placed(transaction_end(7, commit=True), 3),
        aborted=[(7, 0)],
    )
    assert [(r.offset, is_marker(r)) for r in found] == [(1, True), (2, False), (3, True)]
    assert following == 4


@pytest.mark.parametrize("part", ["record", "marker"])
def test_damage_is_not_skipped_with_an_aborted_transaction(part: str) -> None:
    """Its header may be what is damaged."""
    parts = {
        "record": batch(record(VALUE), producer=7),
        "marker": placed(transaction_end(7, commit=False), 1),
    }
    parts[part] = parts[part][:-2] + b"\xff" + parts[part][-1:]
    *found, following = read(*parts.values(), aborted=[(7, 0)])
    assert [r.offset for r in found if isinstance(split_fault(r.headers)[1], Damage)] == [
        list(parts).index(part)
    ]
    assert following == 2


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
