"""Producers of events: as fast as possible, or one by one at a steady rate."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic
from tests.integration.deployment import Deployment

from benchmarks.company import Company, Message, encode, topic_of
from projector.events.model import Topic
from projector.feed.producer import CONTENT_TYPE

BATCH_BYTES: Final = 256 * 1024


class Line(NamedTuple):
    """An event as a producer sends it."""

    topic: Topic
    partition: int
    key: bytes
    value: bytes


def line(company: Company, message: Message) -> Line:
    """Encode the company's event."""
    return Line(topic_of(message), company.partition, str(company.root).encode(), encode(message))


def create_topic(deployment: Deployment, name: str, partitions: int) -> str:
    """Create a topic that the product does not know; return its whole name."""
    topic = deployment.prefix + name
    deployment.administrate(lambda admin: admin.create_topics([NewTopic(topic, partitions, 1)]))
    return topic


@asynccontextmanager
async def producer(kafka: str) -> AsyncIterator[AIOKafkaProducer]:
    """Create a producer that sends at once, and waits for acknowledgements."""
    sender = AIOKafkaProducer(
        bootstrap_servers=kafka, acks="all", linger_ms=0, max_batch_size=BATCH_BYTES
    )
    await sender.start()
    try:
        yield sender
    finally:
        await sender.stop()


def send(kafka: str, prefix: str, lines: Iterable[Line]) -> dict[tuple[Topic, int], int]:
    """Send everything in large batches; return the next offset of each partition."""
    return asyncio.run(_send(kafka, prefix, lines))


async def _send(kafka: str, prefix: str, lines: Iterable[Line]) -> dict[tuple[Topic, int], int]:
    by_place: defaultdict[tuple[Topic, int], list[Line]] = defaultdict(list)
    for one in lines:
        by_place[one.topic, one.partition].append(one)
    async with producer(kafka) as sender:
        ends = await asyncio.gather(
            *(_send_to(sender, prefix, place, own) for place, own in by_place.items())
        )
    return dict(zip(by_place, ends, strict=True))


async def _send_to(
    sender: AIOKafkaProducer, prefix: str, place: tuple[Topic, int], lines: list[Line]
) -> int:
    topic, partition = place
    name, end, rest = prefix + topic, 0, iter(lines)
    one = next(rest, None)
    while one is not None:
        batch = sender.create_batch()
        while one is not None and batch.append(
            key=one.key, value=one.value, timestamp=None, headers=[CONTENT_TYPE]
        ):
            one = next(rest, None)
        count = batch.record_count()
        sent = await sender.send_batch(batch, name, partition=partition)
        end = (await sent).offset + count
    return end


async def steadily(rate: float, count: int, act: Callable[[int], Awaitable[None]]) -> None:
    """Start `act` for 0, 1, 2 … at `rate` a second, then wait for all."""
    began, started = time.monotonic(), set[asyncio.Task[None]]()
    for number in range(count):
        pause = began + number / rate - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        started.add(asyncio.ensure_future(act(number)))
    await asyncio.gather(*started)
