"""Ids of the topics in Kafka. A topic that is created again has another id."""

import asyncio
from typing import Final

from projector.config.settings import Settings
from projector.events.model import Topic
from projector.kafka.broker_connections import BrokerConnections
from projector.kafka.broker_protocol import ask_leaders, id_of

# Any broker answers within milliseconds.
ASK_S: Final = 2.0


class TopicIds:
    """Asks the brokers for ids, over connections that are kept until `close`."""

    def __init__(self, settings: Settings) -> None:
        self._names = {settings.topic(topic): topic for topic in Topic}
        self._brokers = BrokerConnections(settings, request_timeout_ms=int(ASK_S * 1000))

    async def read(self) -> dict[Topic, str]:
        """Read the ids now; without those of brokers that report none.

        Raises `KafkaError` and `TimeoutError`.
        """
        async with asyncio.timeout(ASK_S):
            answer = await self._brokers.ask_any(lambda each: ask_leaders(each, self._names))
        self._brokers.learn(answer.addresses)
        found = {self._names[tp.topic]: id_of(leader) for tp, leader in answer.leaders.items()}
        return {topic: id_ for topic, id_ in found.items() if id_}

    async def close(self) -> None:
        """Close the connections."""
        await self._brokers.close()


async def read_topic_ids(settings: Settings) -> dict[Topic, str]:
    """Read the ids once; raises `KafkaError` and `TimeoutError`."""
    ids = TopicIds(settings)
    try:
        return await ids.read()
    finally:
        await ids.close()
