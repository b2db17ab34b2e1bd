"""Constant traffic: in each root namespace one event after another, each acknowledged by Kafka.

So the events of a root have a total order. Each has the time when it was sent and the time when
Kafka had acknowledged it.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from random import Random
from typing import Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from projector.events.model import EVENT_TYPES, Topic
from projector.events.partitioning import partition_of
from tests.faults.namespaces import Event, RandomNamespace, Token
from tests.integration.deployment import PARTITIONS

RATE: Final = 150.0
RETRY_S: Final = 0.2
# Longer than any fault lasts: only retries inside the idempotent producer cannot repeat an event.
GIVE_UP_MS: Final = 90_000

Headers = Sequence[tuple[str, bytes]]


class SentEvent(NamedTuple):
    """An event with the times when it was sent and acknowledged (monotonic seconds)."""

    event: Event
    sent: float
    acked: float


class History:
    """The events of one root in their order."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.events: list[SentEvent] = []


class Traffic:
    """Sends the events of all namespaces at once until paused."""

    def __init__(
        self, brokers: str, prefix: str, seed: int, namespaces: list[RandomNamespace]
    ) -> None:
        self._brokers = brokers
        self._prefix = prefix
        self._dice = Random(seed)
        self.namespaces = namespaces
        self.histories = {each.root: History(each.root) for each in namespaces}
        # Tokens whose job.started Kafka has, in that order.
        self.started: list[Token] = []
        # The latest token of each job that has not finished.
        self.live: dict[int, Token] = {}
        # Events per second, of all namespaces together.
        self.rate = RATE
        # Whether user.set, which needs every partition, may be sent.
        self.broadcasts = True
        self._pausing = False
        self._senders: list[asyncio.Task[None]] = []

    @property
    def count(self) -> int:
        """Count the events that Kafka has acknowledged."""
        return sum(len(history.events) for history in self.histories.values())

    def acknowledged(self, partition: int) -> int:
        """Count the acknowledged events of the partition."""
        return sum(
            len(history.events)
            for root, history in self.histories.items()
            if partition_of(root, PARTITIONS) == partition
        )

    async def start(self) -> None:
        """Connect to Kafka and begin to send."""
        self._producers = [await self._new_producer(self._brokers)]
        await self.resume()

    async def send_around(self, brokers: str, deposed: int) -> None:
        """Send from now on through these brokers, to leaders other than the deposed one.

        What the deposed leader has not acknowledged stays with the former producer.
        """
        while True:
            producer = await self._new_producer(brokers)
            for topic in Topic:
                await producer.partitions_for(self._prefix + topic)
            if not producer.client.cluster.partitions_for_broker(deposed):
                self._producers.append(producer)
                return
            # The deposed leader itself was asked for the leaders.
            await producer.stop()

    async def pause(self) -> None:
        """Stop sending, after each namespace has finished its current event."""
        self._pausing = True
        await asyncio.gather(*self._senders)

    async def resume(self) -> None:
        """Begin to send again."""
        self._pausing = False
        self._senders = [asyncio.create_task(self._send_events(each)) for each in self.namespaces]

    async def close(self) -> None:
        """Stop at once and disconnect."""
        for sender in self._senders:
            sender.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)
        for producer in self._producers:
            await producer.stop()

    async def _new_producer(self, brokers: str) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=brokers,
            acks="all",
            enable_idempotence=True,
            request_timeout_ms=GIVE_UP_MS,
            retry_backoff_ms=50,
            max_request_size=4 * 1024 * 1024,
        )
        await producer.start()
        return producer

    async def _send_events(self, namespace: RandomNamespace) -> None:
        while not self._pausing:
            event = namespace.next()
            if event["type"] == "user.set" and not self.broadcasts:
                continue
            await self.send(event, namespace.tokens.get(event["data"].get("token_sha256", "")))
            pause = len(self.namespaces) / self.rate
            await asyncio.sleep(self._dice.uniform(0.2, 1.8) * pause)

    async def send(self, event: Event, token: Token | None = None) -> SentEvent:
        """Send one event; once Kafka has it, add it to its root's history."""
        root = event["partitionkey"]
        sent = time.monotonic()
        event = await self._deliver(event)
        entry = SentEvent(event, sent, time.monotonic())
        self.histories.setdefault(root, History(root)).events.append(entry)
        if token:
            self.started.append(token)
            self.live[token.job] = token
        elif event["type"] == "job.finished":
            self.live.pop(event["data"]["id"], None)
        return entry

    async def _deliver(self, event: Event) -> Event:
        """Give the event to Kafka, which acknowledges it; return the event as it was given."""
        kind, root = EVENT_TYPES[event["type"]], event["partitionkey"]
        partitions = range(PARTITIONS) if kind.broadcast else [partition_of(root, PARTITIONS)]
        value = json.dumps(event).encode()
        await asyncio.gather(
            *(self.produce(kind.topic, value, root.encode(), each) for each in partitions)
        )
        return event

    async def produce(
        self, topic: str, value: bytes | None, key: bytes, partition: int, headers: Headers = ()
    ) -> None:
        """Send a record until Kafka acknowledges it."""
        name = self._prefix + topic
        while True:
            try:
                await self._producers[-1].send_and_wait(
                    name, value, key, partition, headers=list(headers)
                )
            except KafkaError:
                await asyncio.sleep(RETRY_S)
            else:
                return
