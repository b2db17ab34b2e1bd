"""How this product connects to Redis and Kafka, on the write and on the read side alike."""

import asyncio
from ssl import SSLContext
from typing import Any, Final, cast

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError

from projector.clients.redis_cluster import Cluster
from projector.clients.redis_servers import RedisServers
from projector.config.redis_url import RedisTopology, parse_topology
from projector.config.settings import Settings
from projector.events.partitioning import MAX_PARTITIONS

log = structlog.get_logger()

TIMEOUT_S: Final = 2.0
# They are asked one after the other, and the first may be the one that is gone.
SENTINEL_TIMEOUT_S: Final = 0.5
# Each partition's owner uses three at most, and one worker may own them all.
MAX_CONNECTIONS: Final = 3 * MAX_PARTITIONS


class TlsConnection(SSLConnection):
    """TLS as the settings have it: redis-py itself would trust the system's CAs as well."""

    def __init__(self, *, tls: SSLContext, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ssl_context.context = tls


class TlsManagedConnection(SentinelManagedConnection, TlsConnection):
    """The same to the server that the sentinels name."""


class SentinelPool(SentinelConnectionPool):
    """The connections to the primary that the sentinels name, and those to the sentinels."""

    async def get_master_address(self) -> Any:
        """Host and port; raises the sentinels' own error where none of them can be asked."""
        try:
            return await super().get_master_address()  # type: ignore[no-untyped-call]
        except MasterNotFoundError:
            asked = [each.ping() for each in self.sentinel_manager.sentinels]
            told = await asyncio.gather(*asked, return_exceptions=True)
            if all(isinstance(each, Exception) for each in told):
                raise told[0] from None
            known = f"the sentinels name no primary {self.service_name!r} that is up"
            raise RedisConnectionError(known) from None

    async def aclose(self) -> None:
        """Close both."""
        await super().aclose()
        await self.sentinel_manager.aclose()


def create_redis(settings: Settings, server: RedisServers | None = None) -> Redis:
    """A client that gives up after two seconds; whoever calls it decides about trying again.

    It may be that of a cluster: `calls` has what differs there, all else is alike.
    """
    server = server or RedisServers()
    how = _bounded() | _identity(settings)
    match parse_topology(settings.redis_url):
        case RedisTopology(kind="cluster") as known:
            return cast(Redis, _cluster(settings, server, known, how))
        case RedisTopology() as known:
            pool: ConnectionPool = _sentinels(settings, server, known, how)
        case None:
            pool = ConnectionPool.from_url(
                settings.redis_url, **how, **_patient(), redis_connect_func=server.on_connect
            )
            _trust(pool, settings, TlsConnection)
    server.pool = pool
    return Redis.from_pool(pool)


def _bounded() -> dict[str, Any]:
    return {
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": TIMEOUT_S,
        "max_connections": MAX_CONNECTIONS,
        # Without CLIENT SETINFO: Redis 7.0 knows no right to it, and would log each as refused.
        "driver_info": None,
    }


def _patient() -> dict[str, Any]:
    return {
        "retry": Retry(NoBackoff(), 1),
        # A primary that became a replica keeps its connections: the next one leads elsewhere.
        "retry_on_error": [ReadOnlyError],
    }


def _trust(pool: ConnectionPool, settings: Settings, trusting: type[TlsConnection]) -> None:
    if settings.redis_tls:
        pool.connection_class = trusting
        pool.connection_kwargs["tls"] = settings.redis_tls


def _sentinels(
    settings: Settings, server: RedisServers, known: RedisTopology, how: dict[str, Any]
) -> SentinelPool:
    bounds = {"socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S}
    asked = Sentinel(  # type: ignore[no-untyped-call]
        known.hosts,
        sentinel_kwargs=known.identity
        | bounds
        | {"retry": Retry(NoBackoff(), 0), "driver_info": None},
    )
    for sentinel in asked.sentinels:
        _trust(sentinel.connection_pool, settings, TlsConnection)
    pool = SentinelPool(  # type: ignore[no-untyped-call]
        known.service, asked, db=known.database, **how, **_patient(),
        redis_connect_func=server.greet_primary,
    )  # fmt: skip
    _trust(pool, settings, TlsManagedConnection)
    return pool


def _cluster(
    settings: Settings, server: RedisServers, known: RedisTopology, how: dict[str, Any]
) -> Cluster:
    server.cluster = True
    dress: dict[str, Any] = {"redis_connect_func": server.on_connect}
    if settings.redis_tls:
        dress |= {"connection_class": TlsConnection, "tls": settings.redis_tls}
    retry = Retry(NoBackoff(), 1)
    return Cluster(known.hosts, how | known.identity | {"retry": retry}, dress, server.moved)


def _identity(settings: Settings) -> dict[str, str]:
    """User and password, unless the URL has them: what it says counts for redis-py."""
    username, password = settings.redis_username, settings.redis_secret
    found = {"username": username} if username else {}
    return found | ({"password": password.get_secret_value()} if password else {})
