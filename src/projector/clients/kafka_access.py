"""Reasons why Kafka refuses this client; aiokafka reports only a failed bootstrap."""

import asyncio
import ssl
from typing import Final

from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from projector.clients import kafka
from projector.clients.access_errors import causes, tls_reason
from projector.config.env import variable_name
from projector.config.settings import Settings
from projector.errors import AccessError

TIMEOUT_MS: Final = 5000
_TLS_ALERT: Final = 0x15  # first byte of the answer of a TLS server to a client without TLS


async def raise_if_refused(settings: Settings) -> None:
    """Raise `AccessError` if a broker refuses this client or has an untrusted certificate.

    Returns if brokers only do not answer: that is an outage.
    """
    for broker in await _advertised(settings) or settings.brokers:
        if reason := await _refusal(settings, broker):
            raise AccessError(f"Kafka at {broker} {reason}")


async def _advertised(settings: Settings) -> list[str]:
    """Return the addresses that the brokers advertise; empty if none answers."""
    client = AIOKafkaClient(**kafka.client_arguments(settings), request_timeout_ms=TIMEOUT_MS)
    try:
        await client.bootstrap()
        return [f"{broker.host}:{broker.port}" for broker in client.cluster.brokers()]
    except KafkaError:
        return []
    finally:
        await client.close()


async def _refusal(settings: Settings, broker: str) -> str | None:
    """Connect to one broker; return why it refuses, or None."""
    host, _, port = broker.rpartition(":")
    arguments = kafka.client_arguments(settings)
    del arguments["bootstrap_servers"]
    try:
        connection = await create_conn(
            host.strip("[]"), int(port), request_timeout_ms=TIMEOUT_MS, **arguments
        )
    except (KafkaError, OSError, TimeoutError) as error:
        return _reason(error, settings)
    connection.close()
    return None


def _reason(error: BaseException, settings: Settings) -> str | None:
    protocol = f"{variable_name('kafka_security_protocol')}={settings.kafka_security_protocol}"
    for cause in causes(error):
        match cause:
            case SaslAuthenticationFailed():
                return (
                    f"does not know the user {settings.kafka_username} with this password and "
                    f"{settings.kafka_sasl_mechanism}. Set {variable_name('kafka_username')}, "
                    f"{variable_name('kafka_password')} and {variable_name('kafka_sasl_mechanism')}"
                )
            case UnsupportedSaslMechanismError():
                name = variable_name("kafka_sasl_mechanism")
                return f"does not accept {settings.kafka_sasl_mechanism}. Set {name} to another"
            case IllegalSaslStateError():
                return f"takes no user and password at this port, but there is {protocol}"
            case ssl.SSLError():
                return tls_reason(cause, "kafka", variable_name("kafka"))
            case asyncio.IncompleteReadError(expected=int(length)) if length >> 24 == _TLS_ALERT:
                return f"speaks TLS at this port, but there is {protocol}"
    return None
