"""Redis Cluster client: batches of commands, one round trip to each server."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
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

from projector.elapsed import elapsed

Command = Sequence[bytes | str | int]

# A command follows a moving slot this many times; a slot that moves more often is an outage.
ROUNDS: Final = 4
# Between refreshes of the slots, however many calls fail.
REFRESH_PAUSE_S: Final = 0.5


class CommandResult(NamedTuple):
    """A command's result or error, and TIME (ms) of its server after the command.

    `place` is the address of a cluster's server, "" for a single one.
    """

    value: Any
    now: float
    place: str = ""


class _Sent(NamedTuple):
    """A command to one server, at its `position` in the batch.

    `asking`: the server is about to take over the command's slot.
    """

    position: int
    command: Command
    asking: bool


class Cluster(RedisCluster):
    """The client of a cluster. Every outage is a `RedisError`."""

    def __init__(
        self,
        hosts: Sequence[tuple[str, int]],
        arguments: Mapping[str, Any],
        connection_options: Mapping[str, Any],
        on_slots_refreshed: Callable[["Cluster"], None],
        on_barrier: Callable[[list[CommandResult], float], Awaitable[None]],
    ) -> None:
        """Create a client with redis-py's `arguments`.

        `connection_options` are those that redis-py's cluster does not take as arguments.
        `on_slots_refreshed` is called each time that other servers may hold the slots, `on_barrier`
        with every server's answers to the barrier's commands and the time before them.
        """
        events = EventDispatcher()
        super().__init__(
            startup_nodes=[ClusterNode(*host) for host in hosts],
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            event_dispatcher=events,
            **arguments,
        )
        self._set_connection_options(**connection_options)
        self._on_slots_refreshed = on_slots_refreshed
        self._on_barrier = on_barrier
        events.register_listeners(
            {AsyncAfterSlotsCacheRefreshEvent: [_Listener(self._note_refresh)]}
        )
        self._barrier_commands: list[Command] = []
        self._barrier_lock = asyncio.Lock()
        self._last_barrier = 0.0
        self._refreshed = 0.0

    def _set_connection_options(self, connection_class: type | None = None, **options: Any) -> None:
        """Set the options for the startup nodes and later ones, as redis-py does for its own."""
        for node in self.startup_nodes:
            node.connection_kwargs.update(options)
            node.connection_class = connection_class or node.connection_class
        self.connection_kwargs.update(options)
        if connection_class:
            self.connection_kwargs["connection_class"] = connection_class

    async def _note_refresh(self) -> None:
        self._barrier_commands = []
        self._on_slots_refreshed(self)

    async def initialize(self, *args: Any, **kwargs: Any) -> "Cluster":
        """Connect as redis-py does, with a `RedisError` for every outage."""
        with _outages():
            await super().initialize(*args, **kwargs)
        return self

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Execute one command as redis-py does, with a `RedisError` for every outage."""
        with _outages():
            return await super().execute_command(*args, **kwargs)

    async def execute_each(self, commands: Sequence[Command]) -> list[CommandResult]:
        """Execute the commands in one round trip to each server.

        The key must be argument 1, of EVALSHA argument 3. INFO takes a key as its last argument,
        which only chooses the server. Errors are returned in place of results, also those of an
        unavailable server.
        """
        await self.initialize()
        results = [CommandResult(None, 0.0)] * len(commands)
        left: dict[int, AskError | None] = dict.fromkeys(range(len(commands)))
        for attempt in range(ROUNDS):
            await self._round(commands, left, results)
            left = {
                position: value if type(value) is AskError else None
                for position in left
                if _may_try_again(value := results[position].value, attempt)
            }
            if not left:
                break
        lost = CommandResult(
            redis_errors.ConnectionError("slots move faster than commands can follow"), 0.0
        )
        return [lost if isinstance(each.value, AskError) else each for each in results]

    async def _round(
        self,
        commands: Sequence[Command],
        left: Mapping[int, AskError | None],
        results: list[CommandResult],
    ) -> None:
        batches: defaultdict[ClusterNode, list[_Sent]] = defaultdict(list)
        with _outages():
            for position, asking in left.items():
                command = commands[position]
                batches[self._node(command, asking)].append(
                    _Sent(position, command, asking is not None)
                )
        found = await asyncio.gather(*(_run(node, batch) for node, batch in batches.items()))
        for (node, batch), own in zip(batches.items(), found, strict=True):
            for sent, result in zip(batch, own, strict=True):
                results[sent.position] = result
            await self._follow_slots(node, [result.value for result in own])

    def _node(self, command: Command, asking: AskError | None) -> ClusterNode:
        key: Any = command[_KEY_AT.get(command[0], 1)]
        node = self.get_node(asking.host, asking.port) if asking else None
        return node or self.get_node_from_key(key)  # type: ignore[return-value]

    def place_of(self, key: str) -> str:
        """Return the address of the server that holds the key, "" if it is not known."""
        with contextlib.suppress(RedisClusterException):
            if node := self.get_node_from_key(key):
                return node.name
        return ""

    async def _follow_slots(self, node: ClusterNode, values: list[Any]) -> None:
        """Update the slots from the errors of one server, and leave a server that is away."""
        for moved in (each for each in values if isinstance(each, MovedError)):
            await self.nodes_manager.move_slot(moved)
        if away := [each for each in values if isinstance(each, _AWAY)]:
            node.update_active_connections_for_reconnect()
            await node.disconnect_free_connections()
        if away or any(isinstance(each, MovedError) for each in values):
            await self._refresh(node)

    async def _refresh(self, suspect: ClusterNode) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._refreshed >= REFRESH_PAUSE_S:
            self._refreshed = now
            # If this fails, the next call fails too, and reports why.
            with contextlib.suppress(RedisClusterException, RedisError):
                await self.nodes_manager.initialize(last_failed_node_name=suspect.name)

    async def barrier(self) -> None:
        """Ask every server that holds slots who it is, so that failovers are noticed.

        Concurrent calls share their questions. Raises `RedisError`.
        """
        called = elapsed()
        async with self._barrier_lock:
            if self._last_barrier < called:
                began = elapsed()
                answers = await self.execute_each(await self.identity_commands())
                for answer in answers:
                    if isinstance(answer.value, Exception):
                        raise answer.value
                await self._on_barrier(answers, began)
                self._last_barrier = began

    async def identity_commands(self) -> list[Command]:
        """Return the commands that bring the identity of each server that holds slots."""
        keys = [command[1] for command in await self.barrier_commands()]
        return [each for key in keys for each in (("PTTL", key), *identity_questions(key))]

    async def barrier_commands(self) -> list[Command]:
        """Return one harmless command for each server that holds slots."""
        await self.initialize()
        if not self._barrier_commands:
            wanted = {node.name for node, *_ in self.nodes_manager.slots_cache.values()}
            found: dict[str, Command] = {}
            for number in count():
                key = f"allowed-agents:probe:{number}"
                node = self.get_node_from_key(key)
                if node and node.name in wanted:
                    found.setdefault(node.name, ("PTTL", key))
                if len(found) == len(wanted):
                    break
            self._barrier_commands = list(found.values())
        return self._barrier_commands


