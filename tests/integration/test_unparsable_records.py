"""Records that a broker accepts and aiokafka cannot parse: later ones are still applied."""

import asyncio
import gzip
import json
from typing import Any, Final

import cramjam

from projector.events.partitioning import partition_of
from tests import builders, wire
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.servers import eventually
from tests.wire import batch, record

MIB: Final = 1024 * 1024
PARTITION: Final = partition_of("3", PARTITIONS)


def event(number: int) -> bytes:
    return json.dumps(builders.group(number, 3)).encode()


def packed(number: int, codec: str) -> bytes:
    """Build a compressed batch of two events, with this number and the next."""
    records = record(event(number)) + record(event(number + 1), offset_delta=1)
    compress: dict[str, Any] = {
        "gzip": gzip.compress,
        "snappy": cramjam.snappy.compress_raw,
        "lz4": lz4,
        "zstd": cramjam.zstd.compress,
    }
    return batch(codec=codec, packed=bytes(compress[codec](records)), count=2)


def lz4(data: bytes) -> Any:
    # Kafka accepts only independent blocks.
    compressor = cramjam.lz4.Compressor(block_linked=False)
    compressor.compress(data)
    return compressor.finish()


def many_headers(number: int) -> bytes:
    return batch(record(event(number), headers=[(b"", None)] * 900_000))


# Batches with valid events, by the groups that they set.
GOOD: Final = {
    (100, 101): packed(100, "gzip"),
    (102, 103): packed(102, "snappy"),
    (104, 105): packed(104, "lz4"),
    (106, 107): packed(106, "zstd"),
    (108,): batch(record(event(108), attributes=0xFF)),
    (109,): batch(record(event(109), headers=[(b"", None), (b"a", b"1"), (b"a", b"\xff")])),
    (110,): batch(record(event(110), key=None), timestamp=-1),
    (111,): batch(
        codec="gzip", packed=gzip.compress(record(event(111))) + b"behind the end", count=1
    ),
}
# Batches of one bad record each, with the reason of its dead letter.
BAD: Final = {
    "the name of the header \\xff is not UTF-8": batch(record(event(1), headers=[(b"\xff", b"")])),
    "1000000 in its batch": batch(record(event(2), offset_delta=1_000_000)),
    "-1 in its batch": batch(record(event(3), offset_delta=-1)),
    "has 900000 headers": many_headers(4),
    "the record has no value": batch(record(None, key=None)),
    "the value is not JSON": batch(record(b"")),
    "cannot be unpacked": batch(
        codec="gzip", packed=gzip.compress(record(b"x" * 70 * MIB)), count=1
    ),
    "bytes; at most": batch(record(b"x" * (2 * MIB - 1000))),
}


def test_no_record_holds_up_those_behind_it(deployment: Deployment) -> None:
    worker = deployment.start_all()
    deployment.feed(builders.group(3), builders.project(7, 3), builders.started(9, 7))
    deployment.until("token-9", 200)

    offsets = {}
    for data in GOOD.values():
        send(deployment, data)
    for reason, data in BAD.items():
        offsets[send(deployment, data)] = reason
    revocation = json.dumps(builders.removed("group", 100)).encode()
    offsets[send(deployment, batch(record(revocation, headers=[(b"\xfe", b"")])))] = "\\xfe is not"
    deployment.feed(builders.user(1, "blocked"))
    deployment.until("token-9", 403, "the event after the bad records applied")
    letters = deployment.dead_letters(len(offsets))
    reasons = {
        int(letter.headers["dead-letter-offset"]): letter.headers["dead-letter-reason"]
        for letter in letters
    }
    assert reasons.keys() == offsets.keys()
    for offset, reason in offsets.items():
        assert reason in reasons[offset]
    assert event(1) in [letter.value for letter in letters]
    assert_applied(deployment)

    worker.kill()
    deployment.redis.flushall()
    deployment.start("worker")
    deployment.until("token-9", 403, "the same for a worker that reads everything again")
    deployment.until_fresh()
    assert_applied(deployment)


def assert_applied(deployment: Deployment) -> None:
    def data(number: int) -> Any:
        fact = deployment.redis.hget(f"allowed-agents:facts:{{{PARTITION}}}", f"3/group/{number}")
        return json.loads(fact).get("data") if fact else None

    numbers = {number for numbers in GOOD for number in numbers} - {100}
    eventually(lambda: all(map(data, numbers)), "every good event applied")
    assert data(100) is None


def send(deployment: Deployment, data: bytes) -> int:
    """Send a batch to the partition of namespace 3; return the offset of its first record."""
    topic = f"{deployment.prefix}membership"
    code, offset, message = asyncio.run(wire.produce(deployment.kafka, topic, PARTITION, data))
    assert code == 0, message
    return offset
