"""Heartbeats of feeders, completed with the ends of Kafka's topics.

A feeder cannot know offsets. So it names only its heartbeat before this one, `after`, whose offset
was in the answer. The ends are asked once everything is acknowledged that came before the heartbeat
in its request, and so after every answer that its feeder had by then. Of whatever process, all that
was acknowledged is below these ends. So `after` is the feeder's promise alone: that it looked into
its source after that answer, and sent all that it found.
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

# Witnesses and leaders answer within two; a few attempts fit.
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
