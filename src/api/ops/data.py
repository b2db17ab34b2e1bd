"""Data of the operators' page, read in the background and shared by all viewers."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec
from aiokafka.errors import KafkaError
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from api.ops.activity_minutes import read_minutes
from api.ops.auth import AccessRefusedError
from api.ops.background import BackgroundLoop, CachedCall
from projector.clients import redis_client
from projector.config.settings import Settings
from projector.errors import OperatorError, TemporaryError, TooManyFactsError, UnknownJobError
from projector.operators import dead_letter_reader, explain
from projector.operators.kafka_lag import EndOffsetPoller
from projector.operators.status import read_status
from projector.operators.status_model import PartitionHealth, PartitionStatus, Status

T = TypeVar("T")

STATUS_KEPT_S: Final = 0.5
MINUTES_KEPT_S: Final = 5.0
LETTERS_KEPT_S: Final = 5.0
TIMEOUT_S: Final = 5.0
LETTERS_TIMEOUT_S: Final = 6.0
EXPLANATION_TIMEOUT_S: Final = 15.0
MOST_LETTERS: Final = 50
# Stop polling Kafka after this long without a viewer.
IDLE_S: Final = 30.0
# Explanations that may wait for the one under way.
MAX_WAITING: Final = 4
# About a second of decoding; for more facts use `projector explain`.
MOST_FACTS: Final = 200_000
# Partitions shown: more rows are neither readable nor quick.
MAX_SHOWN: Final = 200

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
            lambda: self._run(self._reader.status(), TIMEOUT_S), STATUS_KEPT_S
        )
        self._minutes = CachedCall(
            lambda: self._run(self._reader.minutes(), TIMEOUT_S), MINUTES_KEPT_S
        )
        # Kafka's client may need a moment to give up, beyond the reader's own bound.
        patience = 2 * LETTERS_TIMEOUT_S
        self._letters = CachedCall(
            lambda: self._run(read_letters(settings), patience), LETTERS_KEPT_S
        )
        self._explaining = asyncio.Lock()
        self._waiting = 0

    async def status(self) -> dict[str, Any]:
        """Return `projector status --json` without workers, with `minutes` and `lookups`.

        Of more than 200 partitions only the worst.
        """
        return await self._status.get() | {"minutes": await self._minutes.get()}

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
        except OperatorError as error:
            raise AccessRefusedError(503, str(error)) from None
        except (AuthenticationError, NoPermissionError) as error:
            reason = f"Redis at {address} refuses this user: {error}"
            raise AccessRefusedError(503, reason) from None
        except TimeoutError:
            raise AccessRefusedError(503, f"not done within {seconds:g} s; try again") from None
        except (RedisError, OSError) as error:
            reason = f"Redis at {address} cannot be reached: {error}"
            raise AccessRefusedError(503, reason) from None


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

    async def status(self) -> dict[str, Any]:
        self._keep_polling()
        answer = self._poller.answer
        self._latest = found = await read_status(self._client(), self._settings, answer)
        found = msgspec.structs.replace(found, partitions=_worst(found.partitions), workers=[])
        lookups = self._count_lookups and self._count_lookups()
        return dict(msgspec.to_builtins(found)) | {"lookups": lookups}

    async def minutes(self) -> list[dict[str, Any]]:
        if self._latest is None:
            return []
        return await read_minutes(self._client(), self._latest.totals.partitions, self._latest.at)

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


async def read_letters(settings: Settings) -> dict[str, Any]:
    """Return `letters`, newest first, as `dead-letters list --json` has them; or an `error`."""
    found: dict[str, Any]
    try:
        async with asyncio.timeout(LETTERS_TIMEOUT_S):
            latest = await dead_letter_reader.read_latest(settings, MOST_LETTERS)
        found = {"letters": latest.letters[::-1]}
    except OperatorError as error:
        found = {"error": str(error)}
    except (TemporaryError, KafkaError, OSError, TimeoutError) as error:
        reason = f"Kafka at {settings.kafka} cannot be reached from here ({type(error).__name__})"
        found = {"error": reason}
    return found | {"read_at": datetime.now(UTC).isoformat(timespec="seconds")}


def _worst(partitions: list[PartitionStatus]) -> list[PartitionStatus]:
    if len(partitions) <= MAX_SHOWN:
        return partitions
    order = list(PartitionHealth)
    worst = sorted(partitions, key=lambda p: (-order.index(p.state), -(p.age or 0.0)))
    return sorted(worst[:MAX_SHOWN], key=lambda p: p.partition)
