"""Other languages compute the same partition: Kafka's own test vectors of murmur2."""

import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from projector.events.partitioning import partition_of


@pytest.mark.parametrize(
    ("key", "java"),
    [("21", -973932308), ("foobar", -790332482), ("abc", 479470107)],
)
def test_the_partition_is_the_one_of_kafkas_default_partitioner(key: str, java: int) -> None:
    assert partition_of(key, 1000) == (java & 0x7FFFFFFF) % 1000


@given(st.text(st.characters(codec="utf-8")))
def test_aiokafka_computes_the_same_partition_for_every_key(key: str) -> None:
    assert partition_of(key, 2**31) == murmur2(key.encode()) & 0x7FFFFFFF
