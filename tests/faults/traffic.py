"""Constant traffic: in each root namespace one event after another, each acknowledged by Kafka.

So every root has a total order of events, each with the time it was sent and the time Kafka had it.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from random import Random
from typing import Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from projector.events.model import EVENT_TYPES
from projector.events.partitioning import partition_of
from tests.faults.namespaces import Event, RandomNamespace, Token
from tests.integration.deployment import PARTITIONS

RATE: Final = 150.0
RETRY_S: Final = 0.2
# Longer than any fault lasts, so that a retry is the producer's own, which cannot repeat an event.
GIVE_UP_MS: Final = 90_000

Headers = Sequence[tuple[str, bytes]]


class SentEvent(NamedTuple):
    """An event, and when it was sent and acknowledged: seconds of the monotonic clock."""

    event: Event
    sent: float
    acked: float


class History:
    """The events of one root in their order."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.events: list[SentEvent] = []


class Traffic:
    """Plays the stories of all roots at once until paused."""

    def __init__(self, brokers: str, prefix: str, seed: int, roots: list[RandomNamespace]) -> None:
        self._brokers = brokers
        self._prefix = prefix
        self._dice = Random(seed)
        self.roots = roots
        self.histories = {root.root: History(root.root) for root in roots}
        # Tokens whose job.started Kafka has, in that order.
        self.started: list[Token] = []
        # Of the jobs that have not finished, the latest token of each.
        self.live: dict[int, Token] = {}
        # Events per second of all roots together.
        self.rate = RATE
        # Whether user.set, which needs every partition, may be sent.
        self.broadcasts = True
        self._pausing = False
        self._players: list[asyncio.Task[None]] = []

    @property
    def count(self) -> int:
        """How many events Kafka has acknowledged."""
        return sum(len(history.events) for history in self.histories.values())

    def acknowledged(self, partition: int) -> int:
        """How many of those are in the partition."""
        return sum(
            len(history.events)
            for root, history in self.histories.items()
            if partition_of(root, PARTITIONS) == partition
        )

    async def start(self) -> None:
        """Connect to Kafka, and begin every root's story."""
        self._producer = self._new_producer()
        await self._producer.start()
        await self.resume()

    async def pause(self) -> None:
        """Let every root finish the event that it is sending, and send no more."""
        self._pausing = True
        await asyncio.gather(*self._players)

    async def resume(self) -> None:
        """Let every root's story go on."""
        self._pausing = False
        self._players = [asyncio.create_task(self._play(root)) for root in self.roots]

    async def close(self) -> None:
        """Disconnect, whatever is still being sent."""
        for player in self._players:
            player.cancel()
        await asyncio.gather(*self._players, return_exceptions=True)
        await self._producer.stop()

    def _new_producer(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            bootstrap_servers=self._brokers,
            acks="all",
            enable_idempotence=True,
            request_timeout_ms=GIVE_UP_MS,
            retry_backoff_ms=50,
            max_request_size=4 * 1024 * 1024,
        )

    async def _play(self, root: RandomNamespace) -> None:
        while not self._pausing:
            event = root.next()
            if event["type"] == "user.set" and not self.broadcasts:
                continue
            await self.send(event, root.tokens.get(event["data"].get("token_sha256", "")))
            pause = len(self.roots) / self.rate
            await asyncio.sleep(self._dice.uniform(0.2, 1.8) * pause)

    async def send(self, event: Event, token: Token | None = None) -> SentEvent:
        """Send one event and note it in its root's history once Kafka has it."""
        root = event["partitionkey"]
        sent = time.monotonic()
        await self._deliver(event)
        entry = SentEvent(event, sent, time.monotonic())
        self.histories.setdefault(root, History(root)).events.append(entry)
        if token:
            self.started.append(token)
            self.live[token.job] = token
        elif event["type"] == "job.finished":
            self.live.pop(event["data"]["id"], None)
        return entry

    async def _deliver(self, event: Event) -> None:
        kind, root = EVENT_TYPES[event["type"]], event["partitionkey"]
        places = range(PARTITIONS) if kind.broadcast else [partition_of(root, PARTITIONS)]
        value = json.dumps(event).encode()
        await asyncio.gather(
            *(self.produce(kind.topic, value, root.encode(), place) for place in places)
        )

    async def produce(
        self, topic: str, value: bytes | None, key: bytes, partition: int, headers: Headers = ()
    ) -> None:
        """Send until Kafka has it: an event counts from its acknowledgement on."""
        name = self._prefix + topic
        while True:
            try:
                await self._producer.send_and_wait(
                    name, value, key, partition, headers=list(headers)
                )
            except KafkaError:
                await asyncio.sleep(RETRY_S)
            else:
                return
