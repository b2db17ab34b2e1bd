"""Reader of the dead-letters topic, independent of the product."""

from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from projector.events.model import DEAD_LETTERS


class Origin(NamedTuple):
    """The position of a bad record."""

    topic: str
    partition: int
    offset: int


async def count_letters(kafka: str, prefix: str) -> int:
    """Count the letters, including repeated ones."""
    topic_partition = _topic_partition(prefix)
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        ends = await consumer.end_offsets([topic_partition])
        return int(ends[topic_partition])


async def read_origins(kafka: str, prefix: str) -> set[Origin]:
    """Return the positions of the records of all letters."""
    topic_partition, end = _topic_partition(prefix), await count_letters(kafka, prefix)
    found: set[Origin] = set()
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        consumer.assign([topic_partition])
        consumer.seek(topic_partition, 0)
        while await consumer.position(topic_partition) < end:
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
