"""One connection to each broker, for questions that must not wait for another broker.

aiokafka's client opens its connections one after the other: one broker that does not answer would
hold up the others.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError

from projector.clients import kafka
from projector.config.settings import Settings
from projector.kafka.broker_protocol import Address

log = structlog.get_logger()

CLIENT_NAME: Final = "witness"


class BrokerConnections:
    """Connections by the id of the broker; the settings' addresses until brokers name others."""

    def __init__(self, settings: Settings, *, request_timeout_ms: int) -> None:
        self._arguments = kafka.client_arguments(settings)
        del self._arguments["bootstrap_servers"]
        self._arguments["client_id"] = f"{settings.topic_prefix}projector-{CLIENT_NAME}"
        self._arguments["request_timeout_ms"] = request_timeout_ms
        self._first = [_address(broker) for broker in settings.brokers]
        self._addresses: dict[int, Address] = {}
        self._open: dict[Address, asyncio.Task[AIOKafkaConnection]] = {}

    @property
    def brokers(self) -> frozenset[int]:
        """The ids of the brokers whose addresses are known."""
        return frozenset(self._addresses)

    def learn(self, addresses: Mapping[int, Address]) -> None:
        """Take over the addresses that a broker has named."""
        self._addresses |= addresses

    async def to(self, broker: int) -> AIOKafkaConnection:
        """Return the connection to this broker; raises `KafkaError`, `OSError`, `TimeoutError`."""
        if broker not in self._addresses:
            raise KafkaConnectionError(f"the address of broker {broker} is not known")
        return await self._connection(self._addresses[broker])

    async def to_any(self) -> AIOKafkaConnection:
        """Return a connection to the first broker that answers; raises `KafkaError`."""
        reasons = []
        for address in [*self._addresses.values(), *self._first]:
            try:
                return await self._connection(address)
            except (KafkaError, OSError, TimeoutError) as error:
                reasons.append(f"{address.host}:{address.port}: {error!r}")
        raise KafkaConnectionError(f"no broker answers: {'; '.join(reasons)}")

    async def close(self) -> None:
        """Close every connection."""
        opened, self._open = list(self._open.values()), {}
        for opening in opened:
            opening.cancel()
            if opening.done() and not opening.cancelled() and not opening.exception():
                opening.result().close()
        await asyncio.gather(*opened, return_exceptions=True)

    async def _connection(self, address: Address) -> AIOKafkaConnection:
        """Connect once, however many questions wait for it."""
        opening = self._open.get(address)
        if opening is None or _is_over(opening):
            opening = asyncio.create_task(
                create_conn(address.host, address.port, **self._arguments)
            )
            self._open[address] = opening
        # One question that is given up must not take the connection from the others.
        return await asyncio.shield(opening)


def _is_over(opening: asyncio.Task[AIOKafkaConnection]) -> bool:
    """Whether this connection could not be opened, or is closed."""
    if not opening.done():
        return False
    return opening.cancelled() or bool(opening.exception()) or not opening.result().connected()


def _address(broker: str) -> Address:
    host, _, port = broker.rpartition(":")
    return Address(host.strip("[]"), int(port))
