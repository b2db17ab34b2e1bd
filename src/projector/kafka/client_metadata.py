"""Corrections of what clients of aiokafka take for leaders.

A client keeps its metadata for five minutes, and asks any broker for it: perhaps the very one that
was deposed and does not know it. So a client that names another leader than enough replicas do gets
the metadata of one of those.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.metadata import MetadataRequest

from projector.kafka.broker_connections import FAILURES, BrokerConnections
from projector.kafka.broker_protocol import Leaders

# aiokafka may ask the wrong broker again at any time, and is then corrected after this time.
INTERVAL_S: Final = 0.5


class ClientMetadata:
    """The consumers whose metadata follows the witnesses', each with its event loop."""

    def __init__(self, brokers: BrokerConnections) -> None:
        self._brokers = brokers
        self._clients: WeakKeyDictionary[AIOKafkaClient, _Client] = WeakKeyDictionary()

    def add(self, consumer: AIOKafkaConsumer) -> None:
        """Follow a consumer that runs in the loop of this call."""
        client = consumer._client
        self._clients[client] = _Client(asyncio.get_running_loop())

    def correct(self, agreed: Leaders, answers: Mapping[int, Leaders]) -> None:
        """Correct each client that names other leaders than those that enough replicas named."""
        now = asyncio.get_running_loop().time()
        for client, place in list(self._clients.items()):
            if now >= place.due and not _names(client, agreed):
                place.due = now + INTERVAL_S
                place.correcting = asyncio.create_task(self._update(client, place, agreed, answers))

    async def _update(
        self, client: AIOKafkaClient, place: "_Client", agreed: Leaders,
        answers: Mapping[int, Leaders],
    ) -> None:  # fmt: skip
        request = MetadataRequest(sorted(client.cluster.topics(False)), False)

        async def ask(connection: AIOKafkaConnection) -> Any:
            return await connection.send(request)

        for broker, leaders in answers.items():
            if all(leaders.get(tp) == leader for tp, leader in agreed.items()):
                with suppress(*FAILURES):
                    metadata = await self._brokers.ask(broker, ask)
                    # The loop of a consumer that has ended is closed.
                    with suppress(RuntimeError):
                        place.loop.call_soon_threadsafe(client.cluster.update_metadata, metadata)
                    return


class _Client:
    """The loop of a client, and when it may be corrected next."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.due = 0.0
        self.correcting: asyncio.Task[None] | None = None


def _names(client: AIOKafkaClient, agreed: Leaders) -> bool:
    """Whether the client names these leaders, as far as it knows the topics."""
    named = ((client.cluster.leader_for_partition(tp), each) for tp, each in agreed.items())
    return all(leader in (None, each.leader) for leader, each in named)
