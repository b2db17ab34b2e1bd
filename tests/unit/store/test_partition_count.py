"""The key of the number of partitions: one reader, and one sentence for a malformed value."""

from collections.abc import AsyncIterator

import fakeredis
import pytest
from redis.exceptions import ResponseError

from projector.errors import NotReadyError, OperatorError, PartitionCountError
from projector.events.partitioning import MAX_PARTITIONS
from projector.store import partition_count, schema
from projector.store.partition_count import (
    agree_on_partitions,
    read_partition_count,
    require_partition_count,
    restore_partition_count,
)

SENTENCE = (
    "allowed-agents:partitions in Redis is not a number from 1 to 10000; a running worker "
    "writes it again; without one, delete it and start a worker"
)
MALFORMED = ["abc", "", "0", "-1", " 4", "4.0", "10001", "9" * 4301, "٣"]


@pytest.fixture
async def redis() -> AsyncIterator[fakeredis.FakeAsyncRedis]:
    async with fakeredis.FakeAsyncRedis() as client:
        yield client


@pytest.mark.parametrize("count", [1, 16, MAX_PARTITIONS])
async def test_the_number_is_read_as_a_worker_wrote_it(
    redis: fakeredis.FakeAsyncRedis, count: int
) -> None:
    assert await agree_on_partitions(redis, count) == count
    assert await redis.get(schema.PARTITIONS_KEY) == str(count).encode()
    assert await read_partition_count(redis) == await require_partition_count(redis) == count


async def test_the_first_worker_decides(redis: fakeredis.FakeAsyncRedis) -> None:
    await agree_on_partitions(redis, 4)
    assert await agree_on_partitions(redis, 5) == 4


async def test_without_the_key_no_worker_has_run(redis: fakeredis.FakeAsyncRedis) -> None:
    assert await read_partition_count(redis) is None
    with pytest.raises(
        NotReadyError,
        match=r"^allowed-agents:partitions is not in Redis: no worker has run on this database",
    ):
        await require_partition_count(redis)


@pytest.mark.parametrize("stored", [*MALFORMED, None], ids=ascii)
async def test_anything_else_is_one_sentence_that_says_what_to_do(
    redis: fakeredis.FakeAsyncRedis, stored: str | None
) -> None:
    """None: a key of another type."""
    if stored is None:
        await redis.rpush(schema.PARTITIONS_KEY, "4")
    else:
        await redis.set(schema.PARTITIONS_KEY, stored)
    for read in (read_partition_count, require_partition_count):
        with pytest.raises(PartitionCountError) as raised:
            await read(redis)
        assert str(raised.value) == SENTENCE
    with pytest.raises(PartitionCountError):
        await agree_on_partitions(redis, 4)
    assert isinstance(raised.value, OperatorError)
    # A server waits for what may still appear; this does not go away by itself.
    assert not isinstance(raised.value, NotReadyError)


@pytest.mark.parametrize("stored", [*MALFORMED, None, "missing"], ids=ascii)
async def test_a_live_worker_writes_it_again(
    redis: fakeredis.FakeAsyncRedis, stored: str | None
) -> None:
    if stored is None:
        await redis.rpush(schema.PARTITIONS_KEY, "4")
    elif stored != "missing":
        await redis.set(schema.PARTITIONS_KEY, stored)
    await restore_partition_count(redis, 16)
    assert await read_partition_count(redis) == 16


@pytest.mark.parametrize("stored", [1, 16, MAX_PARTITIONS])
async def test_another_number_is_left_alone(redis: fakeredis.FakeAsyncRedis, stored: int) -> None:
    await redis.set(schema.PARTITIONS_KEY, stored)
    await restore_partition_count(redis, 4)
    assert await read_partition_count(redis) == stored


def test_another_error_of_redis_stays_what_it_is() -> None:
    with pytest.raises(ResponseError, match="NOPERM"):
        partition_count.decode_partition_count(ResponseError("NOPERM no permissions"))
