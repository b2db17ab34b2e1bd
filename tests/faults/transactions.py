"""A producer that sends in transactions, beside the traffic, and lookups of unknown tokens."""

import asyncio
import json
import time
from collections.abc import Sequence
from random import Random
from typing import Final, NamedTuple
from uuid import uuid4

from aiokafka import AIOKafkaProducer

from projector.events.model import EVENT_TYPES
from projector.events.partitioning import partition_of
from tests.faults.namespaces import Event, ScriptedNamespace
from tests.faults.observer import Observer
from tests.integration.deployment import PARTITIONS, PATH

PAUSE_S: Final = (0.5, 3.0)
LOOK_INTERVAL_S: Final = 0.02
CONNECTIONS: Final = 4


class TransactionalProducer:
    """Sends events in transactions; one transaction is open at a time."""

    def __init__(self, kafka: str, prefix: str) -> None:
        self._prefix = prefix
        # A transaction that a test leaves open ends soon.
        self._producer = AIOKafkaProducer(
            bootstrap_servers=kafka, transactional_id=f"{prefix}{uuid4().hex}",
            transaction_timeout_ms=30_000,
        )  # fmt: skip

    async def start(self) -> None:
        await self._producer.start()

    async def stop(self) -> None:
        await self._producer.stop()

    async def begin(self, events: Sequence[Event]) -> None:
        """Begin a transaction with these events; return once Kafka has them."""
        await self._producer.begin_transaction()
        for event in events:
            await self._producer.send_and_wait(
                self._prefix + EVENT_TYPES[event["type"]].topic, json.dumps(event).encode(),
                event["partitionkey"].encode(), partition_of(event["partitionkey"], PARTITIONS),
            )  # fmt: skip

    async def end(self, *, commit: bool) -> None:
        await (
            self._producer.commit_transaction() if commit else self._producer.abort_transaction()
        )


class Transactions:
    """Commits events that change nothing, and aborts grants, until cancelled.

    Each transaction ends in one of every partition of the topics.
    """

    def __init__(
        self, producer: TransactionalProducer, scripted: Sequence[ScriptedNamespace], seed: int
    ) -> None:
        self._producer = producer
        self._scripted = scripted
        self._dice = Random(seed)
        self.committed = 0
        self.aborted = 0

    async def run(self) -> None:
        while True:
            await self._send([
                event
                for each in self._scripted
                for event in (each.foundation()[0], each.foundation()[2], each.started(each.token))
            ], commit=True)  # fmt: skip
            self.committed += 1
            await asyncio.sleep(self._dice.uniform(*PAUSE_S))
            await self._send([each.granted() for each in self._scripted], commit=False)
            self.aborted += 1

    async def _send(self, events: Sequence[Event], *, commit: bool) -> None:
        await self._producer.begin(events)
        await self._producer.end(commit=commit)


class UnknownTokens(NamedTuple):
    """The answers for unknown tokens: seconds until each 401, and the number of all others."""

    when: str
    proven: list[float]
    refused: int

    @property
    def share_refused(self) -> float:
        return self.refused / (self.refused + len(self.proven))

    @property
    def p50(self) -> float:
        return sorted(self.proven)[len(self.proven) // 2]

    def line(self) -> str:
        """Format the figures."""
        ordered = sorted(self.proven)
        p99 = ordered[int(0.99 * (len(ordered) - 1))]
        return (
            f"unknown tokens, {self.when}: {len(ordered) + self.refused} lookups, "
            f"{self.share_refused:.1%} refused, 401 after p50 {self.p50 * 1000:.0f} ms, "
            f"p99 {p99 * 1000:.0f} ms"
        )


async def look_up_unknown(observer: Observer, when: str, seconds: float) -> UnknownTokens:
    """Look unknown tokens up for so long."""
    proven: list[float] = []
    refused = 0

    async def look_up() -> None:
        nonlocal refused
        connection = observer.new_connection()
        try:
            while time.monotonic() < end:
                sent = time.monotonic()
                token = f"unknown-{uuid4().hex}"
                response = await connection.get(PATH, f"Authorization: Bearer {token}")
                if response and response.status == 401:
                    proven.append(time.monotonic() - sent)
                else:
                    refused += 1
                await asyncio.sleep(LOOK_INTERVAL_S)
        finally:
            await connection.close()

    end = time.monotonic() + seconds
    await asyncio.gather(*(look_up() for _ in range(CONNECTIONS)))
    return UnknownTokens(when, proven, refused)
