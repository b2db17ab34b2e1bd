"""Batches of commands: the same interface for one Redis server and a cluster.

Every function raises `RedisError` if a server that it needs does not answer.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
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

from projector.clients import redis_cluster
from projector.clients.redis_cluster import Cluster, Command, CommandResult

# `redis_client.create_redis` types both as Redis; methods that both have are alike.
Client = Redis | Cluster
Argument = bytes | str | int

# Responses of a server that cannot execute the command now.
_OUTAGES: Final = (ClusterDownError, TryAgainError)


def flat(pairs: Iterable[tuple[str, Argument]]) -> list[Argument]:
    """Return names and values as the arguments of a command or script."""
    return [part for pair in pairs for part in pair]


async def execute(redis: Client, commands: Sequence[Command]) -> list[CommandResult]:
    """Execute the commands in one round trip to each server; the key must be argument 1.

    INFO takes a key as its last argument, which only chooses the server of a cluster.
    A command's own error, such as WRONGTYPE, is returned in place of its result.
    """
    results = await try_execute(redis, commands)
    for result in results:
        if is_outage(result.value):
            raise result.value
    return results


async def try_execute(redis: Client, commands: Sequence[Command]) -> list[CommandResult]:
    """Execute like `execute`; in a cluster the results of a server that is away are its error."""
    if isinstance(redis, Cluster):
        return await redis.execute_each(commands)
    async with redis.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*redis_cluster.words(command))
        pipe.time()
        *values, time = await pipe.execute(raise_on_error=False)
    if isinstance(time, Exception):
        raise time
    seconds, microseconds = time
    now = int(seconds) * 1000 + int(microseconds) / 1000
    return [CommandResult(value, now) for value in values]


def is_outage(value: object) -> bool:
    """Whether the result of a command is the error of a server that cannot execute any."""
    own = isinstance(value, ResponseError) and not isinstance(value, _OUTAGES)
    return isinstance(value, Exception) and not own


async def run_script(
    redis: Client,
    script: AsyncScript,
    keys: Sequence[str],
    shared: Sequence[Argument],
    own: Sequence[Argument],
) -> list[tuple[int, Any]]:
    """Run a script with `shared` arguments and, for each key, equally many of its `own`.

    One server runs it once for all keys, a cluster once for each key. So there may be several
    results, each with the position of its first key.
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
    results = [result.value for result in await redis.execute_each(commands)]
    unknown = [at for at, value in enumerate(results) if isinstance(value, NoScriptError)]
    if unknown:
        await redis.script_load(script.script)
        again = await redis.execute_each([commands[at] for at in unknown])
        for at, result in zip(unknown, again, strict=True):
            results[at] = result.value
    for value in results:
        if isinstance(value, Exception):
            raise value
    return results


async def server_time(redis: Client, key: str) -> int:
    """Return TIME, in ms, of the server that holds the key."""
    (result,) = await execute(redis, [("PTTL", key)])
    return int(result.now)


async def identify(redis: Client, key: str) -> list[CommandResult]:
    """Ask the key's server for its identity and, last, its TIME, in one round trip."""
    # PTTL follows a slot that has moved; INFO is answered by any server.
    return await execute(redis, [("PTTL", key), *redis_cluster.identity_questions(key)])


def place_of(redis: Client, key: str) -> str:
    """Return the address of the cluster's server that holds the key, "" of a single server."""
    node = redis.get_node_from_key(key) if isinstance(redis, Cluster) else None
    return node.name if node else ""


async def barrier(redis: Client) -> None:
    """Ask every primary of a cluster who it is, so that restarts and failovers are noticed."""
    if isinstance(redis, Cluster):
        await redis.barrier()


async def identity_commands(redis: Client) -> list[Command]:
    """Return the commands that bring the identity of the server, or of each that holds slots."""
    if isinstance(redis, Cluster):
        return await redis.identity_commands()
    return list(redis_cluster.identity_questions(""))


async def scan_pages(redis: Client, match: str, count: int) -> AsyncIterator[list[bytes]]:
    """Yield the matching keys of all servers, page by page."""
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
    """Count all keys of the database, also those of other programs."""
    if isinstance(redis, Cluster):
        return await redis.dbsize(target_nodes=Cluster.PRIMARIES)
    return await redis.dbsize()


async def info(redis: Client, section: str) -> list[dict[str, Any]]:
    """Return this section of INFO of every server."""
    if isinstance(redis, Cluster):
        found = await redis.info(section, target_nodes=Cluster.PRIMARIES)
        by_server = all(isinstance(value, dict) for value in found.values())
        return list(found.values()) if by_server else [found]
    return [await redis.info(section)]
