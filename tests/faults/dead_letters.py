"""The topic of dead letters, as anybody can read it."""

from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from projector.events.model import DEAD_LETTERS


class Origin(NamedTuple):
    """Where a bad record was."""

    topic: str
    partition: int
    offset: int


async def count_letters(kafka: str, prefix: str) -> int:
    """How many letters there are, repeated ones among them."""
    place = _topic_partition(prefix)
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        ends = await consumer.end_offsets([place])
        return int(ends[place])


async def read_origins(kafka: str, prefix: str) -> set[Origin]:
    """Where the records of all letters were."""
    place, end = _topic_partition(prefix), await count_letters(kafka, prefix)
    found: set[Origin] = set()
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        consumer.assign([place])
        consumer.seek(place, 0)
        while await consumer.position(place) < end:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found |= {_origin(dict(record.headers)) for record in records}
    return found


def _topic_partition(prefix: str) -> TopicPartition:
    return TopicPartition(prefix + DEAD_LETTERS, 0)


def _origin(headers: dict[str, bytes]) -> Origin:
    topic, partition, offset = (
        headers[f"dead-letter-{name}"].decode() for name in ("topic", "partition", "offset")
    )
    return Origin(topic, int(partition), int(offset))
