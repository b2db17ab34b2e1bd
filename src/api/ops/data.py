"""The page's data, read aside: bounded, shared by all who look, and never in a lookup's way."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

import msgspec
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from api.ops import letters, minutes
from api.ops.auth import AccessRefusedError
from api.ops.background import BackgroundLoop, CachedCall
from projector.clients import redis_client
from projector.config.settings import Settings
from projector.errors import OperatorError, TooManyFactsError, UnknownJobError
from projector.operators import explain
from projector.operators import status as statuses
from projector.operators.kafka_lag import EndOffsetPoller
from projector.operators.status import PartitionHealth, PartitionStatus, Status

T = TypeVar("T")

STATUS_KEPT_S: Final = 0.5
MINUTES_KEPT_S: Final = 5.0
LETTERS_KEPT_S: Final = 5.0
TIMEOUT_S: Final = 5.0
EXPLANATION_TIMEOUT_S: Final = 15.0
# Nobody is asked for the topics' ends when nobody has looked for so long.
IDLE_S: Final = 30.0
MAX_WAITING: Final = 4
# About a second of decoding. A command is the place for more.
MOST_FACTS: Final = 200_000
# A page of more rows is neither readable nor quick.
MAX_SHOWN: Final = 200

Lookups = Callable[[], Mapping[str, int]]


class BackgroundSource:
    """Reads Redis and Kafka when somebody looks, and only then.

    `lookups` says how many lookups this API has answered, by status; it may take some time.
    """

    def __init__(self, settings: Settings, lookups: Lookups | None = None) -> None:
        self._settings = settings
        # What it says about an outage stands on the page.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        self._aside = BackgroundLoop()
        self._read = _Reading(settings, lookups)
        self._status = CachedCall(lambda: self._run(self._read.status(), TIMEOUT_S), STATUS_KEPT_S)
        self._minutes = CachedCall(
            lambda: self._run(self._read.minutes(), TIMEOUT_S), MINUTES_KEPT_S
        )
        # Kafka's client may need a moment to give up, beyond the reading's own bound.
        patience = 2 * letters.TIMEOUT_S
        self._letters = CachedCall(
            lambda: self._run(letters.read(settings), patience), LETTERS_KEPT_S
        )
        self._explaining = asyncio.Lock()
        self._waiting = 0

    async def status(self) -> dict[str, Any]:
        """`projector status --json` without workers, the last `minutes`, the API's `lookups`.

        Of more than 200 partitions only the worst.
        """
        return await self._status.get() | {"minutes": await self._minutes.get()}

    async def letters(self) -> dict[str, Any]:
        """The latest dead letters, or an `error` where Kafka cannot be reached."""
        return await self._letters.get()

    async def explanation(self, job: int, agent: int | None) -> dict[str, Any]:
        """`projector explain --json`; one at a time, for it reads a whole partition."""
        if self._waiting >= MAX_WAITING:
            raise AccessRefusedError(503, "others are asking right now; try again in a moment")
        self._waiting += 1
        try:
            async with self._explaining:
                work = self._read.explanation(job, agent)
                return await self._run(work, EXPLANATION_TIMEOUT_S)
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """Give up the connections and end the thread."""
        await self._aside.close(self._read.close(), TIMEOUT_S)

    async def _run(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        place = self._settings.redis_place
        try:
            return await self._aside.run(work, seconds)
        except (UnknownJobError, TooManyFactsError) as error:
            raise AccessRefusedError(
                404 if isinstance(error, UnknownJobError) else 422, str(error)
            ) from None
        except OperatorError as error:
            raise AccessRefusedError(503, str(error)) from None
        except (AuthenticationError, NoPermissionError) as error:
            raise AccessRefusedError(503, f"Redis at {place} refuses this user: {error}") from None
        except TimeoutError:
            raise AccessRefusedError(503, f"not done within {seconds:g} s; try again") from None
        except (RedisError, OSError) as error:
            raise AccessRefusedError(503, f"Redis at {place} cannot be reached: {error}") from None


class _Reading:
    """What runs aside, and the connections that belong there."""

    def __init__(self, settings: Settings, lookups: Lookups | None) -> None:
        self._settings = settings
        self._lookups = lookups
        self._redis: Redis | None = None
        self._follower = EndOffsetPoller(settings)
        self._following: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._latest: Status | None = None

    async def status(self) -> dict[str, Any]:
        self._follow()
        bound = self._settings.max_staleness
        self._latest = found = await statuses.read_status(
            self._client(), bound, self._follower.ends
        )
        shown = _shown(found.partitions)
        found = msgspec.structs.replace(
            found, partitions=shown, workers=[], kafka=self._follower.trouble
        )
        counted = self._lookups and self._lookups()
        return dict(msgspec.to_builtins(found)) | {"lookups": counted}

    async def minutes(self) -> list[dict[str, Any]]:
        if self._latest is None:
            return []
        return await minutes.read(self._client(), self._latest.totals.partitions, self._latest.at)

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

    def _follow(self) -> None:
        """Have Kafka asked for the topics' ends as long as somebody looks."""
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follower.run())
        if self._idle:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._following.cancel)


def _shown(partitions: list[PartitionStatus]) -> list[PartitionStatus]:
    if len(partitions) <= MAX_SHOWN:
        return partitions
    order = list(PartitionHealth)
    worst = sorted(partitions, key=lambda p: (-order.index(p.state), -(p.age or 0.0)))
    return sorted(worst[:MAX_SHOWN], key=lambda p: p.partition)
