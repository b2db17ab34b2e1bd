"""The limit of a backlog: pg_recvlogical reads the same stream, plain aiokafka sends the events.

    python -m benchmarks.drain_and_produce DSN SLOT END KAFKA TOPIC COPY START...

First it reads the events that the bridge has sent, from the offset START of each partition of
TOPIC. Then the clock runs: pg_recvlogical reads the slot up to the position END into /dev/null,
and the events go to the topic COPY. Prints a JSON array: seconds, CPU seconds, and the seconds of
pg_recvlogical alone.
"""

import asyncio
import resource
import subprocess
import sys
import time
from typing import Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from tests.integration.gitlab.postgres import program, unprivileged

from benchmarks.producing import BATCH_BYTES
from projector.feed.producer import CONTENT_TYPE

OPTIONS: Final = ("proto_version=1", "publication_names=projector")
Event = tuple[int, bytes, bytes]


def drain(dsn: str, slot: str, end: str) -> None:
    """Read the slot up to the position, as PostgreSQL sends it."""
    argv = [program("pg_recvlogical"), "--dbname", dsn, "--slot", slot, "--start",
            "--endpos", end, "--no-loop", "--file", "/dev/null"]  # fmt: skip
    for option in OPTIONS:
        argv += ["--option", option]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, cwd="/", **unprivileged()
    )
    if done.returncode:
        raise SystemExit(done.stderr)


async def read(kafka: str, topic: str, starts: list[int]) -> list[Event]:
    """Return the events of every partition from its offset on."""
    places = [TopicPartition(topic, number) for number in range(len(starts))]
    found: list[Event] = []
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        for place, start in zip(places, starts, strict=True):
            consumer.seek(place, start)
        while any([await consumer.position(place) < ends[place] for place in places]):
            for place, records in (await consumer.getmany(timeout_ms=500)).items():
                found += ((place.partition, record.key, record.value) for record in records)
    return found


async def produce(producer: AIOKafkaProducer, topic: str, events: list[Event]) -> None:
    """Send the events one by one, as a sender of events does, and wait for all."""
    sent = [
        await producer.send(topic, value, key, partition, headers=[CONTENT_TYPE])
        for partition, key, value in events
    ]
    await asyncio.gather(*sent)


async def main() -> None:
    """Measure one backlog."""
    dsn, slot, end, kafka, topic, copy, *starts = sys.argv[1:]
    events = await read(kafka, topic, [int(start) for start in starts])
    async with AIOKafkaProducer(
        bootstrap_servers=kafka, acks="all", linger_ms=0, max_batch_size=BATCH_BYTES
    ) as producer:
        await producer.partitions_for(copy)
        began, before = time.monotonic(), spent()
        drain(dsn, slot, end)
        drained = time.monotonic() - began
        await produce(producer, copy, events)
        seconds, cpu = time.monotonic() - began, spent() - before
    sys.stdout.write(f"[{seconds}, {cpu}, {drained}, {len(events)}]\n")


def spent() -> float:
    """Return the CPU seconds of this process and of those that it has waited for."""
    own = time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    asyncio.run(main())
