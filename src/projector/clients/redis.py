"""How this product connects to Redis and Kafka, on the write and on the read side alike."""

import asyncio
import math
import re
import time
from collections import defaultdict
from ssl import SSLContext
from typing import Any, Final, cast
from weakref import WeakSet

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, SSLConnection
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

from projector.clients import redis_batch
from projector.clients.redis_cluster import Cluster
from projector.config.redis_url import Several, several
from projector.config.settings import Settings
from projector.errors import SetupError
from projector.store.schema import MAX_PARTITIONS

log = structlog.get_logger()

TIMEOUT_S: Final = 2.0
# They are asked one after the other, and the first may be the one that is gone.
SENTINEL_TIMEOUT_S: Final = 0.5
# Each partition's owner uses three at most, and one worker may own them all.
MAX_CONNECTIONS: Final = 3 * MAX_PARTITIONS


class EvictionError(SetupError):
    """Redis is set up to forget what it was told."""


class Server:
    """Which Redis server answers; of a cluster, which servers.

    `changes` counts restarts and failovers: after one, writes that were acknowledged may be gone.
    Every new connection asks. Where another server answers, the older connections are given up:
    what the former still says may be old. `met_at` is when one was met that had not been known
    (seconds of this process's clock): nothing can be told from what it did not have before.
    """

    def __init__(self) -> None:
        self.changes = 0
        self.met_at = -math.inf
        self.pool: ConnectionPool | None = None
        self.cluster = False
        self._run_ids: dict[str, bytes] = {}
        self._connections: dict[str, WeakSet[AbstractConnection]] = defaultdict(WeakSet)
        self._primaries: set[str] = set()

    async def greet(self, connection: AbstractConnection) -> None:
        """Begin a connection as redis-py does, then ask who is there."""
        await connection.on_connect()
        place = _place(connection) if self.cluster else ""
        run_id = await _told(connection, "server", _RUN_ID)
        known = self._run_ids.get(place, b"")
        if known != run_id:
            self.met_at = time.monotonic()
        if known not in (b"", run_id):
            # A replica of a cluster holds nothing that anybody reads.
            if not self.cluster or place in self._primaries:
                self._count()
            await self._leave_older(place)
        self._run_ids[place] = run_id
        self._connections[place].add(connection)

    async def greet_primary(self, connection: AbstractConnection) -> None:
        """The same, but for a replica: sentinels may know of a failover later than their server."""
        await self.greet(connection)
        if await _told(connection, "replication", _ROLE) == b"slave":
            raise RedisConnectionError("this is a replica now, and the sentinels name no other yet")

    def moved(self, cluster: Cluster) -> None:
        """Other servers may hold the slots: one that held none before may lack the last writes."""
        primaries = {node.name for node in cluster.get_primaries()}
        if primaries - self._primaries:
            self.met_at = time.monotonic()
            if self._primaries:
                self._count()
        self._primaries = primaries

    def _count(self) -> None:
        self.changes += 1
        log.warning("Redis was restarted or failed over")

    async def _leave_older(self, place: str) -> None:
        """Close the connections that are idle; those in use close when they are given back."""
        for older in self._connections[place]:
            older.mark_for_reconnect()  # type: ignore[no-untyped-call]
        if self.pool:
            await self.pool.disconnect(inuse_connections=False)


_RUN_ID: Final = re.compile(rb"run_id:(\w+)")
_ROLE: Final = re.compile(rb"role:(\w+)")


async def _told(connection: AbstractConnection, section: str, wanted: re.Pattern[bytes]) -> bytes:
    await connection.send_command("INFO", section)
    found = wanted.search(await connection.read_response())
    return found.group(1) if found else b""


def _place(connection: AbstractConnection) -> str:
    return f"{connection.host}:{connection.port}"  # type: ignore[attr-defined]


async def refuse_eviction(redis: Redis, place: str) -> None:
    """Raise `EvictionError` if a server may drop keys: a dropped token would count as unknown."""
    for memory in await redis_batch.memory(redis):
        policy = memory.get("maxmemory_policy", "noeviction")
        if memory.get("maxmemory") and policy != "noeviction":
            raise EvictionError(
                f"Redis at {place} has maxmemory-policy {policy}: it would drop live tokens, and "
                "their jobs would get 401. Set maxmemory-policy noeviction"
            )


class TrustingConnection(SSLConnection):
    """TLS as the settings have it: redis-py itself would trust the system's CAs as well."""

    def __init__(self, *, tls: SSLContext, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ssl_context.context = tls


class TrustingManagedConnection(SentinelManagedConnection, TrustingConnection):
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


def redis(settings: Settings, server: Server | None = None) -> Redis:
    """A client that gives up after two seconds; whoever calls it decides about trying again.

    It may be that of a cluster: `calls` has what differs there, all else is alike.
    """
    server = server or Server()
    how = _bounded() | _identity(settings)
    match several(settings.redis_url):
        case Several(kind="cluster") as known:
            return cast(Redis, _cluster(settings, server, known, how))
        case Several() as known:
            pool: ConnectionPool = _sentinels(settings, server, known, how)
        case None:
            pool = ConnectionPool.from_url(
                settings.redis_url, **how, **_patient(), redis_connect_func=server.greet
            )
            _trust(pool, settings, TrustingConnection)
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


def _trust(pool: ConnectionPool, settings: Settings, trusting: type[TrustingConnection]) -> None:
    if settings.redis_tls:
        pool.connection_class = trusting
        pool.connection_kwargs["tls"] = settings.redis_tls


def _sentinels(
    settings: Settings, server: Server, known: Several, how: dict[str, Any]
) -> SentinelPool:
    bounds = {"socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S}
    asked = Sentinel(  # type: ignore[no-untyped-call]
        known.hosts,
        sentinel_kwargs=known.identity
        | bounds
        | {"retry": Retry(NoBackoff(), 0), "driver_info": None},
    )
    for sentinel in asked.sentinels:
        _trust(sentinel.connection_pool, settings, TrustingConnection)
    pool = SentinelPool(  # type: ignore[no-untyped-call]
        known.service, asked, db=known.database, **how, **_patient(),
        redis_connect_func=server.greet_primary,
    )  # fmt: skip
    _trust(pool, settings, TrustingManagedConnection)
    return pool


def _cluster(settings: Settings, server: Server, known: Several, how: dict[str, Any]) -> Cluster:
    server.cluster = True
    dress: dict[str, Any] = {"redis_connect_func": server.greet}
    if settings.redis_tls:
        dress |= {"connection_class": TrustingConnection, "tls": settings.redis_tls}
    retry = Retry(NoBackoff(), 1)
    return Cluster(known.hosts, how | known.identity | {"retry": retry}, dress, server.moved)


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
