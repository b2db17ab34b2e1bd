"""Retry while Kafka or Redis is unavailable; log each outage once at its start and end."""

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

import structlog
from aiokafka.errors import KafkaConnectionError, KafkaError
from redis.exceptions import RedisError
from tenacity import RetryCallState, retry, retry_if_exception_type, wait_exponential_jitter

from projector.clients.redis_access import redis_reason
from projector.errors import AccessError, NotReadyError, TemporaryError

log = structlog.get_logger()
T = TypeVar("T")
P = ParamSpec("P")

OUTAGES: Final = (RedisError, KafkaError, TemporaryError, OSError, TimeoutError)
# Pauses double up to the longest. The jitter keeps partitions from retrying all at once.
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0
JITTER_S: Final = 0.05
# Between attempts to reach a server at the start.
LONGEST_WAIT_S: Final = 5.0
# An attempt that has not failed for so long has reached its server: no timeout here is longer.
SETTLED_S: Final = 15.0
# An outage that goes on is logged again after this time, and then after ever longer ones.
LOG_AGAIN_S: Final = 10.0


def outage_reason(error: BaseException | None) -> str:
    """Describe an outage as the end of a sentence."""
    if reason := redis_reason(error):
        return f"Redis {reason}"
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    if isinstance(error, KafkaConnectionError) and "Unable to bootstrap" in str(error):
        return "no broker answers"  # aiokafka's text has Python's own notation
    return str(error) or repr(error)


def _server(error: Exception) -> str:
    if isinstance(error, RedisError):
        return "Redis"
    return "Kafka" if isinstance(error, KafkaError | TemporaryError) else "Kafka or Redis"


class _Outage:
    """An unavailable server, from the first call that fails until none is failing any more."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._began = asyncio.get_running_loop().time()
        self._log_after = 0.0
        # The reason of each call's last failure.
        self._failing: dict[Call, str] = {}
        # All that it has stopped so far, for the log.
        self._partitions: set[int] = set()

    def add(self, call: "Call", reason: str) -> None:
        """Note that a call has failed, perhaps once more."""
        self._failing[call] = reason
        if call.partition is not None:
            self._partitions.add(call.partition)
        lasted = asyncio.get_running_loop().time() - self._began
        if lasted >= self._log_after:
            first = self._log_after == 0
            self._log_after = max(LOG_AGAIN_S, 2 * lasted)
            if first:
                log.warning("outage", server=self._server, partition=call.partition, reason=reason)
            else:
                log.warning("outage goes on", **self._extent(lasted), reason=reason)

    def remove(self, call: "Call", *, gave_up: bool) -> None:
        """Note that a call has succeeded or was cancelled."""
        self._failing.pop(call, None)
        if self._failing:
            return
        _outages.pop(self._server, None)
        if not gave_up:
            lasted = asyncio.get_running_loop().time() - self._began
            log.info("outage over", **self._extent(lasted))

    def reason_of(self, partition: int) -> str | None:
        """Return why a call of the partition fails now; None if none does."""
        reasons = (why for call, why in self._failing.items() if call.partition == partition)
        return next(reasons, None)

    def _extent(self, lasted: float) -> dict[str, Any]:
        return {
            "server": self._server, "partitions": len(self._partitions),
            "seconds": round(lasted, 1),
        }  # fmt: skip


# Of this process, by the name of the server.
_outages: dict[str, _Outage] = {}


def outage_of(partition: int) -> str | None:
    """Write the server whose outage stops the partition, and the reason; None without one."""
    found = (f"{name}: {reason}" for name, outage in _outages.items()
             if (reason := outage.reason_of(partition)))  # fmt: skip
    return next(found, None)


class Call:
    """A call that is retried, and the outage that it is in."""

    def __init__(self, partition: int | None) -> None:
        self.partition = partition
        self._outage: _Outage | None = None
        self._settled: asyncio.TimerHandle | None = None

    def fail(self, error: Exception, pause: float, server: str = "") -> None:
        """Note a failed attempt; the next one follows after `pause` seconds.

        `server` was asked; by default the one that the error names.
        """
        server = server or _server(error)
        outage = _outages.get(server) or _outages.setdefault(server, _Outage(server))
        if self._outage is not outage:
            self.end()
        self._outage = outage
        outage.add(self, outage_reason(error))
        self._stop_timer()
        self._settled = asyncio.get_running_loop().call_later(pause + SETTLED_S, self.end)

    def end(self, *, gave_up: bool = False) -> None:
        """Note that the call no longer fails or was cancelled."""
        self._stop_timer()
        if self._outage:
            self._outage.remove(self, gave_up=gave_up)
        self._outage = None

    def _stop_timer(self) -> None:
        if self._settled:
            self._settled.cancel()
        self._settled = None


def retry_outages(method: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Retry until Kafka and Redis answer.

    For methods whose work may be done again from the start. An outage is logged once, however many
    calls and partitions it stops; a method's object may have the attribute `partition`.
    """

    @functools.wraps(method)
    async def retrying(*args: P.args, **kwargs: P.kwargs) -> T:
        # Nothing is prepared before the first failure: that would cost more than most calls.
        try:
            return await method(*args, **kwargs)
        except OUTAGES as error:
            call = Call(getattr(args[0], "partition", None) if args else None)
            return await _retry(call, error, lambda: method(*args, **kwargs))

    return retrying


async def _retry(call: Call, error: Exception, attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeat `attempt`, which has failed with `error`, until it succeeds."""
    base = FIRST_PAUSE_S
    try:
        while True:
            pause = min(LONGEST_PAUSE_S, base + random.uniform(0, JITTER_S))  # noqa: S311
            base = min(LONGEST_PAUSE_S, 2 * base)
            call.fail(error, pause)
            await asyncio.sleep(pause)
            try:
                return await attempt()
            except OUTAGES as again:
                error = again
    except asyncio.CancelledError:
        call.end(gave_up=True)
        raise
    finally:
        call.end()


async def wait_until_ready(name: str, place: str, reach: Callable[[], Awaitable[T]]) -> T:
    """Retry until `reach` succeeds, and log which server at which place does not answer.

    Raises `AccessError` if Redis answers but refuses this client, and all that `reach` raises other
    than outages and `NotReadyError`.
    """
    logged = ""

    def log_failure(state: RetryCallState) -> None:
        """Log a reason when it is new, and then ever more rarely."""
        nonlocal logged
        attempt = state.attempt_number
        reason = outage_reason(state.outcome.exception() if state.outcome else None)
        if reason != logged or attempt & (attempt - 1) == 0:
            log.warning("not ready, trying again", server=name, place=place, reason=reason)
        logged = reason

    @retry(
        retry=retry_if_exception_type((*OUTAGES, NotReadyError)),
        wait=wait_exponential_jitter(multiplier=0.1, max=LONGEST_WAIT_S),
        before_sleep=log_failure,
    )
    async def attempt() -> T:
        try:
            return await reach()
        except RedisError as error:
            if reason := redis_reason(error):
                raise AccessError(f"Redis at {place} {reason}") from None
            raise

    return await attempt()
