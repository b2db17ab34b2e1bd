"""A Redis Cluster: its keys are spread over several servers, and each of these may change."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final, NamedTuple

from redis import exceptions as redis_errors
from redis.asyncio.cluster import ClusterNode, PipelineCommand, RedisCluster
from redis.event import (
    AsyncAfterSlotsCacheRefreshEvent,
    AsyncEventListenerInterface,
    EventDispatcher,
)
from redis.exceptions import AskError, MovedError, RedisClusterException, RedisError, TryAgainError
from redis.maint_notifications import MaintNotificationsConfig

Command = Sequence[bytes | str | int]

# A command follows a slot that moves, but not for ever.
ROUNDS: Final = 4
# However many calls fail, the servers are asked no more often who holds what.
REFRESH_PAUSE_S: Final = 0.5


class CommandResult(NamedTuple):
    """What a command brought, or its own error, and TIME (ms) of its server after it."""

    value: Any
    now: float


class _Sent(NamedTuple):
    """A command to one server; `asking` where its slot is only about to be there."""

    position: int
    command: Command
    asking: bool


class Cluster(RedisCluster):
    """The client of a cluster. All its troubles are `RedisError`s."""

    def __init__(
        self,
        hosts: Sequence[tuple[str, int]],
        how: Mapping[str, Any],
        dress: Mapping[str, Any],
        moved: Callable[["Cluster"], None],
    ) -> None:
        """Connect by the arguments `how`, and `dress`, for which redis-py has none.

        `moved` is called whenever other servers may hold the slots than before.
        """
        events = EventDispatcher()
        super().__init__(
            startup_nodes=[ClusterNode(*host) for host in hosts],
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            event_dispatcher=events,
            **how,
        )
        self._dress(**dress)
        self._moved = moved
        events.register_listeners({AsyncAfterSlotsCacheRefreshEvent: [_Listener(self._forget)]})
        self._probes: list[Command] = []
        self._proving = asyncio.Lock()
        self._proved_from = 0.0
        self._refreshed = 0.0

    def _dress(self, connection_class: type | None = None, **how: Any) -> None:
        """What redis-py itself does for notifications: later nodes, and those it begins with."""
        for node in self.startup_nodes:
            node.connection_kwargs.update(how)
            node.connection_class = connection_class or node.connection_class
        self.connection_kwargs.update(how)
        if connection_class:
            self.connection_kwargs["connection_class"] = connection_class

    async def _forget(self) -> None:
        self._probes = []
        self._moved(self)

    async def initialize(self, *args: Any, **kwargs: Any) -> "Cluster":
        """As redis-py has it, but what is an outage is a `RedisError`."""
        with _outages():
            await super().initialize(*args, **kwargs)
        return self

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """The same of every single command."""
        with _outages():
            return await super().execute_command(*args, **kwargs)

    async def each(self, commands: Sequence[Command]) -> list[CommandResult]:
        """Every command's answer, in one round trip to each server.

        The key follows the command's name, or of EVALSHA its digest and the number 1. Errors stand
        in place of answers, those of a server that is away too.
        """
        await self.initialize()
        answers = [CommandResult(None, 0.0)] * len(commands)
        left: dict[int, AskError | None] = dict.fromkeys(range(len(commands)))
        for attempt in range(ROUNDS):
            await self._round(commands, left, answers)
            left = {
                position: found if type(found) is AskError else None
                for position in left
                if _may_try_again(found := answers[position].value, attempt)
            }
            if not left:
                break
        lost = CommandResult(
            redis_errors.ConnectionError("slots move faster than one can follow"), 0.0
        )
        return [lost if isinstance(each.value, AskError) else each for each in answers]

    async def _round(
        self,
        commands: Sequence[Command],
        left: Mapping[int, AskError | None],
        answers: list[CommandResult],
    ) -> None:
        batches: defaultdict[ClusterNode, list[_Sent]] = defaultdict(list)
        with _outages():
            for position, asking in left.items():
                command = commands[position]
                batches[self._node(command, asking)].append(
                    _Sent(position, command, asking is not None)
                )
        found = await asyncio.gather(*(_run(node, batch) for node, batch in batches.items()))
        for (node, batch), answered in zip(batches.items(), found, strict=True):
            for sent, answer in zip(batch, answered, strict=True):
                answers[sent.position] = answer
            await self._learn(node, [answer.value for answer in answered])

    def _node(self, command: Command, asking: AskError | None) -> ClusterNode:
        key: Any = command[3] if command[0] == "EVALSHA" else command[1]
        node = self.get_node(asking.host, asking.port) if asking else None
        return node or self.get_node_from_key(key)  # type: ignore[return-value]

    async def _learn(self, node: ClusterNode, found: list[Any]) -> None:
        """Who holds which slots, from the errors of one server."""
        for moved in (each for each in found if isinstance(each, MovedError)):
            await self.nodes_manager.move_slot(moved)
        if away := [each for each in found if isinstance(each, _AWAY)]:
            node.update_active_connections_for_reconnect()
            await node.disconnect_free_connections()
        if away or any(isinstance(each, MovedError) for each in found):
            await self._refresh(node)

    async def _refresh(self, suspect: ClusterNode) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._refreshed >= REFRESH_PAUSE_S:
            self._refreshed = now
            # What it failed to find out the next call will miss too, and say.
            with contextlib.suppress(RedisClusterException, RedisError):
                await self.nodes_manager.initialize(last_failed_node_name=suspect.name)

    async def prove(self) -> None:
        """Return once every server that holds slots has answered a question asked after the call.

        It still holds them then, and whatever became of it is noticed. Raises `RedisError`.
        """
        called = asyncio.get_running_loop().time()
        async with self._proving:
            if self._proved_from < called:
                began = asyncio.get_running_loop().time()
                for answer in await self.each(await self.probes()):
                    if isinstance(answer.value, Exception):
                        raise answer.value
                self._proved_from = began

    async def probes(self) -> list[Command]:
        """A harmless question to each server that holds slots."""
        await self.initialize()
        if not self._probes:
            wanted = {node.name for node, *_ in self.nodes_manager.slots_cache.values()}
            found: dict[str, Command] = {}
            for number in count():
                key = f"allowed-agents:probe:{number}"
                node = self.get_node_from_key(key)
                if node and node.name in wanted:
                    found.setdefault(node.name, ("PTTL", key))
                if len(found) == len(wanted):
                    break
            self._probes = list(found.values())
        return self._probes


class _Listener(AsyncEventListenerInterface):
    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call

    async def listen(self, event: object) -> None:  # noqa: ARG002
        await self._call()


_AWAY: Final = (redis_errors.ConnectionError, redis_errors.TimeoutError)


def _may_try_again(found: Any, attempt: int) -> bool:
    """Where a slot has moved; and once where a connection had ended: its server may be there."""
    if isinstance(found, AskError | TryAgainError):
        return True
    return isinstance(found, redis_errors.ConnectionError) and attempt == 0


async def _run(node: ClusterNode, batch: Sequence[_Sent]) -> list[CommandResult]:
    own = [PipelineCommand(sent.position, *sent.command) for sent in batch]
    time = PipelineCommand(0, "TIME")
    commands: list[PipelineCommand] = []
    for sent, command in zip(batch, own, strict=True):
        commands += [PipelineCommand(0, "ASKING"), command] if sent.asking else [command]
    try:
        await node.execute_pipeline([*commands, time])
    except (RedisError, OSError) as error:
        return [CommandResult(error, 0.0)] * len(batch)
    if isinstance(time.result, Exception):
        return [CommandResult(time.result, 0.0)] * len(batch)
    seconds, microseconds = time.result
    now = int(seconds) * 1000 + int(microseconds) / 1000
    return [CommandResult(command.result, now) for command in own]


@contextlib.contextmanager
def _outages() -> Iterator[None]:
    """Make a `RedisError` of what redis-py says of a cluster that it cannot reach or understand."""
    try:
        yield
    except RedisClusterException as error:
        raise redis_errors.ConnectionError(str(error)) from error
