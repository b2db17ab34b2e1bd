"""The limit of a rebuild and of jobs: a plain consumer, and pipelined SETs of the product's values.

Reads every record of the three topics and, with each batch, writes its share of the values. A
thread writes with redis-py's synchronous client, which packs commands in C, while the next batch
comes. uvloop makes it an eighth faster. Prints the seconds and the CPU seconds.

    python -m benchmarks.consume_and_set KAFKA PREFIX PARTITIONS FROM_PORT TO_PORT
"""

import asyncio
import sys
import time
from typing import Any, Final

import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from redis import Redis

from projector.events.model import Topic

PER_CALL: Final = 500


def values_of(redis: Any) -> list[tuple[Any, Any]]:
    """Return every string, and every field of every hash under its own name."""
    found: list[tuple[Any, Any]] = []
    strings: list[bytes] = []
    for key in redis.scan_iter(count=1000):
        if redis.type(key) == b"hash":
            found += redis.hscan_iter(key, count=1000)
        else:
            strings.append(key)
    for start in range(0, len(strings), 1000):
        chunk = strings[start : start + 1000]
        found += zip(chunk, redis.mget(chunk), strict=True)
    return found


async def copy(consumer: Any, ends: dict[Any, int], redis: Any, values: list[Any]) -> None:
    """Read up to `ends` and write the values evenly meanwhile."""
    total, read, written = sum(ends.values()), 0, 0
    writing = asyncio.create_task(asyncio.to_thread(write, redis, []))
    while read < total:
        polled = await consumer.getmany(timeout_ms=500, max_records=PER_CALL)
        read += sum(len(records) for records in polled.values())
        due = len(values) * read // total
        await writing
        writing = asyncio.create_task(asyncio.to_thread(write, redis, values[written:due]))
        written = due
    await writing


def write(redis: Any, values: list[Any]) -> None:
    """SET the values in one pipeline."""
    with redis.pipeline(transaction=False) as pipe:
        for key, value in values:
            pipe.set(key, value)
        pipe.execute()


async def main(kafka: str, prefix: str, partitions: str, source: str, target: str) -> None:
    """Measure once."""
    with Redis(port=int(source)) as product, Redis(port=int(target)) as redis:
        values = values_of(product)
        consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest")
        await consumer.start()
        places = [TopicPartition(prefix + t, p) for t in Topic for p in range(int(partitions))]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        redis.ping()
        began, cpu = time.monotonic(), time.process_time()
        await copy(consumer, ends, redis, values)
        took = time.monotonic() - began, time.process_time() - cpu
        await consumer.stop()
        redis.flushall()
    sys.stdout.write(f"{msgspec.json.encode(took).decode()}\n")


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(*sys.argv[1:]))
