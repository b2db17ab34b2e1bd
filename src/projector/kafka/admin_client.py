"""aiokafka's admin client, whose questions any broker may answer."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    RequestTimedOutError,
)

from projector.clients import kafka, kafka_access
from projector.config.settings import Settings

# Milliseconds for each broker that is asked.
REQUEST_TIMEOUT_MS: Final = 10_000
# The errors of a broker that is away, where another one may answer.
AWAY: Final = (KafkaConnectionError, NodeNotReadyError, RequestTimedOutError)


class AnyBrokerAdmin(AIOKafkaAdminClient):  # type: ignore[misc]  # it has no types
    """Asks one broker after the other until one answers.

    aiokafka asks one at random. It fails whenever that one is down but still in the metadata.
    """

    async def _send_request(self, request: Any, node_id: int | None = None) -> Any:
        if node_id is not None:
            return await super()._send_request(request, node_id)
        *others, last = self._brokers()
        for broker in others:
            try:
                return await super()._send_request(request, broker)
            except AWAY:
                continue
        return await super()._send_request(request, last)

    def _brokers(self) -> list[int | None]:
        """Return the ids of all known brokers in any order; never nothing."""
        known = [broker.nodeId for broker in self._client.cluster.brokers()]
        return random.sample(known, len(known)) or [None]


@asynccontextmanager
async def open_admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Connect to Kafka for the block; raises `AccessError` and `KafkaError`."""
    admin = AnyBrokerAdmin(
        **kafka.client_arguments(settings), request_timeout_ms=REQUEST_TIMEOUT_MS
    )
    try:
        await admin.start()
        yield admin
    except KafkaError:
        await kafka_access.raise_if_refused(settings)
        raise
    finally:
        await admin.close()
