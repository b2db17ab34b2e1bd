"""Arguments and start of every aiokafka client, and consumers without a group."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, Protocol, TypeVar

from aiokafka import AIOKafkaConsumer

from projector.config.settings import Settings

Isolation = Literal["read_committed", "read_uncommitted"]

# Records of a transaction count once it is committed; those of an aborted one never do.
COMMITTED: Final[Isolation] = "read_committed"
# The end offsets then include open transactions, whose commit may already be acknowledged.
UNCOMMITTED: Final[Isolation] = "read_uncommitted"


class Client(Protocol):
    """A producer, a consumer, or a reader that is built on them."""

    async def start(self) -> None:
        """Connect to Kafka."""

    async def stop(self) -> None:
        """Disconnect."""


C = TypeVar("C", bound=Client)


async def started(client: C) -> C:
    """Start the client and return it; stop it if that fails, or connections would stay open."""
    try:
        await client.start()
    except BaseException:
        await client.stop()
        raise
    return client


def client_arguments(settings: Settings) -> dict[str, Any]:
    """Return the arguments of every aiokafka client: addresses, TLS, user and password."""
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.brokers,
        "security_protocol": settings.kafka_security_protocol,
        "ssl_context": settings.kafka_tls,
    }
    if settings.uses_sasl:
        assert settings.kafka_secret is not None  # noqa: S101  settings are checked
        arguments["sasl_mechanism"] = settings.kafka_sasl_mechanism
        arguments["sasl_plain_username"] = settings.kafka_username
        arguments["sasl_plain_password"] = settings.kafka_secret.get_secret_value()
    return arguments


def create_consumer(
    settings: Settings,
    name: str,
    *,
    request_timeout_ms: int,
    isolation_level: Isolation = COMMITTED,
    **options: int,
) -> AIOKafkaConsumer:
    """Create a consumer without a group, which commits nothing and moves no group's offsets.

    Offsets that Kafka no longer has raise `OffsetOutOfRangeError`. `name` completes the client id.
    """
    return AIOKafkaConsumer(
        **client_arguments(settings),
        client_id=f"{settings.topic_prefix}projector-{name}",
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        request_timeout_ms=request_timeout_ms,
        isolation_level=isolation_level,
        **options,
    )


@asynccontextmanager
async def open_consumer(
    settings: Settings,
    name: str,
    *,
    request_timeout_ms: int,
    isolation_level: Isolation = COMMITTED,
    **options: int,
) -> AsyncIterator[AIOKafkaConsumer]:
    """Connect such a consumer, and disconnect it at the end; raises `KafkaError`."""
    consumer = create_consumer(
        settings,
        name,
        request_timeout_ms=request_timeout_ms,
        isolation_level=isolation_level,
        **options,
    )
    try:
        await consumer.start()
        # A consumer that is stopped before its tasks have begun raises their cancellation.
        await asyncio.sleep(0)
        yield consumer
    finally:
        await stop_consumer(consumer)


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Disconnect the consumer, also where aiokafka raises its own tasks' cancellation.

    It cancels a fetch under way and awaits it. The caller's task would end as cancelled, silently,
    with the connections still open.
    """
    stopping = asyncio.create_task(consumer.stop())
    try:
        await asyncio.wait({stopping})
    finally:
        stopping.cancel()
    if stopping.cancelled():
        await consumer._client.close()
    else:
        stopping.result()
