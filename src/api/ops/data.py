"""Data of the operators' page, read in the background and shared by all viewers."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from aiokafka.errors import KafkaConnectionError, KafkaError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.ops.activity_minutes import read_minutes
from api.ops.auth import AccessRefusedError
from api.ops.background import BackgroundLoop, CachedCall
from api.ops.letter_groups import group_letters
from api.ops.partition_rows import fold_workers, listed_partitions
from projector.clients import redis_client
from projector.config.settings import Settings
from projector.errors import (
    OperatorError,
    PartitionCountError,
    TemporaryError,
    TooManyFactsError,
    UnknownJobError,
)
from projector.operators import explain
from projector.operators.dead_letters import reader
from projector.operators.diagnosis.no_status import missing_status, redis_unreachable
from projector.operators.kafka_lag import EndOffsetPoller
from projector.operators.status import deployment_of, read_status
from projector.operators.status_model import Cause, Status
from projector.store import replay_marks

T = TypeVar("T")

STATUS_KEPT_S: Final = 0.5
# An outage must show within ten seconds, and so must its end.
STATUS_MOST_KEPT_S: Final = 1.0
MINUTES_KEPT_S: Final = 5.0
LETTERS_KEPT_S: Final = 5.0
LETTERS_MOST_KEPT_S: Final = 30.0
TIMEOUT_S: Final = 5.0
LETTERS_TIMEOUT_S: Final = 6.0
MARKS_TIMEOUT_S: Final = 1.0
EXPLANATION_TIMEOUT_S: Final = 15.0
MOST_LETTERS: Final = 100
# Stop polling Kafka after this long without a viewer.
IDLE_S: Final = 30.0
# Explanations that may wait for the one under way.
MAX_WAITING: Final = 4
# About a second of decoding; for more facts use `projector explain`.
MOST_FACTS: Final = 200_000
# Bounds the size of one answer; every partition is some 300 bytes.
MAX_SHOWN: Final = 2000
# Kafka's first answer after a pause may take so long, within `TIMEOUT_S`.
KAFKA_PATIENCE_S: Final = 2.0

CountLookups = Callable[[], Mapping[str, int]]


class BackgroundSource:
    """Reads Redis and Kafka for the page, only while it has viewers.

    `count_lookups` returns how many lookups this API has answered, by status; it may be slow.
    """

    def __init__(self, settings: Settings, count_lookups: CountLookups | None = None) -> None:
        self._settings = settings
        # The page shows an outage of Kafka; the log need not repeat it.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        self._background = BackgroundLoop()
        self._reader = _Reader(settings, count_lookups)
        self._status = CachedCall(
            lambda: self._run(self._reader.status(), TIMEOUT_S), STATUS_KEPT_S, STATUS_MOST_KEPT_S
        )
        self._minutes = CachedCall(
            lambda: self._run(self._reader.minutes(), TIMEOUT_S), MINUTES_KEPT_S, MINUTES_KEPT_S
        )
        # Kafka's client may need a moment to give up, beyond the reader's own bound.
        patience = 2 * LETTERS_TIMEOUT_S
        self._letters = CachedCall(
            lambda: self._run(self._reader.letters(), patience), LETTERS_KEPT_S, LETTERS_MOST_KEPT_S
        )
        self._explaining = asyncio.Lock()
        self._waiting = 0
        # When Redis answered last (ms of this machine). Forgotten without viewers.
        self._answered: int | None = None
        self._asked_at = -math.inf

    async def status(self, *, every_partition: bool) -> dict[str, Any]:
        """Return `projector status --json` with workers folded, `minutes` and `lookups`.

        `now` is the time (ms) by Redis' clock, or by this machine's while Redis is away. Then
        there are `causes` and `deployment` alone. `read_ago` (s) is the age of the data.
        """
        if time.monotonic() - self._asked_at > IDLE_S:
            self._answered = None
        self._asked_at = time.monotonic()
        try:
            found = await self._status.get()
            minutes = await self._minutes.get()
        except RedisRefusedError as error:
            return self._without_status(error.cause)
        self._answered = round(time.time() * 1000)
        read_ago = time.monotonic() - found.read_at
        partitions = found.partitions[every_partition]
        return found.rest | {
            "now": found.rest["at"] + round(read_ago * 1000),
            "read_ago": read_ago,
            "partitions": partitions,
            "minutes": minutes,
        }

    def _without_status(self, cause: Cause) -> dict[str, Any]:
        since = msgspec.structs.replace(cause, since=self._answered)
        return {
            "now": round(time.time() * 1000),
            "read_ago": None,
            "causes": [msgspec.to_builtins(since)],
            "deployment": msgspec.to_builtins(deployment_of(self._settings)),
        }

    async def letters(self) -> dict[str, Any]:
        """Return the latest dead letters, or an `error` if Kafka cannot be reached."""
        return await self._letters.get()

    async def explanation(self, job: int, agent: int | None) -> dict[str, Any]:
        """Return `projector explain --json`, one at a time: each reads a whole partition."""
        if self._waiting >= MAX_WAITING:
            raise AccessRefusedError(503, "others are asking right now; try again in a moment")
        self._waiting += 1
        try:
            async with self._explaining:
                work = self._reader.explanation(job, agent)
                return await self._run(work, EXPLANATION_TIMEOUT_S)
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """Close the connections and end the thread."""
        await self._background.close(self._reader.close(), TIMEOUT_S)

    async def _run(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        address = self._settings.redis_place
        try:
            return await self._background.run(work, seconds)
        except (UnknownJobError, TooManyFactsError) as error:
            raise AccessRefusedError(
                404 if isinstance(error, UnknownJobError) else 422, str(error)
            ) from None
        except TimeoutError:
            reason = f"Redis at {address} has not answered within {seconds:g} s; try again"
            raise RedisRefusedError(redis_unreachable(reason, None)) from None
        except (RedisError, OSError, PartitionCountError) as error:
            raise RedisRefusedError(missing_status(address, error, None)) from None
        except OperatorError as error:
            raise AccessRefusedError(503, str(error)) from None


class RedisRefusedError(AccessRefusedError):
    """Redis does not answer, refuses this client, or lacks the number of partitions."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(503, cause.detail or cause.what)
        self.cause = cause


