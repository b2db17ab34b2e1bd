"""Heartbeats that cannot be true, or cannot be read."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from projector.config.settings import Settings
from projector.events.model import SOURCES, Topic
from tests import builders
from tests.faults.scenario import SEND_S, RawRecord
from tests.faults.sources.scenario import NAME, SourceScenario
from tests.heartbeat_sender import HeartbeatSender
from tests.integration.deployment import PARTITIONS

MAX: Final = 2**63 - 1
BEYOND: Final = 1000
PAUSE_S: Final = 0.1

Offsets = Mapping[Topic, list[int]]


def tell_lies(scenario: SourceScenario, seconds: float) -> int:
    """Send lies for so long, under the source's own name and others; return their number."""
    end, told = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        _, offsets = scenario.background.run(ask_kafka(scenario), SEND_S)
        # The first heartbeat of a run vouches for nothing, but lies may name it.
        first = json.dumps(builders.heartbeat(NAME, None, offsets)).encode()
        scenario.produce(RawRecord(SOURCES, first, NAME.encode(), 0))
        last, offsets = scenario.background.run(ask_kafka(scenario), SEND_S)
        records = [RawRecord(SOURCES, value, key, 0) for value, key in lies(last, offsets)]
        scenario.produce(*records)
        told += len(records)
        scenario.run_for(PAUSE_S)
    return told


async def ask_kafka(scenario: SourceScenario) -> tuple[int, Offsets]:
    """Ask for the offset of the last heartbeat, and the ends of all partitions."""
    deployment = scenario.deployment
    settings = Settings(kafka=deployment.kafka, topic_prefix=deployment.prefix)
    sender = HeartbeatSender(settings, PARTITIONS, NAME)
    await sender.ask_ends()
    place = TopicPartition(settings.topic(SOURCES), 0)
    async with AIOKafkaConsumer(bootstrap_servers=deployment.kafka) as consumer:
        return (await consumer.end_offsets([place]))[place] - 1, sender.offsets


def lies(last: int, offsets: Offsets) -> Iterator[tuple[bytes | None, bytes]]:
    """Yield values and keys of records; each would vouch for now if the worker believed it."""
    name = NAME.encode()
    for message in untrue(last, offsets):
        yield json.dumps(message).encode(), name
    for message in malformed(last, offsets):
        yield json.dumps(message).encode(), name
    honest = json.dumps(builders.heartbeat(NAME, last, offsets)).encode()
    yield honest, b"another"
    yield honest[:-2], name
    yield None, name
    yield json.dumps(builders.heartbeat("another", last, offsets)).encode(), b"another"


def untrue(last: int, offsets: Offsets) -> Iterator[Any]:
    """Yield heartbeats with `after` or offsets beyond the ends."""
    yield builders.heartbeat(NAME, last + BEYOND, offsets)
    yield builders.heartbeat(NAME, MAX, offsets)
    for beyond in (lambda at: at + BEYOND, lambda _: MAX):
        yield builders.heartbeat(
            NAME, last, {t: [*map(beyond, ends)] for t, ends in offsets.items()}
        )


def malformed(last: int, offsets: Offsets) -> Iterator[Any]:
    """Yield heartbeats that break the schema, and events that are none."""
    for after in (-1, 0.5, str(last), True, MAX + 1):
        yield builders.heartbeat(NAME, after, offsets)  # type: ignore[arg-type]
    yield builders.heartbeat(NAME, last, {t: ends[1:] for t, ends in offsets.items()})
    yield builders.heartbeat(NAME, last, {t: [-1] * PARTITIONS for t in offsets})
    yield builders.heartbeat(NAME, last, {Topic.MEMBERSHIP: offsets[Topic.MEMBERSHIP]})
    yield builders.heartbeat("another", last, offsets)
    yield builders.heartbeat(NAME, last, offsets) | {"type": "group.set"}
    yield builders.group(3)
