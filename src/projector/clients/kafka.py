"""Arguments of every aiokafka client."""

from typing import Any

from projector.config.settings import Settings


def client_arguments(settings: Settings) -> dict[str, Any]:
    """Where Kafka is, whom to trust there and who this is: what every aiokafka client is given."""
    how: dict[str, Any] = {
        "bootstrap_servers": settings.brokers,
        "security_protocol": settings.kafka_security_protocol,
        "ssl_context": settings.kafka_tls,
    }
    if settings.uses_sasl:
        assert settings.kafka_secret is not None  # noqa: S101  settings are checked
        how["sasl_mechanism"] = settings.kafka_sasl_mechanism
        how["sasl_plain_username"] = settings.kafka_username
        how["sasl_plain_password"] = settings.kafka_secret.get_secret_value()
    return how
