"""The partition of a root namespace, as Kafka's default partitioner computes it."""

import struct
from functools import lru_cache
from typing import Final

MAX_PARTITIONS: Final = 10_000

_SEED: Final = 0x9747B28C
_FACTOR: Final = 0x5BD1E995
_32_BITS: Final = 0xFFFFFFFF


@lru_cache(maxsize=65_536)
def partition_of(root: str, partitions: int) -> int:
    """Return the partition of root namespace `root`, whose key in Kafka is its digits."""
    return (_murmur2(root.encode()) & 0x7FFFFFFF) % partitions


def _murmur2(key: bytes) -> int:
    """Hash as Java's client does: org.apache.kafka.common.utils.Utils.murmur2."""
    whole = len(key) & ~3
    digest = _SEED ^ len(key)
    for (word,) in struct.iter_unpack("<I", key[:whole]):
        mixed = (word * _FACTOR) & _32_BITS
        mixed = ((mixed ^ (mixed >> 24)) * _FACTOR) & _32_BITS
        digest = ((digest * _FACTOR) & _32_BITS) ^ mixed
    if whole < len(key):
        digest = ((digest ^ int.from_bytes(key[whole:], "little")) * _FACTOR) & _32_BITS
    digest = ((digest ^ (digest >> 13)) * _FACTOR) & _32_BITS
    return digest ^ (digest >> 15)
