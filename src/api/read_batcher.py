"""Redis reads that share round trips: reads that arrive during a round trip go together."""

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


# Reads many keys with one call.
Fetch = Callable[[Sequence[str]], Awaitable[Values]]

MAX_BATCHES: Final = 2
MAX_BATCH: Final = 256
# Bounds the memory of reads that wait while Redis is slow.
MAX_PENDING: Final = 10_000
TIMEOUT_S: Final = 2.0
# A timer for each batch would cost a third of the batch.
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


class ReadBatcher(Reads):
    """Reads keys from Redis, many at a time."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._pending: list[tuple[str, OnValue]] = []
        # Tasks that read until nothing is pending, with the start of their present batch.
        self._readers: dict[asyncio.Task[None], float] = {}
        self._watched = False

    def ask(self, key: str, on_value: OnValue) -> None:
        """Call `on_value` with the value or the error: once, and not before this returns."""
        if len(self._pending) >= MAX_PENDING:
            error = OverloadedError(f"{MAX_PENDING} reads are waiting already")
            asyncio.get_running_loop().call_soon(on_value, error, "", None)
            return
        self._pending.append((key, on_value))
        # Reads that arrive before the reader begins are in its first batch.
        if len(self._pending) == 1:
            self._start()

    def _start(self) -> None:
        if len(self._readers) < MAX_BATCHES:
            task = asyncio.get_running_loop().create_task(self._read())
            self._readers[task] = time.monotonic()
            task.add_done_callback(self._end)
            self._watch()

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._readers[task]
        if self._pending:
            self._start()

    async def _read(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  it is one
        while self._pending:
            batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
            if self._pending:
                self._start()
            self._readers[task] = time.monotonic()
            await self._answer(batch)

    async def _answer(self, batch: list[tuple[str, OnValue]]) -> None:
        metrics.record_read(len(batch))
        try:
            found = await self._fetch([key for key, _ in batch])
        except asyncio.CancelledError:
            _deliver(batch, _failed(batch, TimeoutError(f"no answer within {TIMEOUT_S:g} s")))
            raise
        except Exception as error:  # always reply: a client waits for each read
            _deliver(batch, _failed(batch, error))
        else:
            _deliver(batch, found)

    def _watch(self) -> None:
        """Check every 250 ms, while batches are read, whether one takes too long."""
        if not self._watched:
            self._watched = True
            asyncio.get_running_loop().call_later(WATCH_INTERVAL_S, self._cancel_late)

    def _cancel_late(self) -> None:
        self._watched = False
        for task, since in self._readers.items():
            if time.monotonic() - since > TIMEOUT_S:
                task.cancel()
        if self._readers:
            self._watch()


class SplitReads(Reads):
    """Reads from the servers of a cluster, from each by itself: one may be slow or silent."""

    def __init__(self, fetch: Fetch, server_of: Callable[[str], str]) -> None:
        self._server_of = server_of
        self._each: defaultdict[str, ReadBatcher] = defaultdict(partial(ReadBatcher, fetch))

    def ask(self, key: str, on_value: OnValue) -> None:
        """Call `on_value` with the value or the error: once, and not before this returns."""
        self._each[self._server_of(key)].ask(key, on_value)


def _failed(batch: list[tuple[str, OnValue]], error: Exception) -> Values:
    return Values([error] * len(batch), [""] * len(batch))


def _deliver(batch: list[tuple[str, OnValue]], found: Values) -> None:
    for (_, on_value), value, server in zip(batch, found.values, found.servers, strict=True):
        try:
            on_value(value, server, found.overlay)
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
