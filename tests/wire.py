"""Record batches written byte by byte: what no producer library would write, but a broker takes."""

import struct
from typing import Final

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

NOW: Final = 1_795_000_000_000
CODECS: Final = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}

Header = tuple[bytes, bytes | None]


def varint(number: int) -> bytes:
    """Kafka's zigzag coding of a signed number."""
    rest, coded = (number << 1) ^ (number >> 63), bytearray()
    while rest > 0x7F:
        coded.append(rest & 0x7F | 0x80)
        rest >>= 7
    coded.append(rest)
    return bytes(coded)


def _sized(content: bytes | None) -> bytes:
    return varint(-1) if content is None else varint(len(content)) + content


def record(
    value: bytes | None,
    key: bytes | None = b"3",
    headers: list[Header] | None = None,
    offset_delta: int = 0,
    attributes: int = 0,
    behind: bytes = b"",
) -> bytes:
    """One record as it lies in a batch; `behind` are bytes too many within it."""
    names = headers or []
    body = b"".join((
        bytes([attributes]), varint(0), varint(offset_delta), _sized(key), _sized(value),
        varint(len(names)), *(_sized(name) + _sized(content) for name, content in names), behind,
    ))  # fmt: skip
    return varint(len(body)) + body


def batch(
    *records: bytes,
    codec: str = "none",
    packed: bytes | None = None,
    timestamp: int = NOW,
    broker_time: int | None = None,
    count: int | None = None,
    last_delta: int | None = None,
    producer: int | None = None,
    control: bool = False,
) -> bytes:
    """A batch of format v2; `packed` are the records as compressed with `codec`.

    `broker_time` is the time at which the broker appended it, where the topic asks for that.
    It belongs to a transaction of this `producer`; a `control` batch ends that.
    """
    number = len(records) if count is None else count
    attributes = CODECS[codec] | (8 if broker_time else 0)
    attributes |= (0 if producer is None else 0x10) | (0x20 if control else 0)
    covered = struct.pack(
        ">hiqqqhii", attributes, number - 1 if last_delta is None else last_delta, timestamp,
        broker_time or timestamp, -1 if producer is None else producer, -1, -1, number,
    ) + (b"".join(records) if packed is None else packed)  # fmt: skip
    head = struct.pack(">ibI", -1, 2, calc_crc32c(covered))
    return struct.pack(">qi", 0, len(head) + len(covered)) + head + covered


def transaction_end(producer: int, *, commit: bool) -> bytes:
    """The batch that a broker writes when a transaction ends."""
    marker = record(struct.pack(">hi", 0, 0), key=struct.pack(">hh", 0, int(commit)))
    return batch(marker, producer=producer, control=True)


async def produce(kafka: str, topic: str, partition: int, data: bytes) -> tuple[int, int, str]:
    """Send the bytes as they are; error code, first offset, and what the broker says."""
    client = AIOKafkaClient(bootstrap_servers=kafka)
    await client.bootstrap()
    try:
        await client.set_topics([topic])
        await client.force_metadata_update()
        leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
        request = ProduceRequest(None, -1, 10_000, [(topic, [(partition, data)])])
        response = await client.send(leader, request)
        answer = response.topics[0][1][0]
        return answer[1], answer[2], answer[-1] if response.API_VERSION >= 8 else ""
    finally:
        await client.close()
