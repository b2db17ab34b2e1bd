"""A sender of heartbeats as the contract of `sources` wants it, for one source."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition

from projector.clients import kafka
from projector.config.settings import Settings
from projector.events.model import SOURCES, Topic
from tests import builders

INTERVAL_S = 0.25

Look = Callable[[], Awaitable[None]]


class HeartbeatSender:
    """Sends heartbeats of `source` while `run` runs, one at a time.

    `offsets` are the next ones of each partition. `look` is awaited after each acknowledgement of a
    heartbeat: it returns once all that has happened in the source by then is acknowledged by Kafka,
    and `offsets` are above it. Without it, Kafka is asked for the ends, which suits a source whose
    changes are acknowledged before they count.
    """

    def __init__(
        self, settings: Settings, partitions: int, source: str = "gitlab", look: Look | None = None
    ) -> None:
        self._settings = settings
        self._topic = settings.topic(SOURCES)
        self._partitions = partitions
        self._look = look or self.ask_ends
        self.source = source
        self.offsets: dict[Topic, list[int]] = {topic: [0] * partitions for topic in Topic}
        self.after: int | None = None
        self.sent = 0
        self._stopped = False

    def acknowledged(self, topic: Topic, partition: int, offset: int) -> None:
        """Note the offset of an event that Kafka has acknowledged."""
        self.offsets[topic][partition] = max(self.offsets[topic][partition], offset + 1)

    async def run(self) -> None:
        """Send until cancelled, or stopped between two heartbeats."""
        await self.ask_ends()
        async with AIOKafkaProducer(
            **kafka.client_arguments(self._settings), acks="all", request_timeout_ms=2000
        ) as producer:
            while not self._stopped:
                await self.send(producer)
                await asyncio.sleep(INTERVAL_S)
                # After the acknowledgement, so that it covers all that happened before that.
                await self._look()

    def stop(self) -> None:
        """Send no other heartbeat, and let `run` return."""
        self._stopped = True

    async def send(self, producer: AIOKafkaProducer) -> None:
        """Send one heartbeat, and wait for its acknowledgement."""
        message = builders.heartbeat(self.source, self.after, self.offsets)
        value, key = json.dumps(message).encode(), self.source.encode()
        metadata = await producer.send_and_wait(self._topic, value, key, 0)
        self.after = metadata.offset
        self.sent += 1

    async def ask_ends(self) -> None:
        """Ask Kafka for the ends of all partitions."""
        places = {
            TopicPartition(self._settings.topic(topic), number): (topic, number)
            for topic in Topic
            for number in range(self._partitions)
        }
        async with kafka.open_consumer(
            self._settings, "sender", request_timeout_ms=2000,
            isolation_level=kafka.UNCOMMITTED,
        ) as consumer:  # fmt: skip
            for place, end in (await consumer.end_offsets(list(places))).items():
                topic, number = places[place]
                self.offsets[topic][number] = max(self.offsets[topic][number], end)


@contextmanager
def sending(sender: HeartbeatSender) -> Iterator[HeartbeatSender]:
    """Run the sender in a thread; at the end it sends no more.

    It is cancelled only if it does not stop by itself. aiokafka leaks a connection that it was
    opening, and whichever test runs when this is collected fails.
    """
    loop = asyncio.new_event_loop()
    task: asyncio.Task[Any] = loop.create_task(sender.run())

    def work() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        finally:
            loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield sender
    finally:
        sender.stop()
        thread.join(3)
        if thread.is_alive():
            loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
