"""One connection to each broker, for questions that must not wait for another broker.

aiokafka's client opens its connections one after the other: one broker that does not answer would
hold up the others.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, TypeVar

from aiokafka.conn import AIOKafkaConnection, CloseReason, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError

from projector.clients import kafka
from projector.config.settings import Settings
from projector.kafka.broker_protocol import Address

CLIENT_NAME: Final = "witness"
FAILURES: Final = (KafkaError, OSError, TimeoutError)

T = TypeVar("T")
Question = Callable[[AIOKafkaConnection], Awaitable[T]]


class BrokerConnections:
    """Connections by the id of the broker; the settings' addresses until brokers name others."""

    def __init__(self, settings: Settings, *, request_timeout_ms: int) -> None:
        self._arguments = kafka.client_arguments(settings)
        del self._arguments["bootstrap_servers"]
        self._arguments["client_id"] = f"{settings.topic_prefix}projector-{CLIENT_NAME}"
        self._arguments["request_timeout_ms"] = request_timeout_ms
        self._first = [_address(broker) for broker in settings.brokers]
        self._addresses: dict[int, Address] = {}
        self._opened: dict[Address, asyncio.Task[AIOKafkaConnection]] = {}

    def learn(self, addresses: Mapping[int, Address]) -> None:
        """Take over the addresses of brokers that are new, or were not found where they were."""
        self._addresses = {**addresses, **self._addresses}

    def is_at_its_address(self, broker: int, addresses: Mapping[int, Address]) -> bool:
        """Whether the broker itself, by the addresses that it names, is where it was asked.

        After a move another broker may listen there, and its word would count twice.
        """
        asked_at = self._addresses.get(broker)
        if [number for number, place in addresses.items() if place == asked_at] == [broker]:
            return True
        self._addresses.pop(broker, None)
        return False

    async def ask(self, broker: int, question: Question[T]) -> T:
        """Ask one broker; raises `KafkaError`, `OSError` and `TimeoutError`."""
        address = self._addresses.get(broker)
        if address is None:
            raise KafkaConnectionError(f"the address of broker {broker} is not known")
        try:
            await self._connection(address)
        except FAILURES:
            # Other brokers may name another one, of a broker that has moved.
            self._addresses.pop(broker, None)
            raise
        return await self._ask_at(address, question)

    async def ask_any(self, question: Question[T]) -> T:
        """Ask all known brokers; return the first answer. Raises `KafkaConnectionError`."""
        places = {*self._addresses.values(), *self._first}
        asked = {asyncio.create_task(self._ask_at(place, question)) for place in places}
        try:
            for first in asyncio.as_completed(asked):
                with suppress(*FAILURES):
                    return await first
        finally:
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        named = ", ".join(f"{place.host}:{place.port}" for place in sorted(places))
        raise KafkaConnectionError(f"no broker answers at {named}")

    async def close(self) -> None:
        """Close every connection."""
        opened, self._opened = list(self._opened.values()), {}
        for opening in opened:
            opening.cancel()
        for connection in await asyncio.gather(*opened, return_exceptions=True):
            if not isinstance(connection, BaseException):
                connection.close(reason=CloseReason.SHUTDOWN)

    async def _ask_at(self, address: Address, question: Question[T]) -> T:
        connection = await self._connection(address)
        try:
            return await question(connection)
        except TimeoutError:
            # Answers come in order, so the next one would wait behind this one.
            connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
            raise

    async def _connection(self, address: Address) -> AIOKafkaConnection:
        """Return the connection; open one, however many questions wait for it."""
        opening = self._opened.get(address)
        if opening is None or _is_over(opening):
            opening = asyncio.create_task(_open(address, self._arguments))
            self._opened[address] = opening
        # A question that is given up must not take the connection from the others.
        return await asyncio.shield(opening)


async def _open(address: Address, arguments: Mapping[str, object]) -> AIOKafkaConnection:
    return await create_conn(address.host, address.port, **arguments)


def _is_over(opening: asyncio.Task[AIOKafkaConnection]) -> bool:
    """Whether the connection could not be opened, or is closed."""
    if not opening.done():
        return False
    return opening.cancelled() or bool(opening.exception()) or not opening.result().connected()


def _address(broker: str) -> Address:
    host, _, port = broker.rpartition(":")
    return Address(host.strip("[]"), int(port))
