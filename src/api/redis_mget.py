"""MGET on kept connections: redis-py's client takes one from its pool for every call."""

from collections.abc import Sequence
from functools import partial
from typing import cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as LostConnectionError

from api.read_batcher import ReadBatcher, Reads, SplitReads, Value, Values
from projector.clients.redis_cluster import Cluster


def create_reads(redis: Redis | Cluster) -> Reads:
    """Create the reads of one server or of a cluster."""
    if isinstance(redis, Cluster):
        return SplitReads(partial(_get_each, redis), redis.place_of)
    return ReadBatcher(Mget(redis))


async def _get_each(cluster: Cluster, keys: Sequence[str]) -> Values:
    """Return the values, and the error of a server in the place of each of its values."""
    results = await cluster.execute_each([("GET", key) for key in keys])
    return Values([each.value for each in results], [each.place for each in results])


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
        return Values(await self._read(keys), [""] * len(keys))

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
