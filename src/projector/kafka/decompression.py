"""Decompression of Kafka's four codecs, bounded because 2 MiB may unpack to 2 GiB."""

import mmap
import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

import cramjam

# The largest batch once unpacked: eight times the largest batch that the topics accept.
MAX_UNPACKED: Final = 16 * 1024 * 1024

_GZIP: Final = b"\x1f\x8b"
# The header of snappy's Java library: 16 bytes, then blocks, each with its size before it.
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_BLOCKS_AT: Final = 16


def unpack(codec: int, data: bytes) -> bytes:
    """Unpack records; `codec` is the number of the codec in Kafka's protocol.

    Raises the codec's own errors, and `ValueError` beyond `MAX_UNPACKED`.
    """
    if codec not in _CODECS:
        raise ValueError(f"its compression {codec} is not known")
    return _CODECS[codec](data)


def _too_large() -> ValueError:
    return ValueError(f"it has more than {MAX_UNPACKED} bytes")


def _gunzip(data: bytes) -> bytes:
    parts, left = [], MAX_UNPACKED
    # A gzip stream may have several members; bytes after the last are ignored.
    while data.startswith(_GZIP):
        member = zlib.decompressobj(wbits=31)
        parts.append(member.decompress(data, left + 1))
        left -= len(parts[-1])
        if left < 0:
            raise _too_large()
        data = member.unused_data
    return b"".join(parts)


def _unsnap(data: bytes) -> bytes:
    blocks = _xerial_blocks(data) if data.startswith(_XERIAL) else [data]
    if sum(cramjam.snappy.decompress_raw_len(block) for block in blocks) > MAX_UNPACKED:
        raise _too_large()
    return b"".join(bytes(cramjam.snappy.decompress_raw(block)) for block in blocks)


def _xerial_blocks(data: bytes) -> list[bytes]:
    blocks, at = [], _XERIAL_BLOCKS_AT
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        blocks.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return blocks


def _bounded(unpack_into: Callable[[bytes, Any], int]) -> Callable[[bytes], bytes]:
    def unpack(data: bytes) -> bytes:
        # Only the pages that are written take memory.
        with mmap.mmap(-1, MAX_UNPACKED) as room:
            return room[: unpack_into(data, room)]

    return unpack


_CODECS: Final[dict[int, Callable[[bytes], bytes]]] = {
    1: _gunzip,
    2: _unsnap,
    3: _bounded(cramjam.lz4.decompress_into),
    4: _bounded(cramjam.zstd.decompress_into),
}
