"""The sweep: which views to compare next with Redis, and the search for orphans there.

An owner compares its own views, a few at a time. No owner has orphans among its views, so the
worker also scans the token keys in Redis and asks the owners about each record.
"""

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Final

from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.clients.retry import retry_outages
from projector.store.token_scan import KEYS_PER_PAGE, RecordHeader, scan_headers

# More views in one comparison would delay events.
MAX_PER_TICK: Final = 500
# A bound on memory; the next scan finds the other suspects.
MAX_SUSPECTS: Final = 1000


class SweepSchedule:
    """The tokens to compare next, such that each has its turn every `interval` seconds."""

    def __init__(self, interval: float, tick: float) -> None:
        self._ticks = max(1.0, interval / tick)
        self._due = False
        self._round: list[str] = []
        self._portion = 0
        self._suspects: set[str] = set()

    def tick(self) -> None:
        """Let `take` return the next portion."""
        self._due = True

    def suspect(self, digest: str) -> None:
        """Add a token whose record no fact seems to justify."""
        if len(self._suspects) < MAX_SUSPECTS:
            self._suspects.add(digest)

    def take(self, tokens: Callable[[], Iterable[str]]) -> list[str]:
        """Return the tokens whose turn it is; each round begins with a call of `tokens`."""
        if not self._due:
            return []
        self._due = False
        if not self._round:
            self._round = list(tokens())
            self._portion = min(MAX_PER_TICK, math.ceil(len(self._round) / self._ticks))
        taken, self._round = self._round[-self._portion :], self._round[: -self._portion]
        return taken

    def take_suspects(self) -> list[str]:
        """Return the suspects, and remove them."""
        suspects, self._suspects = self._suspects, set()
        return list(suspects)


class OrphanScan:
    """Passes every live record in Redis, its partition and digest, to `suspect`.

    One scan takes `interval` seconds.
    """

    def __init__(self, redis: Redis, interval: float, suspect: Callable[[int, str], None]) -> None:
        self._redis = redis
        self._interval = interval
        self._suspect = suspect

    async def run(self) -> None:
        """Scan once per interval until cancelled."""
        while True:
            await self._scan()

    @retry_outages
    async def _scan(self) -> None:
        pages = math.ceil(await redis_batch.key_count(self._redis) / KEYS_PER_PAGE) or 1
        async for page in scan_headers(self._redis):
            for found in page:
                self._check(found)
            await asyncio.sleep(self._interval / pages)

    def _check(self, found: RecordHeader) -> None:
        if found.record and found.record.status != 401:
            self._suspect(found.record.partition, found.digest)
