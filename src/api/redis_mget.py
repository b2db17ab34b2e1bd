"""Reads of many keys with one call: MGET, or in a cluster a GET for each.

Every call also reads the overlay: one more key costs a batch of 32 nothing, and a lookup alone 1 us
of Redis.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
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
    Start,
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
    answer is still to come. One silent server must not keep those of the others from answering.
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
        try:
            await asyncio.wait({reading}, timeout=OVERLAY_S)
        finally:
            # Behind a cancellation too: the event loop alone may lose a task that is under way.
            if not reading.done():
                self._late.add(reading)
                reading.add_done_callback(self._late.discard)
        return reading.result() if reading.done() else None

    async def _read_overlay(self) -> Value:
        # Any error: redis-py's cluster raises others than its own while slots move. Those would
        # fail the records, which have come.
        with suppress(Exception):
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
        read = _WireRead(wire, self._by_redis_py, keys, on_values)
        # redis-py would pack it in Python, slower than the rest.
        command = hiredis.pack_command(("MGET", *keys, schema.OVERLAY))  # type: ignore[arg-type]
        wire.ask(command, read.finish)
        return read.give_up

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
            try:
                self._wire = await take_over(connection)
            finally:
                if self._wire is None:
                    await self._pool.release(connection)


class _WireRead:
    """A read over a wire, or by redis-py once the wire has no list of its values."""

    __slots__ = ("_by_redis_py", "_end", "_is_given_up", "_keys", "_on_values", "_wire")

    def __init__(
        self, wire: Wire, by_redis_py: Start, keys: Sequence[str], on_values: OnValues
    ) -> None:
        self._wire = wire
        self._by_redis_py = by_redis_py
        self._keys = keys
        self._on_values = on_values
        self._is_given_up = False
        # A server that is silent for this read is silent for those behind it too.
        self._end: Callable[[], object] = wire.close

    def finish(self, values: list[Value] | None) -> None:
        """Hand on the wire's reply, or ask by redis-py for a read that has none."""
        if self._is_given_up:
            return
        if values is not None and len(values) != len(self._keys) + 1:
            # It may be the reply to another command, and so may those behind it.
            values = None
            self._wire.close()
        if values is None:
            self._end = self._by_redis_py(self._keys, self._on_values)
        else:
            self._on_values(_with_overlay(values))

    def give_up(self) -> None:
        """End the wire, or the read by redis-py if that has begun."""
        self._is_given_up = True
        self._end()


def _with_overlay(values: list[Value]) -> Values:
    overlay = values.pop()
    return Values(values, [""] * len(values), overlay)
