"""Clients of Redis: pools, timeouts, TLS, and the primary that sentinels name."""

import asyncio
from ssl import SSLContext
from typing import Any, Final, cast

from redis.asyncio import Connection, ConnectionPool, Redis
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
from projector.clients.redis_packing import packing_in_c
from projector.clients.redis_servers import RedisServers
from projector.config.redis_url import RedisTopology, parse_topology
from projector.config.settings import Settings
from projector.events.partitioning import MAX_PARTITIONS

TIMEOUT_S: Final = 2.0
# The client asks sentinels one after the other, and the first may be unavailable.
SENTINEL_TIMEOUT_S: Final = 0.5
# Each partition's owner uses at most three, and one worker may own all partitions.
MAX_CONNECTIONS: Final = 3 * MAX_PARTITIONS


class TlsConnection(SSLConnection):
    """TLS of the settings; redis-py itself would trust the system's CAs as well."""

    def __init__(self, *, tls: SSLContext, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ssl_context.context = tls


class TlsManagedConnection(SentinelManagedConnection, TlsConnection):
    """TLS of the settings to the server that the sentinels name."""


class SentinelPool(SentinelConnectionPool):
    """Connections to the sentinels, and to the primary that they name."""

    async def get_master_address(self) -> Any:
        """Return host and port; raises a sentinel's own error if none of them answers."""
        try:
            return await super().get_master_address()  # type: ignore[no-untyped-call]
        except MasterNotFoundError:
            pings = [each.ping() for each in self.sentinel_manager.sentinels]
            results = await asyncio.gather(*pings, return_exceptions=True)
            if all(isinstance(each, Exception) for each in results):
                raise results[0] from None
            reason = f"the sentinels do not name a primary {self.service_name!r} that is up"
            raise RedisConnectionError(reason) from None

    async def aclose(self) -> None:
        """Close both kinds of connections."""
        await super().aclose()
        await self.sentinel_manager.aclose()


def create_redis(settings: Settings, server: RedisServers | None = None) -> Redis:
    """Create a client whose calls fail after two seconds; callers decide about retries.

    May return a cluster client; use `redis_batch` for commands about several keys.
    """
    server = server or RedisServers()
    arguments = _limits() | _identity(settings)
    match parse_topology(settings.redis_url):
        case RedisTopology(kind="cluster") as topology:
            return cast(Redis, _cluster(settings, server, topology, arguments))
        case RedisTopology() as topology:
            pool: ConnectionPool = _sentinel_pool(settings, server, topology, arguments)
        case None:
            pool = ConnectionPool.from_url(
                settings.redis_url, **arguments, **_retries(), redis_connect_func=server.on_connect
            )
            _use_tls(pool, settings, TlsConnection)
    pool.connection_class = packing_in_c(pool.connection_class)
    server.pool = pool
    return Redis.from_pool(pool)


def _limits() -> dict[str, Any]:
    return {
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": TIMEOUT_S,
        "max_connections": MAX_CONNECTIONS,
        # Without CLIENT SETINFO: Redis 7.0 has no right for it, and logs each one as refused.
        "driver_info": None,
    }


def _retries() -> dict[str, Any]:
    return {
        "retry": Retry(NoBackoff(), 1),
        # A primary that became a replica keeps its connections; a new one leads to the primary.
        "retry_on_error": [ReadOnlyError],
    }


def _use_tls(pool: ConnectionPool, settings: Settings, connection: type[TlsConnection]) -> None:
    if settings.redis_tls:
        pool.connection_class = connection
        pool.connection_kwargs["tls"] = settings.redis_tls


def _sentinel_pool(
    settings: Settings, server: RedisServers, topology: RedisTopology, arguments: dict[str, Any]
) -> SentinelPool:
    limits = {"socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S}
    manager = Sentinel(  # type: ignore[no-untyped-call]
        topology.hosts,
        sentinel_kwargs=topology.identity
        | limits
        | {"retry": Retry(NoBackoff(), 0), "driver_info": None},
    )
    for sentinel in manager.sentinels:
        _use_tls(sentinel.connection_pool, settings, TlsConnection)
    pool = SentinelPool(  # type: ignore[no-untyped-call]
        topology.service, manager, db=topology.database, **arguments, **_retries(),
        redis_connect_func=server.on_connect_primary,
    )  # fmt: skip
    _use_tls(pool, settings, TlsManagedConnection)
    return pool


def _cluster(
    settings: Settings, server: RedisServers, topology: RedisTopology, arguments: dict[str, Any]
) -> Cluster:
    server.cluster = True
    options: dict[str, Any] = {"redis_connect_func": server.on_connect}
    connection: type[Connection] = Connection
    if settings.redis_tls:
        options["tls"] = settings.redis_tls
        connection = TlsConnection
    options["connection_class"] = packing_in_c(connection)
    arguments = arguments | topology.identity | {"retry": Retry(NoBackoff(), 1)}
    return Cluster(topology.hosts, arguments, options, server.on_slots_refreshed, server.note)


def _identity(settings: Settings) -> dict[str, str]:
    """Return user and password of the settings; redis-py prefers those of the URL."""
    username, password = settings.redis_username, settings.redis_secret
    found = {"username": username} if username else {}
    return found | ({"password": password.get_secret_value()} if password else {})
