"""Packed batches, unpacked up to a bound."""

import gzip
import struct
from typing import Any

import cramjam
import pytest

from projector.kafka import decompression, record_parser
from tests.unit.kafka.test_tolerant_batches import VALUE, faults, placed, read
from tests.wire import batch, record


def lz4(data: bytes) -> bytes:
    return bytes(cramjam.lz4.compress(data))


def xerial(data: bytes) -> bytes:
    blocks = [data[i : i + 20_000] for i in range(0, len(data), 20_000)]
    packed = [bytes(cramjam.snappy.compress_raw(block)) for block in blocks]
    return b"\x82SNAPPY\x00" + bytes(8) + b"".join(struct.pack(">i", len(p)) + p for p in packed)


CODECS: dict[str, tuple[str, Any]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip of two members": ("gzip", lambda d: gzip.compress(d[:9]) + gzip.compress(d[9:])),
    "snappy": ("snappy", cramjam.snappy.compress_raw),
    "snappy of Java": ("snappy", xerial),
    "lz4": ("lz4", lz4),
    "zstd": ("zstd", cramjam.zstd.compress),
}


@pytest.mark.parametrize(("codec", "compress"), CODECS.values(), ids=CODECS)
def test_what_is_packed_is_unpacked_up_to_a_bound(
    codec: str, compress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = bytes(range(256)) * 200
    packed = bytes(compress(record(value)))
    whole = batch(codec=codec, packed=packed, count=1)
    assert read(whole)[0].value == value
    monkeypatch.setattr(decompression, "MAX_UNPACKED", len(record(value)) - 1)
    found, following = read(placed(batch(codec=codec, packed=packed, count=3), 7), first=7)
    assert (found.offset, found.value, following) == (7, None, 10)
    assert "the batch of offsets 7 to 9 cannot be unpacked: " in str(faults([found])[0])


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_what_cannot_be_unpacked_is_one_fault(codec: str) -> None:
    found, following = read(batch(codec=codec, packed=b"\x1f\x8bnonsense", count=2))
    assert (found.offset, following) == (0, 2)
    assert faults([found])[0]


def test_a_value_that_was_packed_small_is_kept_small() -> None:
    """Five hundred of them in one fetch would take all memory."""
    big = bytes(record_parser.MAX_VALUE + 1)
    packed = gzip.compress(record(big) + record(VALUE, offset_delta=1))
    found, behind, _ = read(batch(codec="gzip", packed=packed, count=2))
    assert len(found.value) < record_parser.MAX_VALUE
    assert "at most 2097152 fit" in str(faults([found])[0])
    assert (behind.offset, behind.value) == (1, VALUE)


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(ValueError, match="its compression 9 is not known"):
        decompression.unpack(9, b"")
