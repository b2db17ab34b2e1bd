"""Which partition a root namespace lives in."""

from functools import lru_cache
from typing import Final

from aiokafka.partitioner import murmur2


@lru_cache(maxsize=65_536)
def partition_of(root: str, partitions: int) -> int:
    """The partition of root namespace `root`: Kafka's default partitioner over its digits."""
    return int(murmur2(root.encode()) & 0x7FFFFFFF) % partitions


MAX_PARTITIONS: Final = 10_000