class StatusReading(NamedTuple):
    """A status as JSON: the partitions that are not fresh, then every partition, and the rest.

    `read_at` is the monotonic time of the reading.
    """

    read_at: float
    partitions: tuple[list[Any], list[Any]]
    rest: dict[str, Any]


class _Reader:
    """Runs in the background loop, and holds the connections that belong to it."""

    def __init__(self, settings: Settings, count_lookups: CountLookups | None) -> None:
        self._settings = settings
        self._count_lookups = count_lookups
        self._redis: Redis | None = None
        self._poller = EndOffsetPoller(settings)
        self._polling: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._latest: Status | None = None

    async def status(self) -> StatusReading:
        self._keep_polling()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KAFKA_PATIENCE_S):
                await self._poller.first()
        self._latest = found = await read_status(
            self._client(), self._settings, self._poller.answer
        )
        rest = msgspec.to_builtins(msgspec.structs.replace(found, partitions=[], workers=[]))
        rest["workers"] = msgspec.to_builtins(fold_workers(found))
        rest["lookups"] = self._count_lookups and self._count_lookups()
        listed = listed_partitions(found.partitions), found.partitions[:MAX_SHOWN]
        return StatusReading(time.monotonic(), msgspec.to_builtins(listed), rest)

    async def minutes(self) -> list[dict[str, Any]]:
        if self._latest is None:
            return []
        return await read_minutes(self._client(), self._latest.totals.partitions, self._latest.at)

    async def letters(self) -> dict[str, Any]:
        places: dict[str, str] = {}
        # Without the marks no letter counts as replayed.
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(MARKS_TIMEOUT_S):
                places = await replay_marks.read_marks(self._client())
        return await read_letters(self._settings, places)

    async def explanation(self, job: int, agent: int | None) -> dict[str, Any]:
        found = await explain.explain_job(
            self._client(), self._settings, job, agent, most_facts=MOST_FACTS
        )
        return dict(msgspec.to_builtins(found))

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()

    def _client(self) -> Redis:
        if self._redis is None:
            self._redis = redis_client.create_redis(self._settings)
        return self._redis

    def _keep_polling(self) -> None:
        """Poll Kafka for the topics' ends until `IDLE_S` after the last call."""
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poller.run())
        if self._idle:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._polling.cancel)


def _named(error: Exception) -> str:
    """Name an error of Kafka's; that no connection came about needs no name."""
    is_known = isinstance(error, KafkaConnectionError | OSError)
    return "" if is_known else f" ({type(error).__name__})"


async def read_letters(
    settings: Settings, places: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Return `groups` of the latest letters, and how many are `shown`; or an `error`.

    `places` are those of replays, by the letters' marks.
    """
    found: dict[str, Any]
    try:
        async with asyncio.timeout(LETTERS_TIMEOUT_S):
            latest = await reader.read_latest(settings, MOST_LETTERS, places=places)
        groups = group_letters(latest.letters[::-1])
        found = {"groups": msgspec.to_builtins(groups), "shown": len(latest.letters)}
    except OperatorError as error:
        found = {"error": str(error)}
    except (TemporaryError, KafkaError, OSError, TimeoutError) as error:
        found = {"error": f"Kafka at {settings.kafka} cannot be reached from here{_named(error)}"}
    return found | {"read_at": datetime.now(UTC).isoformat(timespec="seconds")}
