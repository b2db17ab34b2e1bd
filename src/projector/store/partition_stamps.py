"""Redis TIME and stamps of all partitions that one process owns, in few round trips.

Owners ask and stamp at common moments (`joined_calls`). TIME is that of the one server, so one
reading serves all; in a cluster each partition's server has its own. Each stamp stays a call of the
script with its own claim, revision and server, and is refused by itself.

A stamp may be written after its owner was cancelled. It is true all the same: what is below it was
applied and written before, and the script compares all that may have changed since.
"""

import asyncio
from itertools import islice
from typing import Final, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError

from projector.clients import redis_batch
from projector.clients.redis_batch import Argument
from projector.clients.redis_servers import RedisServers
from projector.clients.trusted_clock import TOLERANCE_MS, ClockError
from projector.elapsed import elapsed
from projector.joined_calls import Calls, JoinedCalls
from projector.store import lua_scripts, schema

# A long step of another partition may make one answer late; a claim must not begin again for it.
READINGS: Final = 3
# One stamp blocks Redis for some 50 us; lookups must not wait for all of a worker's partitions.
STAMPS_PER_CALL: Final = 16


class Stamp(NamedTuple):
    """The keys and arguments of one partition's stamp."""

    keys: tuple[str, str]
    args: tuple[Argument, ...]


class PartitionStamps:
    """TIME and stamps for the stores of one process."""

    def __init__(self, redis: Redis, server: RedisServers) -> None:
        self._redis = redis
        self._server = server
        self._script = redis.register_script(lua_scripts.STAMP)
        self._times: JoinedCalls[str, int] = JoinedCalls(self._read_times)
        self._stamps: JoinedCalls[Stamp, bytes] = JoinedCalls(self._write)

    async def now(self, key: str) -> int:
        """Return TIME (ms) of the key's server, read after this call.

        Restarts and failovers before it are noticed. Raises `RedisError`, and `ClockError` while a
        server's clock is not believed.
        """
        if self._server.cluster:
            return await self._read_time(key)
        return await self._times.ask(schema.PARTITIONS_KEY)

    async def stamp(self, stamp: Stamp) -> bytes:
        """Run the script, and return its outcome; raises `RedisError`."""
        return await self._stamps.ask(stamp)

    async def _read_times(self, calls: Calls[str, int]) -> None:
        for key in calls:
            calls.answer(key, await self._read_time(key))

    async def _read_time(self, key: str) -> int:
        for _ in range(READINGS):
            sent = elapsed()
            answers = await redis_batch.identify(self._redis, key)
            if elapsed() - sent <= TOLERANCE_MS / 1000:
                await self._server.note(answers, sent)
                await redis_batch.barrier(self._redis)
                return int(answers[0].now)
        raise ClockError("it answers too late to compare clocks")

    async def _write(self, calls: Calls[Stamp, bytes]) -> None:
        stamps = iter(calls)
        while portion := list(islice(stamps, STAMPS_PER_CALL)):
            commands = [("EVALSHA", self._script.sha, 2, *s.keys, *s.args) for s in portion]
            results = await redis_batch.try_execute(self._redis, commands)
            for stamp, result in zip(portion, results, strict=True):
                if not isinstance(result.value, Exception):
                    calls.answer(stamp, result.value)
        await asyncio.gather(*(self._write_alone(stamp, calls) for stamp in calls))

    async def _write_alone(self, stamp: Stamp, calls: Calls[Stamp, bytes]) -> None:
        """Repeat a stamp that failed, by the client's own way.

        It loads a script that the server has lost, and leaves a server that is a replica now.
        """
        try:
            calls.answer(stamp, await self._script(keys=stamp.keys, args=stamp.args))
        except (RedisError, OSError, TimeoutError) as error:
            calls.fail(stamp, error)
