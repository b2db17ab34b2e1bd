"""Many commands at once, to one Redis server or to all those of a cluster.

Whoever calls these does not know which of both it is. All raise `RedisError` where a server that
is needed does not answer.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode
from redis.commands.core import AsyncScript
from redis.exceptions import (
    ClusterDownError,
    NoScriptError,
    ResponseError,
    TryAgainError,
)

from projector.clients.redis_cluster import Cluster, Command, CommandResult

# `connections.redis` calls both a Redis: what both have, both have alike.
Client = Redis | Cluster
Value = bytes | None
Argument = bytes | str | int

# Errors that a server answers with and that are no answer: what they are about is elsewhere.
_NO_ANSWERS: Final = (ClusterDownError, TryAgainError)


async def execute(redis: Client, commands: Sequence[Command]) -> list[CommandResult]:
    """The answers, in one round trip to each server; a command's key follows its name.

    A command's own error, as for a key of another type, stands in its answer's place.
    """
    if isinstance(redis, Cluster):
        answers = await redis.each(commands)
        for answer in answers:
            if isinstance(answer.value, Exception) and not _is_own(answer.value):
                raise answer.value
        return answers
    async with redis.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        pipe.time()
        *values, time = await pipe.execute(raise_on_error=False)
    if isinstance(time, Exception):
        raise time
    seconds, microseconds = time
    now = int(seconds) * 1000 + int(microseconds) / 1000
    return [CommandResult(value, now) for value in values]


def _is_own(error: Exception) -> bool:
    return isinstance(error, ResponseError) and not isinstance(error, _NO_ANSWERS)


async def execute_writes(redis: Client, commands: Sequence[Command]) -> None:
    """As `ask`, for commands that write: raises also a command's own error."""
    for answer in await execute(redis, commands):
        if isinstance(answer.value, Exception):
            raise answer.value


async def get_many(redis: Client, keys: Sequence[str]) -> list[Value | Exception]:
    """What stands under each key; the error in its place where only its server has failed."""
    if isinstance(redis, Cluster):
        return [answer.value for answer in await redis.each([("GET", key) for key in keys])]
    return cast(list[Value | Exception], await redis.mget(keys))


async def run_script(
    redis: Client,
    script: AsyncScript,
    keys: Sequence[str],
    shared: Sequence[Argument],
    own: Sequence[Argument],
) -> list[tuple[int, Any]]:
    """Run the script: keys, arguments that all share, and of their `own` as many for each key.

    At once on one server, and key by key in a cluster; so there may be several results, each with
    the position of the first key that it is about.
    """
    if not isinstance(redis, Cluster):
        return [(0, await script(keys=keys, args=[*shared, *own]))]
    each = len(own) // len(keys)
    commands = [
        ("EVALSHA", script.sha, 1, key, *shared, *own[at * each : (at + 1) * each])
        for at, key in enumerate(keys)
    ]
    return list(enumerate(await _run_each(redis, script, commands)))


async def _run_each(redis: Cluster, script: AsyncScript, commands: Sequence[Command]) -> list[Any]:
    results = [answer.value for answer in await redis.each(commands)]
    unknown = [at for at, result in enumerate(results) if isinstance(result, NoScriptError)]
    if unknown:
        await redis.script_load(script.script)
        again = await redis.each([commands[at] for at in unknown])
        for at, answer in zip(unknown, again, strict=True):
            results[at] = answer.value
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


async def server_time(redis: Client, key: str) -> int:
    """TIME, in ms, of the server that holds the key."""
    (answer,) = await execute(redis, [("PTTL", key)])
    return int(answer.now)


async def barrier(redis: Client) -> None:
    """Return once every server of a cluster has answered, and so told what became of it.

    One server alone tells it with every answer.
    """
    if isinstance(redis, Cluster):
        await redis.prove()


async def barrier_commands(redis: Client) -> list[Command]:
    """What to ask besides, so that every server of a cluster is asked something."""
    return await redis.probes() if isinstance(redis, Cluster) else []


async def scan_pages(redis: Client, match: str, count: int) -> AsyncIterator[list[bytes]]:
    """The keys that match, of all servers, page by page."""
    if isinstance(redis, Cluster):
        await redis.initialize()
        for node in redis.get_primaries():
            async for page in _pages(redis, match, count, node):
                yield page
    else:
        async for page in _pages(redis, match, count):
            yield page


async def _pages(
    redis: Client, match: str, count: int, node: ClusterNode | None = None
) -> AsyncIterator[list[bytes]]:
    cursor = 0
    while True:
        at: dict[str, Any] = {"target_nodes": node} if node else {}
        found, page = await redis.scan(cursor, match=match, count=count, **at)
        yield cast(list[bytes], page)
        cursor = cast(dict[str, int], found)[node.name] if node else found
        if not cursor:
            return


async def key_count(redis: Client) -> int:
    """How many keys there are, those of others too."""
    if isinstance(redis, Cluster):
        return await redis.dbsize(target_nodes=Cluster.PRIMARIES)
    return await redis.dbsize()


async def memory(redis: Client) -> list[dict[str, Any]]:
    """INFO memory of every server."""
    if isinstance(redis, Cluster):
        found = await redis.info("memory", target_nodes=Cluster.PRIMARIES)
        return list(found.values()) if "maxmemory" not in found else [found]
    return [await redis.info("memory")]
