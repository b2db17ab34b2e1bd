"""Heartbeats of feeders, completed with the ends of Kafka's topics.

A feeder has no offsets of the topics. It names only its heartbeat before this one, `after`, whose
offset was in the answer. The ingest asks for the ends once all is acknowledged that came before the
heartbeat in its request. So all that this feeder had answers for is below these ends, whichever
process of the ingest sent it. The feeder vouches by `after` that it looked into its source after
that answer, and sent all that it found.
"""

import asyncio
from typing import Any, Final

import msgspec

from projector.clients import kafka
from projector.config.settings import Settings
from projector.events.model import HEARTBEAT, Topic
from projector.ingest.checks import GivenHeartbeat
from projector.ingest.kafka_sends import KafkaSends
from projector.kafka.range_reader import RangeReader

# Witnesses and leaders answer within two seconds, so a few attempts fit.
ASK_S: Final = 5.0


class Heartbeats:
    """Sends feeders' heartbeats to the topic `sources`."""

    def __init__(self, settings: Settings, sends: KafkaSends) -> None:
        self._settings = settings
        self._sends = sends
        self._reader: RangeReader | None = None
        self._starting = asyncio.Lock()

    async def send(self, heartbeat: GivenHeartbeat, partitions: int) -> int | None:
        """Complete the heartbeat, and return its offset; None where Kafka names none.

        Raises `KafkaError`, `TemporaryError`, `OSError` and `TimeoutError`.
        """
        async with asyncio.timeout(ASK_S):
            offsets = await self._ends(partitions)
        value = msgspec.json.encode(_completed(heartbeat, offsets))
        offset = await self._sends.send_heartbeat(heartbeat.source, value)
        return offset if offset >= 0 else None

    async def stop(self) -> None:
        """Disconnect."""
        if self._reader:
            await self._reader.stop()

    async def _ends(self, partitions: int) -> dict[Topic, list[int]]:
        """Return the ends of all partitions, of the leaders that enough replicas name."""
        reader = await self._started()
        found = await asyncio.gather(*(reader.ends(number) for number in range(partitions)))
        return {
            topic: [
                max(ends[topic], self._sends.lately_acknowledged(topic, number))
                for number, ends in enumerate(found)
            ]
            for topic in Topic
        }

    async def _started(self) -> RangeReader:
        async with self._starting:
            if self._reader is None:
                self._reader = await kafka.started(RangeReader(self._settings))
            return self._reader


def _completed(heartbeat: GivenHeartbeat, offsets: dict[Topic, list[int]]) -> dict[str, Any]:
    return {
        "specversion": "1.0", "id": heartbeat.id, "source": heartbeat.origin, "type": HEARTBEAT,
        "data": {"source": heartbeat.source, "after": heartbeat.after, "offsets": offsets},
    }  # fmt: skip
