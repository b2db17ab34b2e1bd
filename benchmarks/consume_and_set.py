"""The limit of a rebuild: a plain consumer, and pipelined SETs of what the product wrote.

Reads every record of the three topics and, with each batch, writes its share of the values.
Prints the seconds and the CPU seconds.

    python -m benchmarks.consume_and_set KAFKA PREFIX PARTITIONS FROM_PORT TO_PORT
"""

import asyncio
import sys
import time
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from redis.asyncio import Redis

from projector.events.model import Topic

PER_CALL: Final = 500


async def values_of(redis: Redis) -> list[tuple[Any, Any]]:
    """Return every string, and every field of every hash under its own name."""
    found: list[tuple[Any, Any]] = []
    strings: list[bytes] = []
    async for key in redis.scan_iter(count=1000):
        if await redis.type(key) == b"hash":
            found += [pair async for pair in redis.hscan_iter(key, count=1000)]
        else:
            strings.append(key)
    for start in range(0, len(strings), 1000):
        chunk = strings[start : start + 1000]
        found += zip(chunk, await redis.mget(chunk), strict=True)
    return found


async def copy(consumer: Any, ends: dict[Any, int], redis: Redis, values: list[Any]) -> None:
    """Read up to `ends` and write the values evenly meanwhile."""
    total, read, written = sum(ends.values()), 0, 0
    while read < total:
        polled = await consumer.getmany(timeout_ms=500, max_records=PER_CALL)
        read += sum(len(records) for records in polled.values())
        due = len(values) * read // total
        async with redis.pipeline(transaction=False) as pipe:
            for key, value in values[written:due]:
                pipe.set(key, value)
            await pipe.execute()
        written = due


async def main(kafka: str, prefix: str, partitions: str, source: str, target: str) -> None:
    """Measure once."""
    async with Redis(port=int(source)) as product, Redis(port=int(target)) as redis:
        values = await values_of(product)
        consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest")
        await consumer.start()
        places = [TopicPartition(prefix + t, p) for t in Topic for p in range(int(partitions))]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        await redis.ping()
        began, cpu = time.monotonic(), time.process_time()
        await copy(consumer, ends, redis, values)
        took = time.monotonic() - began, time.process_time() - cpu
        await consumer.stop()
        await redis.flushall()
    sys.stdout.write(f"{msgspec.json.encode(took).decode()}\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
