"""Restarts, failovers and clocks of Redis servers, noticed by what the servers answer."""

import math
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakSet

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from projector.clients import redis_batch
from projector.clients.redis_cluster import Cluster, CommandResult
from projector.clients.trusted_clock import (
    HOLD_S,
    JUMPED,
    TOLERANCE_MS,
    ClockError,
    TrustedClock,
    Verdict,
)
from projector.elapsed import elapsed
from projector.errors import EvictionError

log = structlog.get_logger()

_RUN_ID: Final = re.compile(rb"run_id:(\w+)")
_REPLICATION_ID: Final = re.compile(rb"master_replid:(\w+)")
ANONYMOUS: Final = " "  # the identity of a server that reports none
_ROLE: Final = re.compile(rb"role:(\w+)")


class RedisServers:
    """The Redis server that answers, or the servers of a cluster.

    `changes` counts restarts and failovers, after which acknowledged writes may be lost, and the
    ends of clock jumps, by which keys may have expired too early. A server is known by its
    `run_id`, which a restart changes, and its replication id, which a promotion changes. Every new
    connection asks for both, and so does every `note`, since a proxy may keep connections over a
    failover. If another server answers, older connections are closed, because the former server
    may return old values. `met_at` is the last time (seconds of `elapsed`) that a server was met:
    that it answered for the first time, after a restart, or as a new primary of a cluster. It may
    lack what was written before.
    """

    def __init__(self) -> None:
        self.changes = 0
        self.met_at = -math.inf
        self.pool: ConnectionPool | None = None
        self.cluster = False
        # By the address of a cluster's server; one server has the address "".
        self._met: dict[str, float] = {}
        self._identities: dict[str, str] = {}
        self._clocks: dict[str, TrustedClock] = {}
        self._connections: dict[str, WeakSet[AbstractConnection]] = defaultdict(WeakSet)
        self._primaries: set[str] = set()

    def met(self, place: str) -> float:
        """Return when this server was last met; `place` is its address in a cluster, or ""."""
        return self._met.get(place, math.inf if self.cluster else -math.inf)

    def meet(self, place: str) -> None:
        """Note that a server answers that may lack what was written before."""
        self.met_at = self._met[place] = elapsed()

    async def on_connect(self, connection: AbstractConnection) -> None:
        """Set a connection up as redis-py does, then compare the server's identity."""
        await self._connect(connection)

    async def on_connect_primary(self, connection: AbstractConnection) -> None:
        """Set a connection up, and refuse a replica.

        Sentinels may learn of a failover later than the servers.
        """
        if await self._connect(connection) == "slave":
            raise RedisConnectionError("this is a replica now, and the sentinels name no other yet")

    async def _connect(self, connection: AbstractConnection) -> str:
        """Set a connection up, meet its server, and return the server's role."""
        await connection.on_connect()
        place = _place(connection) if self.cluster else ""
        server, replication = [await _info(connection, s) for s in ("server", "replication")]
        older = list(self._connections[place])
        self._connections[place].add(connection)
        identity = f"{_field(server, _RUN_ID)} {_field(replication, _REPLICATION_ID)}"
        await self._compare(place, identity, older)
        return _field(replication, _ROLE)

    def on_slots_refreshed(self, cluster: Cluster) -> None:
        """Count a new primary as a failover, because it may lack recent writes."""
        primaries = {node.name for node in cluster.get_primaries()}
        new = primaries - self._primaries
        for place in new:
            self.meet(place)
            self._identities.pop(place, None)
        if new and self._primaries:
            self._count_other_server()
        self._primaries = primaries

    def identity(self, place: str) -> str:
        """Return the identity of the server there, as scripts compute it.

        "" if it is unknown, or if the server hides a part of it.
        """
        identity = self._identities.get(place, "")
        return identity if all(identity.partition(" ")) else ""

    def expected_time(self, place: str) -> float | None:
        """Return the believed TIME (ms) of the server there; None if it is not known."""
        clock = self._clocks.get(place)
        return clock.expected(elapsed()) if clock else None

    async def note(self, answers: Sequence[CommandResult], sent: float) -> None:
        """Note the servers and clocks in answers to `redis_batch.identify`.

        `sent` is when they were asked, by `elapsed`. Raises `ClockError` if a clock is not
        believed; the same call notices when it is again. Late answers are no readings of clocks:
        the process may have slept, and any step would fit in.
        """
        received = elapsed()
        await self.note_servers(answers)
        if received - sent > TOLERANCE_MS / 1000:
            return
        times = {answer.place: answer.now for answer in answers}
        believed = [self._note_time(place, now, sent, received) for place, now in times.items()]
        if not all(believed):
            raise ClockError(f"{JUMPED}, and is not believed before {HOLD_S:g} s")

    async def note_servers(self, answers: Sequence[CommandResult]) -> None:
        """Note the servers alone; answers without an identity are left out."""
        infos: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for answer in answers:
            infos[answer.place].update(answer.value if isinstance(answer.value, dict) else {})
        for place, info in infos.items():
            if "run_id" in info and "master_replid" in info:
                identity = f"{info['run_id']} {info['master_replid']}"
                await self._compare(place, identity, list(self._connections[place]))

    def _note_time(self, place: str, reading: float, sent: float, received: float) -> bool:
        clock = self._clocks.setdefault(place, TrustedClock(time.time() * 1000, received))
        ahead = round(clock.distance(reading, received) / 1000, 1)
        verdict = clock.note(reading, sent, received)
        if verdict is Verdict.JUMPED:
            # Here, as a command does without: it costs 20 ms.
            from projector import metrics  # noqa: PLC0415

            metrics.CLOCK_JUMPS.inc()
            log.error("Redis' clock jumped, partitions stay stale", server=place, ahead_s=ahead,
                      believed_after_s=HOLD_S)  # fmt: skip
        if verdict.ends_jump:
            self.changes += 1
            log.warning("Redis' clock is believed again", server=place, jump=verdict.value)
        return verdict.is_believed

    async def _compare(self, place: str, identity: str, older: list[AbstractConnection]) -> None:
        """Compare the server that answers at this place with the one before.

        If it is another one, the `older` connections are closed.
        """
        known = self._identities.get(place, "")
        self._identities[place] = identity
        # A server without an identity may be another one at each connection.
        if known == identity != ANONYMOUS:
            return
        self.meet(place)
        if known not in ("", identity):
            # No command reads from the replicas of a cluster.
            if not self.cluster or place in self._primaries:
                self._count_other_server()
            await self._leave(older)

    def _count_other_server(self) -> None:
        self.changes += 1
        log.warning("another Redis server answers")

    async def _leave(self, older: list[AbstractConnection]) -> None:
        """Close idle connections; those in use are closed when their users return them."""
        for connection in older:
            connection.mark_for_reconnect()  # type: ignore[no-untyped-call]
        if self.pool:
            await self.pool.disconnect(inuse_connections=False)


async def _info(connection: AbstractConnection, section: str) -> bytes:
    await connection.send_command("INFO", section)
    answer: bytes = await connection.read_response()
    return answer


def _field(info: bytes, field: re.Pattern[bytes]) -> str:
    found = field.search(info)
    return found.group(1).decode() if found else ""


def _place(connection: AbstractConnection) -> str:
    return f"{connection.host}:{connection.port}"  # type: ignore[attr-defined]


async def refuse_eviction(redis: Redis, place: str) -> None:
    """Raise `EvictionError` if a server may evict keys: an evicted token would get 401."""
    for memory in await redis_batch.info(redis, "memory"):
        policy = memory.get("maxmemory_policy", "noeviction")
        if memory.get("maxmemory") and policy != "noeviction":
            raise EvictionError(
                f"Redis at {place} has maxmemory-policy {policy}: it would evict live tokens, and "
                "their jobs would get 401. Set maxmemory-policy noeviction"
            )
