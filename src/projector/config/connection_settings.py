"""Settings of the connections to Kafka and Redis: addresses, TLS, credentials."""

from collections.abc import Iterator
from functools import cached_property
from ssl import SSLContext
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings

from projector.config import credentials, redis_url
from projector.config.credentials import File, Identity
from projector.config.env import variable_name

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
Problems = Iterator[tuple[str, str]]


class ConnectionSettings(BaseSettings):
    """The settings that concern Kafka and Redis; `Settings` has them all.

    With TLS, certificates and host names are always checked. Files are read at the start; after a
    change, start again. A server that refuses the password, or shows a certificate that is not
    trusted, ends a command and a starting worker with exit code 2 and a sentence that names the
    setting. A worker or an API that runs already goes on, and logs it. The rights that each role
    needs in Kafka and Redis are in docs/security.md.
    """

    kafka: str = Field(
        default="127.0.0.1:9092", description="Kafka brokers, `host:port`, comma-separated"
    )
    kafka_security_protocol: SecurityProtocol = Field(
        default="PLAINTEXT",
        description="`SSL`: TLS; `SASL_SSL`: TLS, user and password; `SASL_PLAINTEXT`: user and "
        "password, unencrypted (a warning says so)",
    )
    kafka_sasl_mechanism: SaslMechanism = Field(
        default="SCRAM-SHA-512",
        description="how the user and the password are checked, with SASL",
    )
    kafka_username: str | None = Field(
        default=None, min_length=1, description="the user, with SASL"
    )
    kafka_password: SecretStr | None = Field(
        default=None, min_length=1, description="the password, with SASL"
    )
    kafka_password_file: File | None = Field(
        default=None, description="instead of `PROJECTOR_KAFKA_PASSWORD`: a file that holds it"
    )
    kafka_ca_file: File | None = Field(
        default=None,
        description="PEM file with the certificates of those who may sign Kafka's; without it the "
        "system's, with it no others",
    )
    kafka_certificate_file: File | None = Field(
        default=None, description="PEM file with this client's own certificate for Kafka"
    )
    kafka_key_file: File | None = Field(
        default=None, description="PEM file with the key of that certificate, unencrypted"
    )

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        repr=False,
        description="Redis or Valkey: `redis://`, `rediss://` (TLS), `unix://`; the path is the "
        "number of a database. `redis+sentinel://host:26379,host:26379/SERVICE/0`: the primary "
        "that these sentinels name. `redis+cluster://host:6379,host:6379`: a cluster. Both also "
        "with `rediss`",
    )
    redis_username: str | None = Field(
        default=None,
        min_length=1,
        description="the user in Redis, unless the URL names one; what a `+sentinel` URL names is "
        "for the sentinels alone",
    )
    redis_password: SecretStr | None = Field(
        default=None, min_length=1, description="the password of that user, likewise"
    )
    redis_password_file: File | None = Field(
        default=None, description="instead of `PROJECTOR_REDIS_PASSWORD`: a file that holds it"
    )
    redis_ca_file: File | None = Field(
        default=None,
        description="PEM file with the certificates of those who may sign Redis's, with `rediss`; "
        "for sentinels too",
    )
    redis_certificate_file: File | None = Field(
        default=None,
        description="PEM file with this client's own certificate for Redis and for sentinels",
    )
    redis_key_file: File | None = Field(
        default=None, description="PEM file with the key of that certificate, unencrypted"
    )

    @field_validator("kafka")
    @classmethod
    def _host_and_port(cls, brokers: str) -> str:
        if "://" in brokers:
            raise ValueError("must be host:port without a scheme such as http://")
        for broker in brokers.split(","):
            host, _, port = broker.strip().rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError("must be host:port, comma-separated for more than one broker")
        return brokers

    @field_validator("redis_url")
    @classmethod
    def _redis_address(cls, url: str) -> str:
        redis_url.refuse_wrong_url(url)
        return url

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Refuse settings without effect: a protection that is set must be in use."""
        problems = [*_kafka_problems(self), *_redis_problems(self)]
        problems += [*_file_problems(self, "kafka"), *_file_problems(self, "redis")]
        if problems:
            raise ValueError("\n".join(f"{variable_name(field)}: {why}" for field, why in problems))
        # Reads the files now: an unusable file is a wrong setting, not an outage.
        _ = self.kafka_secret, self.kafka_tls, self.redis_secret, self.redis_tls
        return self

    @property
    def brokers(self) -> list[str]:
        """Return the Kafka brokers, each `host:port`."""
        return [broker.strip() for broker in self.kafka.split(",")]

    @property
    def redis_place(self) -> str:
        """Return the address of Redis without its password, for messages."""
        parts = redis_url.split_url(self.redis_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def uses_sasl(self) -> bool:
        """Whether the client sends a user and a password to Kafka."""
        return self.kafka_security_protocol.startswith("SASL_")

    @cached_property
    def kafka_secret(self) -> SecretStr | None:
        """Return the password for Kafka, from its variable or its file."""
        file = self.kafka_password_file
        return credentials.secret("kafka_password_file", file) if file else self.kafka_password

    @cached_property
    def redis_secret(self) -> SecretStr | None:
        """Return the password for Redis, from its variable or its file, not from the URL."""
        file = self.redis_password_file
        return credentials.secret("redis_password_file", file) if file else self.redis_password

    @property
    def has_password_alone(self) -> bool:
        """Whether the client sends a password to Redis without a user."""
        given = redis_url.url_identity(self.redis_url)
        user = self.redis_username or given.get("username")
        return bool(self.redis_secret or given.get("password")) and not user

    @cached_property
    def kafka_tls(self) -> SSLContext | None:
        """Return the TLS context for Kafka; None without TLS."""
        if not self.kafka_security_protocol.endswith("SSL"):
            return None
        files = self.kafka_ca_file, self.kafka_certificate_file, self.kafka_key_file
        return credentials.tls(Identity("kafka", *files))

    @cached_property
    def redis_tls(self) -> SSLContext | None:
        """Return the TLS context for Redis; None without TLS."""
        if not redis_url.split_url(self.redis_url).scheme.startswith("rediss"):
            return None
        files = self.redis_ca_file, self.redis_certificate_file, self.redis_key_file
        return credentials.tls(Identity("redis", *files))


def _kafka_problems(settings: ConnectionSettings) -> Problems:
    protocol = settings.kafka_security_protocol
    reason = f"with {variable_name('kafka_security_protocol')}={protocol}"
    needed = ("kafka_username", "kafka_password") if settings.uses_sasl else ()
    useless: set[str] = set()
    if not settings.uses_sasl:
        useless |= {"kafka_username", "kafka_password", "kafka_password_file"}
        useless |= {"kafka_sasl_mechanism"}
    if not protocol.endswith("SSL"):
        useless |= {"kafka_ca_file", "kafka_certificate_file", "kafka_key_file"}
    for field in sorted(useless & settings.model_fields_set):
        yield field, f"has no effect {reason}"
    for field in needed:
        if not settings.model_fields_set & {field, f"{field}_file"}:
            yield field, f"is needed {reason}"


def _redis_problems(settings: ConnectionSettings) -> Problems:
    given, address = settings.model_fields_set, variable_name("redis_url")
    parts = redis_url.split_url(settings.redis_url)
    if not parts.scheme.startswith("rediss"):
        for field in ("redis_ca_file", "redis_certificate_file", "redis_key_file"):
            if field in given:
                yield field, f"has no effect unless {address} begins with rediss"
    found = redis_url.url_identity(settings.redis_url)
    if "password" in found and settings.redis_password:
        yield "redis_password", f"{address} has a password as well"
    if "password" in found and settings.redis_password_file:
        yield "redis_password_file", f"{address} has a password as well"
    if "username" in found and settings.redis_username:
        yield "redis_username", f"{address} has a user as well"


def _file_problems(settings: ConnectionSettings, server: str) -> Problems:
    """Yield the problems of files that Kafka and Redis have alike, `server` being one of them."""
    given = settings.model_fields_set
    password, certificate, key = (
        f"{server}_{which}" for which in ("password", "certificate_file", "key_file")
    )
    if {password, f"{password}_file"} <= given:
        yield f"{password}_file", f"{variable_name(password)} is set as well"
    for one, other in ((certificate, key), (key, certificate)):
        if one in given and other not in given:
            yield other, f"is needed with {variable_name(one)}"
