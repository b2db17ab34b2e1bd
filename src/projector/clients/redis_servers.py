"""Restarts and failovers of Redis servers, noticed by their `run_id`."""

import math
import re
from collections import defaultdict
from typing import Final
from weakref import WeakSet

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from projector.clients import redis_batch
from projector.clients.redis_cluster import Cluster
from projector.elapsed import elapsed
from projector.errors import EvictionError

log = structlog.get_logger()

_RUN_ID: Final = re.compile(rb"run_id:(\w+)")
_ROLE: Final = re.compile(rb"role:(\w+)")


class RedisServers:
    """The Redis server that answers, or the servers of a cluster.

    `changes` counts restarts and failovers: after one, acknowledged writes may be lost. Every new
    connection asks for the `run_id`. If another server answers, older connections are closed,
    because the former server may return old values. `met_at` is the last time (seconds of
    `elapsed`) that a server was met: that it answered for the first time, after a restart, or as a
    new primary of a cluster. It may lack what was written before.
    """

    def __init__(self) -> None:
        self.changes = 0
        self.met_at = -math.inf
        self.pool: ConnectionPool | None = None
        self.cluster = False
        self._met: dict[str, float] = {}
        self._run_ids: dict[str, bytes] = {}
        self._connections: dict[str, WeakSet[AbstractConnection]] = defaultdict(WeakSet)
        self._primaries: set[str] = set()

    def met(self, place: str) -> float:
        """Return when this server was last met; `place` is its address in a cluster, or ""."""
        return self._met.get(place, math.inf if self.cluster else -math.inf)

    def meet(self, place: str) -> None:
        """Note that a server answers that may lack what was written before."""
        self.met_at = self._met[place] = elapsed()

    async def on_connect(self, connection: AbstractConnection) -> None:
        """Set a connection up as redis-py does, then compare the server's `run_id`."""
        await connection.on_connect()
        place = _place(connection) if self.cluster else ""
        run_id = await _info_field(connection, "server", _RUN_ID)
        known = self._run_ids.get(place, b"")
        # A server without a `run_id` may be another one at each connection.
        if known != run_id or not run_id:
            self.meet(place)
        self._run_ids[place] = run_id
        older = list(self._connections[place])
        self._connections[place].add(connection)
        if known not in (b"", run_id):
            # No command reads from the replicas of a cluster.
            if not self.cluster or place in self._primaries:
                self._count_change()
            await self._leave(older)

    async def on_connect_primary(self, connection: AbstractConnection) -> None:
        """Set a connection up, and refuse a replica.

        Sentinels may learn of a failover later than the servers.
        """
        await self.on_connect(connection)
        if await _info_field(connection, "replication", _ROLE) == b"slave":
            raise RedisConnectionError("this is a replica now, and the sentinels name no other yet")

    def on_slots_refreshed(self, cluster: Cluster) -> None:
        """Count a new primary as a failover, because it may lack recent writes."""
        primaries = {node.name for node in cluster.get_primaries()}
        new = primaries - self._primaries
        for place in new:
            self.meet(place)
        if new and self._primaries:
            self._count_change()
        self._primaries = primaries

    def _count_change(self) -> None:
        self.changes += 1
        log.warning("Redis was restarted or failed over")

    async def _leave(self, older: list[AbstractConnection]) -> None:
        """Close idle connections; those in use are closed when their users return them."""
        for connection in older:
            connection.mark_for_reconnect()  # type: ignore[no-untyped-call]
        if self.pool:
            await self.pool.disconnect(inuse_connections=False)


async def _info_field(
    connection: AbstractConnection, section: str, field: re.Pattern[bytes]
) -> bytes:
    await connection.send_command("INFO", section)
    found = field.search(await connection.read_response())
    return found.group(1) if found else b""


def _place(connection: AbstractConnection) -> str:
    return f"{connection.host}:{connection.port}"  # type: ignore[attr-defined]


async def refuse_eviction(redis: Redis, place: str) -> None:
    """Raise `EvictionError` if a server may evict keys: an evicted token would get 401."""
    for memory in await redis_batch.memory(redis):
        policy = memory.get("maxmemory_policy", "noeviction")
        if memory.get("maxmemory") and policy != "noeviction":
            raise EvictionError(
                f"Redis at {place} has maxmemory-policy {policy}: it would evict live tokens, and "
                "their jobs would get 401. Set maxmemory-policy noeviction"
            )
