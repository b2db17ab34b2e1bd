"""The topics' `min.insync.replicas`, read from Kafka now and then."""

import asyncio
from collections.abc import Collection
from typing import Final, NoReturn

import structlog
from aiokafka.conn import AIOKafkaConnection

from projector.kafka.broker_connections import FAILURES, BrokerConnections
from projector.kafka.broker_protocol import ask_minimum_in_sync

log = structlog.get_logger()

# With a lower number one replica might acknowledge what no witness knows: the strictest guess.
UNKNOWN: Final = 1
# A number that was lowered counts after this time at the latest.
INTERVAL_S: Final = 10.0


class MinimumInSync:
    """Number of replicas that need a write before Kafka acknowledges it, by topic."""

    def __init__(self, brokers: BrokerConnections, topics: Collection[str]) -> None:
        self._brokers = brokers
        self._topics = topics
        self._known: dict[str, int] = {}

    def of(self, topic: str) -> int:
        """Return the topic's number; `UNKNOWN` if Kafka does not show it."""
        return self._known.get(topic, UNKNOWN)

    async def read(self) -> None:
        """Read the numbers; keep the last ones if no broker answers."""
        try:
            found = await self._brokers.ask_any(self._ask)
        except FAILURES:
            return
        if lost := self._known.keys() - found.keys():
            log.warning("min.insync.replicas is hidden, so all replicas must agree on a leader",
                        topics=sorted(lost), advice="grant DescribeConfigs")  # fmt: skip
        self._known = found

    async def follow(self) -> NoReturn:
        """Read the numbers again and again, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.read()

    async def _ask(self, connection: AIOKafkaConnection) -> dict[str, int]:
        return await ask_minimum_in_sync(connection, self._topics)
