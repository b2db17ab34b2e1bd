"""MGET on kept connections: redis-py's client takes one from its pool for every call.

Every call also reads the overlay: one more key costs a batch of 32 nothing, and a lookup alone 1 us
of Redis.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as LostConnectionError
from redis.exceptions import RedisError

from api.read_batcher import TIMEOUT_S, ReadBatcher, Reads, SplitReads, Value, Values
from projector.clients.redis_cluster import Cluster
from projector.store import schema

# Far more than a server takes that answers at all.
OVERLAY_S: Final = 0.25


def create_reads(redis: Redis | Cluster) -> Reads:
    """Create the reads of one server or of a cluster."""
    if isinstance(redis, Cluster):
        return SplitReads(ClusterGets(redis), redis.place_of)
    return ReadBatcher(Mget(redis))


class ClusterGets:
    """Reads many keys of a cluster's server, and at the same time the overlay from its own.

    Without an answer in `OVERLAY_S` there is no overlay, and none of the lookups waits while that
    answer is still to come: one silent server must not keep those of the others from answering.
    The bound of staleness holds all the same.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._late: set[asyncio.Task[Value]] = set()

    async def __call__(self, keys: Sequence[str]) -> Values:
        """Return the values, and the error of a server in the place of each of its values."""
        reading = self._cluster.execute_each([("GET", key) for key in keys])
        results, overlay = await asyncio.gather(reading, self._overlay())
        return Values([each.value for each in results], [each.place for each in results], overlay)

    async def _overlay(self) -> Value:
        if self._late:
            return None
        reading = asyncio.create_task(self._read_overlay())
        await asyncio.wait({reading}, timeout=OVERLAY_S)
        if reading.done():
            return reading.result()
        self._late.add(reading)
        reading.add_done_callback(self._late.discard)
        return None

    async def _read_overlay(self) -> Value:
        with suppress(RedisError, OSError):
            async with asyncio.timeout(TIMEOUT_S):
                (result,) = await self._cluster.execute_each([("GET", schema.OVERLAY)])
                return result.value if isinstance(result.value, bytes) else None
        return None


class Mget:
    """Reads many keys with one MGET. The caller bounds the time; redis-py's timers are off.

    A connection that fails, or is marked because another server answers, goes back to the pool,
    where redis-py handles it.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._pool = redis.connection_pool
        self._timeout = self._pool.connection_kwargs.get("socket_timeout")
        self._kept: list[AbstractConnection] = []

    async def __call__(self, keys: Sequence[str]) -> Values:
        """Return the values in the order of the keys; raises `RedisError` or `OSError`."""
        *values, overlay = await self._read([*keys, schema.OVERLAY])
        return Values(values, [""] * len(keys), overlay)

    async def _read(self, keys: Sequence[str]) -> list[Value]:
        connection = await self._take()
        try:
            await connection.send_packed_command(_packed("MGET", *keys))
            values = cast(list[Value], await connection.read_response())
        except LostConnectionError:
            await self._give_back(connection)
            return cast(list[Value], await self._redis.mget(keys))
        except BaseException:
            await self._give_back(connection)
            raise
        self._kept.append(connection)
        return values

    async def _take(self) -> AbstractConnection:
        while self._kept:
            kept = self._kept.pop()
            if not kept.should_reconnect():  # type: ignore[no-untyped-call]
                return kept
            await self._give_back(kept)
        taken = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        taken.socket_timeout = None
        return cast(AbstractConnection, taken)

    async def _give_back(self, connection: AbstractConnection) -> None:
        connection.socket_timeout = self._timeout
        await self._pool.release(connection)


def _packed(*command: str) -> bytes:
    """Pack the command with hiredis; redis-py would pack it in Python, slower than the rest."""
    return cast(bytes, hiredis.pack_command(command))  # type: ignore[arg-type]
