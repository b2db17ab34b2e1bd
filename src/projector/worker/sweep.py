"""The slow sweep: over the views that should be in Redis, and over those that should not.

The owner compares its own views, a few at a time. Records that no fact justifies are in no owner's
list, so the worker also walks through the keys of Redis and asks the owners about each.
"""

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Final

from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.clients.retry import retry_outages
from projector.store.token_scan import KEYS_PER_PAGE, RecordHeader, scan_headers

MAX_PER_TICK: Final = 500
MAX_SUSPECTS: Final = 1000


class SweepSchedule:
    """Which tokens to compare next, so that every `interval` seconds each has had its turn."""

    def __init__(self, interval: float, tick: float) -> None:
        self._ticks = max(1.0, interval / tick)
        self._due = False
        self._round: list[str] = []
        self._portion = 0
        self._suspects: set[str] = set()

    def tick(self) -> None:
        """Allow the next portion."""
        self._due = True

    def suspect(self, digest: str) -> None:
        """Look at this token too: no fact seems to justify its record."""
        if len(self._suspects) < MAX_SUSPECTS:
            self._suspects.add(digest)

    def take(self, tokens: Callable[[], Iterable[str]]) -> list[str]:
        """The tokens whose turn it is; `tokens` are asked for anew for each round."""
        if not self._due:
            return []
        self._due = False
        if not self._round:
            self._round = list(tokens())
            self._portion = min(MAX_PER_TICK, math.ceil(len(self._round) / self._ticks))
        taken, self._round = self._round[-self._portion :], self._round[: -self._portion]
        return taken

    def take_suspects(self) -> list[str]:
        """The suspects; each is taken once."""
        suspects, self._suspects = self._suspects, set()
        return list(suspects)


class OrphanScan:
    """Walks through the token keys and names every live record, partition and digest, to `suspect`.

    One walk takes `interval` seconds.
    """

    def __init__(self, redis: Redis, interval: float, suspect: Callable[[int, str], None]) -> None:
        self._redis = redis
        self._interval = interval
        self._suspect = suspect

    async def run(self) -> None:
        """One walk per interval, for ever."""
        while True:
            await self._walk()

    @retry_outages
    async def _walk(self) -> None:
        pages = math.ceil(await redis_batch.key_count(self._redis) / KEYS_PER_PAGE) or 1
        async for page in scan_headers(self._redis):
            for found in page:
                self._look_at(found)
            await asyncio.sleep(self._interval / pages)

    def _look_at(self, found: RecordHeader) -> None:
        if found.record and found.record.status != 401:
            self._suspect(found.record.partition, found.digest)
