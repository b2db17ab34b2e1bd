"""Reads of many keys with one call: MGET, or in a cluster a GET for each.

Every call also reads the overlay: one more key costs a batch of 32 nothing, and a lookup alone 1 us
of Redis.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, cast

import hiredis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.read_batcher import (
    TIMEOUT_S,
    InTasks,
    OnValues,
    ReadBatcher,
    Reads,
    SplitReads,
    Value,
    Values,
)
from api.redis_wire import Wire, take_over
from projector.clients.redis_cluster import Cluster
from projector.store import schema

# Far more than a server takes that answers at all.
OVERLAY_S: Final = 0.25


def create_reads(redis: Redis | Cluster) -> Reads:
    """Create the reads of one server or of a cluster."""
    if isinstance(redis, Cluster):
        return SplitReads(InTasks(ClusterGets(redis)), redis.place_of)
    return ReadBatcher(Mget(redis).start)


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
    """Begins reads of many keys, each with one MGET.

    They go over a wire. Without one, or if the wire has no list for an answer, they go by redis-py.
    That opens the next wire as soon as it has read anything, and so keeps to its own way of
    finding the server, of trying again, and of errors.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._pool = redis.connection_pool
        self._wire: Wire | None = None
        self._by_redis_py = InTasks(self)
        self._opening: asyncio.Task[None] | None = None

    def start(self, keys: Sequence[str], on_values: OnValues) -> Callable[[], object]:
        """Begin to read the keys; the function that is returned gives the read up."""
        wire = self._wire
        if wire is None or not wire.is_usable:
            return self._by_redis_py(keys, on_values)
        # redis-py would pack it in Python, slower than the rest.
        command = hiredis.pack_command(("MGET", *keys, schema.OVERLAY))  # type: ignore[arg-type]
        wire.ask(command, partial(self._finish, keys, on_values))
        # A silent server is silent for the reads behind this one too.
        return wire.close

    def _finish(self, keys: Sequence[str], on_values: OnValues, values: list[Value] | None) -> None:
        if values is None:
            self._by_redis_py(keys, on_values)
        else:
            on_values(_with_overlay(values))

    async def __call__(self, keys: Sequence[str]) -> Values:
        """Read the keys by redis-py; raises `RedisError` or `OSError`."""
        values = cast(list[Value], await self._redis.mget([*keys, schema.OVERLAY]))
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._open())
        return _with_overlay(values)

    async def _open(self) -> None:
        """Open a wire if there is none, and give the connection of the former one back."""
        former = self._wire
        if former is not None and former.is_usable:
            return
        with suppress(RedisError, OSError):  # the next read by redis-py meets it too
            if former is not None:
                self._wire = None
                former.close()
                # The pool closes a connection that is marked.
                former.connection.mark_for_reconnect()  # type: ignore[no-untyped-call]
                await self._pool.release(former.connection)
            connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
            self._wire = await take_over(connection)
            if self._wire is None:
                await self._pool.release(connection)


def _with_overlay(values: list[Value]) -> Values:
    overlay = values.pop()
    return Values(values, [""] * len(values), overlay)
