"""How this product connects to Redis and Kafka, on the write and on the read side alike."""

import re
from ssl import SSLContext
from typing import Any, Final
from weakref import WeakSet

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError

from projector.environment.settings import Settings
from projector.errors import SetupError
from projector.views import MAX_PARTITIONS

log = structlog.get_logger()

TIMEOUT_S: Final = 2.0
# Each partition's owner uses three at most, and one worker may own them all.
MAX_CONNECTIONS: Final = 3 * MAX_PARTITIONS


class EvictionError(SetupError):
    """Redis is set up to forget what it was told."""


class Server:
    """Which Redis server answers.

    `changes` counts restarts and failovers: after one, writes that were acknowledged may be gone.
    Every new connection asks. Where another server answers, the older connections are given up:
    what the former still says may be old.
    """

    def __init__(self) -> None:
        self.changes = 0
        self.pool: ConnectionPool | None = None
        self._run_id = b""
        self._connections: WeakSet[AbstractConnection] = WeakSet()

    async def greet(self, connection: AbstractConnection) -> None:
        """Begin a connection as redis-py does, then ask who is there."""
        await connection.on_connect()
        await connection.send_command("INFO", "server")
        found = _RUN_ID.search(await connection.read_response())
        run_id = found.group(1) if found else b""
        if self._run_id not in (b"", run_id):
            self.changes += 1
            log.warning("Redis was restarted or failed over")
            await self._leave_older()
        self._run_id = run_id
        self._connections.add(connection)

    async def _leave_older(self) -> None:
        """Close the connections that are idle; those in use close when they are given back."""
        for older in self._connections:
            older.mark_for_reconnect()  # type: ignore[no-untyped-call]
        if self.pool:
            await self.pool.disconnect(inuse_connections=False)


_RUN_ID: Final = re.compile(rb"run_id:(\w+)")


async def refuse_eviction(redis: Redis, place: str) -> None:
    """Raise `EvictionError` if the server may drop keys: a dropped token would count as unknown."""
    memory = await redis.info("memory")
    policy = memory.get("maxmemory_policy", "noeviction")
    if memory.get("maxmemory") and policy != "noeviction":
        raise EvictionError(
            f"Redis at {place} has maxmemory-policy {policy}: it would drop live tokens, and their "
            "jobs would get 401. Set maxmemory-policy noeviction"
        )


class TrustingConnection(SSLConnection):
    """TLS as the settings have it: redis-py itself would trust the system's CAs as well."""

    def __init__(self, *, tls: SSLContext, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ssl_context.context = tls


def redis(settings: Settings, server: Server | None = None) -> Redis:
    """A client that gives up after two seconds; whoever calls it decides about trying again."""
    server = server or Server()
    pool = ConnectionPool.from_url(
        settings.redis_url,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 1),
        # A primary that became a replica keeps its connections: the next one leads elsewhere.
        retry_on_error=[ReadOnlyError],
        max_connections=MAX_CONNECTIONS,
        redis_connect_func=server.greet,
        # Without CLIENT SETINFO: Redis 7.0 knows no right to it, and would log each as refused.
        driver_info=None,
        **_identity(settings),
    )
    if settings.redis_tls:
        pool.connection_class = TrustingConnection
        pool.connection_kwargs["tls"] = settings.redis_tls
    server.pool = pool
    return Redis.from_pool(pool)


def _identity(settings: Settings) -> dict[str, str]:
    """User and password, unless the URL has them: what it says counts for redis-py."""
    username, password = settings.redis_username, settings.redis_secret
    found = {"username": username} if username else {}
    return found | ({"password": password.get_secret_value()} if password else {})


def kafka(settings: Settings) -> dict[str, Any]:
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


async def redis_time(redis: Redis) -> int:
    """Redis TIME in milliseconds."""
    return milliseconds(*await redis.time())


def milliseconds(seconds: int, microseconds: int) -> int:
    """What TIME answers, in milliseconds."""
    return int(seconds) * 1000 + int(microseconds) // 1000