def identity_questions(key: bytes | str | int) -> tuple[Command, ...]:
    """Return the commands that ask the key's server for its identity."""
    return ("INFO", "server", key), ("INFO", "replication", key)


def words(command: Command) -> Command:
    """Return the command as a server takes it: INFO without the key that chose the server."""
    return command[:-1] if command[0] == "INFO" else command


class _Listener(AsyncEventListenerInterface):
    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call

    async def listen(self, event: object) -> None:  # noqa: ARG002
        await self._call()


# The place of the key in commands that do not have it first.
_KEY_AT: Final[dict[Any, int]] = {"EVALSHA": 3, "INFO": -1}
_AWAY: Final = (redis_errors.ConnectionError, redis_errors.TimeoutError)


def _may_try_again(value: Any, attempt: int) -> bool:
    """Whether the slot has moved, or a first connection had ended whose server may be there."""
    if isinstance(value, AskError | TryAgainError):
        return True
    return isinstance(value, redis_errors.ConnectionError) and attempt == 0


async def _run(node: ClusterNode, batch: Sequence[_Sent]) -> list[CommandResult]:
    own = [PipelineCommand(sent.position, *words(sent.command)) for sent in batch]
    time = PipelineCommand(0, "TIME")
    commands: list[PipelineCommand] = []
    for sent, command in zip(batch, own, strict=True):
        commands += [PipelineCommand(0, "ASKING"), command] if sent.asking else [command]
    try:
        with _outages():
            await node.execute_pipeline([*commands, time])
    except (RedisError, OSError) as error:
        return [CommandResult(error, 0.0, node.name)] * len(batch)
    if isinstance(time.result, Exception):
        return [CommandResult(time.result, 0.0, node.name)] * len(batch)
    seconds, microseconds = time.result
    now = int(seconds) * 1000 + int(microseconds) / 1000
    return [CommandResult(command.result, now, node.name) for command in own]


@contextlib.contextmanager
def _outages() -> Iterator[None]:
    """Raise a `RedisError` for redis-py's errors about a cluster that it cannot reach."""
    try:
        yield
    except RedisClusterException as error:
        raise redis_errors.ConnectionError(str(error)) from error
    except AttributeError as error:
        # redis-py writes in a task of its own. A server that leaves the cluster may have its
        # connections closed before that task runs.
        if (error.obj, error.name) != (None, "writelines"):
            raise
        raise redis_errors.ConnectionError("closed before the command was sent") from error
