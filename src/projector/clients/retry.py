"""Kafka or Redis away: told apart from everything else, outlasted, and said once."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

import structlog
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry,
    retry_if_exception_type,
    wait_exponential_jitter,
)

from projector.clients import access_errors
from projector.errors import AccessError, NotReadyError, TemporaryError

log = structlog.get_logger()
T = TypeVar("T")
P = ParamSpec("P")

OUTAGES: Final = (RedisError, KafkaError, TemporaryError, OSError, TimeoutError)
# An attempt that has not failed for so long has reached its server: no timeout here is longer.
SETTLED_S: Final = 15.0
# An outage that goes on is said again after this time, and then after ever longer ones.
SAID_AGAIN_S: Final = 10.0


def _reason(state: RetryCallState) -> str:
    error = state.outcome.exception() if state.outcome else None
    if reason := access_errors.redis_reason(error):
        return f"Redis {reason}"
    return str(error) or repr(error)


def _server(state: RetryCallState) -> str:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, RedisError):
        return "Redis"
    return "Kafka" if isinstance(error, KafkaError | TemporaryError) else "Kafka or Redis"


class _Outage:
    """A server away, from the first call that fails until none is failing any more."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._began = asyncio.get_running_loop().time()
        self._say_after = 0.0
        self._failing: set[_Call] = set()
        self._partitions: set[int] = set()

    def add(self, call: "_Call", reason: str) -> None:
        """A call of this partition has failed, perhaps once more."""
        self._failing.add(call)
        if call.partition is not None:
            self._partitions.add(call.partition)
        lasted = asyncio.get_running_loop().time() - self._began
        if lasted >= self._say_after:
            first = self._say_after == 0
            self._say_after = max(SAID_AGAIN_S, 2 * lasted)
            if first:
                log.warning("outage", server=self._server, partition=call.partition, reason=reason)
            else:
                log.warning("outage goes on", **self._extent(lasted), reason=reason)

    def remove(self, call: "_Call", *, gave_up: bool) -> None:
        """A call is through, or nobody waits for it any more."""
        self._failing.discard(call)
        if self._failing:
            return
        _outages.pop(self._server, None)
        if not gave_up:
            lasted = asyncio.get_running_loop().time() - self._began
            log.info("outage over", **self._extent(lasted))

    def _extent(self, lasted: float) -> dict[str, Any]:
        return {
            "server": self._server, "partitions": len(self._partitions),
            "seconds": round(lasted, 1),
        }  # fmt: skip


# Of this process, by the name of the server.
_outages: dict[str, _Outage] = {}


class _Call:
    """One call that outlasts outages, and which of them it is in."""

    def __init__(self, partition: int | None) -> None:
        self.partition = partition
        self._outage: _Outage | None = None
        self._settled: asyncio.TimerHandle | None = None

    def failed(self, state: RetryCallState) -> None:
        """Another attempt has failed; the next one follows soon."""
        server = _server(state)
        outage = _outages.get(server) or _outages.setdefault(server, _Outage(server))
        if self._outage is not outage:
            self.over()
        self._outage = outage
        outage.add(self, _reason(state))
        self._stop_waiting()
        wait = state.upcoming_sleep + SETTLED_S
        self._settled = asyncio.get_running_loop().call_later(wait, self.over)

    def over(self, *, gave_up: bool = False) -> None:
        """The call fails no longer, or nobody waits for it any more."""
        self._stop_waiting()
        if self._outage:
            self._outage.remove(self, gave_up=gave_up)
        self._outage = None

    def _stop_waiting(self) -> None:
        if self._settled:
            self._settled.cancel()
        self._settled = None


def retry_outages(method: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Try again until it succeeds, for methods whose work may be done again from the start.

    An outage is one fact: however many calls and partitions it stops, it is logged when it begins
    and when it is over.
    """

    @functools.wraps(method)
    async def outlasting(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except OUTAGES as error:
            call = _Call(getattr(args[0], "partition", None) if args else None)
            return await _outlasted(call, error, lambda: method(*args, **kwargs))

    return outlasting


async def _outlasted(call: _Call, error: Exception, attempt: Callable[[], Awaitable[T]]) -> T:
    """What `attempt` returns at last; its first attempt has failed with `error`."""
    failures = [error]

    async def attempting() -> T:
        # Here the first is told like the others: to prepare for failure costs more than most calls.
        if failures:
            raise failures.pop()
        return await attempt()

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(OUTAGES),
        wait=wait_exponential_jitter(multiplier=0.05, max=2.0, jitter=0.05),
        before_sleep=call.failed,
    )
    try:
        return await retrying(attempting)
    except asyncio.CancelledError:
        call.over(gave_up=True)
        raise
    finally:
        call.over()


async def wait_until_ready(name: str, place: str, reach: Callable[[], Awaitable[T]]) -> T:
    """Try until `reach` succeeds, and say which server does not answer and where it should be.

    A server that answers but refuses this product is not waited for: raises `AccessError`.
    """

    said = ""

    def complain(state: RetryCallState) -> None:
        """Of one reason ever more rarely."""
        nonlocal said
        attempt, reason = state.attempt_number, _reason(state)
        if reason != said or attempt & (attempt - 1) == 0:
            log.warning("not ready, trying again", server=name, place=place, reason=reason)
        said = reason

    @retry(
        retry=retry_if_exception_type((*OUTAGES, NotReadyError)),
        wait=wait_exponential_jitter(multiplier=0.1, max=5.0),
        before_sleep=complain,
    )
    async def attempt() -> T:
        try:
            return await reach()
        except RedisError as error:
            if reason := access_errors.redis_reason(error):
                raise AccessError(f"Redis at {place} {reason}") from None
            raise

    return await attempt()
