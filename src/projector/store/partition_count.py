"""The number of partitions of a database: the key `allowed-agents:partitions`."""

from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from projector.errors import NoSuchPartitionError, NotReadyError, PartitionCountError
from projector.events.partitioning import MAX_PARTITIONS
from projector.store import lua_scripts, schema

log = structlog.get_logger()

_MAX_DIGITS: Final = len(str(MAX_PARTITIONS))


async def require_partition_count(redis: Redis) -> int:
    """Read the number of partitions; raises `NotReadyError` before the first worker's start.

    Raises `PartitionCountError` as `decode_partition_count` does, and `RedisError`.
    """
    count = await read_partition_count(redis)
    if count is None:
        raise NotReadyError(
            f"{schema.PARTITIONS_KEY} is not in Redis: no worker has run on this database yet"
        )
    return count


async def read_partition_count(redis: Redis) -> int | None:
    """Read the number of partitions; None before the first worker's start."""
    found: Any
    try:
        found = await redis.get(schema.PARTITIONS_KEY)
    except ResponseError as error:
        found = error
    return decode_partition_count(found)


def decode_partition_count(found: bytes | Exception | None) -> int | None:
    """Decode what GET returned for the key, its error included; None if the key is missing.

    Raises `PartitionCountError` if the key holds anything else than a number of partitions.
    """
    if found is None:
        return None
    if isinstance(found, bytes):
        if found.isdigit() and len(found) <= _MAX_DIGITS and 0 < int(found) <= MAX_PARTITIONS:
            return int(found)
    elif not str(found).startswith("WRONGTYPE"):
        raise found
    raise PartitionCountError(
        f"{schema.PARTITIONS_KEY} in Redis is not a number from 1 to {MAX_PARTITIONS}; a "
        "running worker writes it again; without one, delete it and start a worker"
    )


async def agree_on_partitions(redis: Redis, expected: int) -> int:
    """Store `expected` if the key is missing; return the number that is stored then."""
    await redis.set(schema.PARTITIONS_KEY, expected, nx=True)
    return await read_partition_count(redis) or expected


async def restore_partition_count(redis: Redis, count: int) -> None:
    """Write the number where it is missing or malformed; another number stays.

    For workers that have agreed on it: without the number no API answers.
    """
    keep = redis.register_script(lua_scripts.KEEP_COUNT)
    if await keep(keys=[schema.PARTITIONS_KEY], args=[count, MAX_PARTITIONS]):
        log.warning("the number of partitions was written anew", partitions=count)


def choose_partitions(partitions: list[int] | None, count: int) -> list[int]:
    """Return the named partitions, or all of them; raises `NoSuchPartitionError`."""
    wanted = sorted(set(partitions or range(count)))
    if wanted[-1] >= count:
        raise NoSuchPartitionError(wanted[-1], count)
    return wanted
