"""The moment at which Kafka has all that the bridge had to send."""

import asyncio
import time
from typing import Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from projector.events.model import Topic

FED: Final = (Topic.MEMBERSHIP, Topic.AGENT_CONFIG, Topic.JOB_LIFECYCLE)
SOURCES: Final = "sources"
PATIENCE_S: Final = 120.0
POLL_S: Final = 0.005


def ends(kafka: str, topic: str, partitions: int) -> list[int]:
    """Return the next offset of each partition."""
    return asyncio.run(_ends(kafka, topic, partitions))


async def _ends(kafka: str, topic: str, partitions: int) -> list[int]:
    places = [TopicPartition(topic, number) for number in range(partitions)]
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        found = await consumer.end_offsets(places)
    return [found[place] for place in places]  # in any order in the answer


def until_ends(kafka: str, topic: str, partitions: int, total: int) -> float:
    """Wait until the ends add up to `total`; return that time (monotonic seconds)."""
    return asyncio.run(_until_ends(kafka, topic, partitions, total))


async def _until_ends(kafka: str, topic: str, partitions: int, total: int) -> float:
    places = [TopicPartition(topic, number) for number in range(partitions)]
    deadline = time.monotonic() + PATIENCE_S
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        while sum((await consumer.end_offsets(places)).values()) < total:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic} does not get {total} events")
            await asyncio.sleep(POLL_S)
    return time.monotonic()


def until_vouched(kafka: str, prefix: str, partitions: int) -> float:
    """Wait for the first heartbeat that vouches; return when the last event was sent (Unix time).

    The bridge sends that heartbeat once all that came before is acknowledged, and a while later.
    """
    return asyncio.run(_until_vouched(kafka, prefix, partitions))


async def _until_vouched(kafka: str, prefix: str, partitions: int) -> float:
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        await asyncio.wait_for(_vouched(consumer, TopicPartition(prefix + SOURCES, 0)), PATIENCE_S)
        places = [TopicPartition(prefix + topic, n) for topic in FED for n in range(partitions)]
        found = await consumer.end_offsets(places)
        last = [await _time(consumer, place, end - 1) for place, end in found.items() if end]
    return max(last) / 1000


async def _vouched(consumer: AIOKafkaConsumer, sources: TopicPartition) -> None:
    consumer.assign([sources])
    consumer.seek(sources, 0)
    async for record in consumer:
        if msgspec.json.decode(record.value)["data"].get("after") is not None:
            return


async def _time(consumer: AIOKafkaConsumer, place: TopicPartition, offset: int) -> float:
    consumer.assign([place])
    consumer.seek(place, offset)
    return float((await consumer.getone(place)).timestamp)
