"""Restarts and failovers of Redis servers, noticed by their `run_id`."""

import math
import re
import time
from collections import defaultdict
from typing import Final
from weakref import WeakSet

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from projector.clients import redis_batch
from projector.clients.redis_cluster import Cluster
from projector.errors import EvictionError

log = structlog.get_logger()


class RedisServers:
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

    async def on_connect(self, connection: AbstractConnection) -> None:
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
        await self.on_connect(connection)
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
