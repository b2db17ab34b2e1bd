"""Redis reads that share round trips: reads that arrive during a round trip go together.

A batch needs no task and no timer of its own. Together they cost as much as a lookup.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import structlog

from api import metrics

log = structlog.get_logger()

Value = bytes | None
# Called with the value of a read, or its error, with the server that it came from, and with the
# overlay as of then.
OnValue = Callable[[Value | Exception, str, Value], None]


class Values(NamedTuple):
    """The values of many keys, an error in the place of one that failed, and their servers.

    `overlay` was read with them, see `projector.store.overlay`; None without one.
    """

    values: Sequence[Value | Exception]
    servers: Sequence[str]
    overlay: Value = None


class Read(NamedTuple):
    """The value of one key, the server that it came from, and the overlay as of then."""

    value: Value
    server: str
    overlay: Value


# Called once, with the values or the error of all.
OnValues = Callable[[Values | Exception], None]
# Begins to read many keys with one call, and returns a function that gives the call up.
Start = Callable[[Sequence[str], OnValues], Callable[[], object]]
# Reads many keys with one call.
Fetch = Callable[[Sequence[str]], Awaitable[Values]]

MAX_BATCHES: Final = 2
MAX_BATCH: Final = 256
# Bounds the memory of reads that wait while Redis is slow.
MAX_PENDING: Final = 10_000
TIMEOUT_S: Final = 2.0
WATCH_INTERVAL_S: Final = 0.25


class OverloadedError(Exception):
    """More reads wait than `MAX_PENDING`."""


class Reads(ABC):
    """Reads keys from Redis."""

    @abstractmethod
    def ask(self, key: str, on_value: OnValue) -> None:
        """Call `on_value` with the value or the error: once, and not before this returns."""

    async def get(self, key: str) -> Read:
        """Return the key's value.

        Raises `RedisError`, `OSError` or `OverloadedError`.
        """
        result: asyncio.Future[Read] = asyncio.get_running_loop().create_future()
        self.ask(key, partial(_resolve, result))
        return await result


class _Batch:
    """Reads under way, since when, and what gives them up."""

    def __init__(self, keys: Sequence[str], on_values: Sequence[OnValue]) -> None:
        self.keys = keys
        self.on_values = on_values
        self.since = time.monotonic()
        self.give_up: Callable[[], object] = _nothing


class ReadBatcher(Reads):
    """Reads keys from Redis, many at a time."""

    def __init__(self, start: Start) -> None:
        self._start = start
        # Of the reads that wait, in their order.
        self._keys: list[str] = []
        self._on_values: list[OnValue] = []
        self._under_way: list[_Batch] = []
        self._called = False
        self._watched = False

    def ask(self, key: str, on_value: OnValue) -> None:
        """Call `on_value` with the value or the error: once, and not before this returns."""
        if len(self._keys) >= MAX_PENDING:
            error = OverloadedError(f"{MAX_PENDING} reads are waiting already")
            asyncio.get_running_loop().call_soon(on_value, error, "", None)
            return
        self._keys.append(key)
        self._on_values.append(on_value)
        # Reads that arrive in the same turn of the event loop are in one batch.
        if not self._called and len(self._under_way) < MAX_BATCHES:
            self._called = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._called = False
        while self._keys and len(self._under_way) < MAX_BATCHES:
            batch = _Batch(self._keys[:MAX_BATCH], self._on_values[:MAX_BATCH])
            del self._keys[:MAX_BATCH], self._on_values[:MAX_BATCH]
            self._under_way.append(batch)
            metrics.record_read(len(batch.keys))
            try:
                batch.give_up = self._start(batch.keys, partial(self._finish, batch))
            except Exception as error:  # or the batch would keep its place for good
                asyncio.get_running_loop().call_soon(self._finish, batch, error)
        if self._under_way and not self._watched:
            self._watch()

    def _finish(self, batch: _Batch, found: Values | Exception) -> None:
        """Deliver what came, unless the batch was given up."""
        if batch in self._under_way:
            self._under_way.remove(batch)
            _deliver(batch, found)
            self._send()

    def _watch(self) -> None:
        """Check every 250 ms, while batches are read, whether one takes too long."""
        self._watched = True
        asyncio.get_running_loop().call_later(WATCH_INTERVAL_S, self._give_up_late)

    def _give_up_late(self) -> None:
        self._watched = False
        now = time.monotonic()
        for batch in [batch for batch in self._under_way if now - batch.since > TIMEOUT_S]:
            self._under_way.remove(batch)
            batch.give_up()
            _deliver(batch, TimeoutError(f"no answer within {TIMEOUT_S:g} s"))
        self._send()


class SplitReads(Reads):
    """Reads from the servers of a cluster, from each by itself: one may be slow or silent."""

    def __init__(self, start: Start, server_of: Callable[[str], str]) -> None:
        self._server_of = server_of
        self._each: defaultdict[str, ReadBatcher] = defaultdict(partial(ReadBatcher, start))

    def ask(self, key: str, on_value: OnValue) -> None:
        """Call `on_value` with the value or the error: once, and not before this returns."""
        self._each[self._server_of(key)].ask(key, on_value)


class InTasks:
    """A `Start` that reads by calls that must be awaited."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, keys: Sequence[str], on_values: OnValues) -> Callable[[], object]:
        """Begin to read; the function that is returned cancels it."""
        task = asyncio.get_running_loop().create_task(self._read(keys, on_values))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task.cancel

    async def _read(self, keys: Sequence[str], on_values: OnValues) -> None:
        found: Values | Exception
        try:
            found = await self._fetch(keys)
        except asyncio.CancelledError:
            on_values(TimeoutError("the read was cancelled"))
            raise
        except Exception as error:  # always reply: a client waits for each read
            found = error
        on_values(found)


def _nothing() -> None: ...


def _deliver(batch: _Batch, found: Values | Exception) -> None:
    # It may lead back to the batch: only the garbage collector would free them.
    batch.give_up = _nothing
    if isinstance(found, Exception):
        found = Values([found] * len(batch.keys), [""] * len(batch.keys))
    overlay = found.overlay
    for on_value, value, server in zip(batch.on_values, found.values, found.servers, strict=True):
        try:
            on_value(value, server, overlay)
        except Exception as error:  # one failure must not keep the others waiting
            # The error's text may hold a secret, so only its type is logged.
            log.error("a lookup failed", error=type(error).__name__)  # noqa: TRY400


def _resolve(
    result: asyncio.Future[Read], value: Value | Exception, server: str, overlay: Value
) -> None:
    if result.done():
        return
    if isinstance(value, Exception):
        result.set_exception(value)
    else:
        result.set_result(Read(value, server, overlay))
