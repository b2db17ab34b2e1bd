"""One owner's lines in the overlay.

Buys: a revocation from 100,000 live tokens holds once Redis has this one line, some milliseconds
after the event. The last of their views is written seconds later. Leans on: versions rise with
every write of views, lookups read the overlay with the record, and the checkpoint follows the last
view. Where the line is lost, or Redis does not take it, the bound of staleness holds as before.

A client repeats a call whose answer is late, and the first attempt may then run last. Behind a
later call it finds a newer line, and does nothing. Behind a removal there is none: a late line then
holds back older records until it expires.
"""

import math
from collections.abc import Callable, Set
from contextlib import suppress
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from projector import metrics
from projector.elapsed import elapsed
from projector.errors import WriteRefusedError
from projector.store import lua_scripts, overlay, schema
from projector.store.schema import Version

# Bounds what a line without an owner holds back, unless owners of other partitions prolong the key.
# No stamp comes during a long write. The bound of staleness is shorter by default, so that lookups
# get 503 where a write of all views lasts longer than this.
KEPT_MS: Final = 30_000
# A long write sets its lines again after this time.
RENEW_S: Final = 10.0
# Bounds what every lookup reads. Names beyond it rely on the bound of staleness.
MAX_NAMES: Final = 1000
MAX_LOGGED: Final = 10

# Those that a call of Redis raises while Redis is unavailable.
OUTAGES: Final = (RedisError, OSError)

log = structlog.get_logger()


class OverlayLine:
    """The changes that hold back views of one partition, until its owner has written these.

    `refused_by` is the newest epoch that refused the lines. `take_version` returns a version above
    that of all views written before, and below that of all written later.
    """

    def __init__(self, redis: Redis, partition: int, take_version: Callable[[], Version]) -> None:
        self.refused_by = 0
        self._partition = partition
        self._take_version = take_version
        # Each with a version of its change: views that were written before are below it. A later
        # change of other names does not hold back again what is written since.
        self._names: dict[str, Version] = {}
        self._set_at = -math.inf
        # Lines of this claim or of a former one may be in Redis.
        self._may_be_left = True
        self._set_lines = redis.register_script(lua_scripts.SET_OVERLAY)

    def begin(self) -> None:
        """Begin a claim, behind its epoch: all its views are still to be written."""
        self._may_be_left = True
        if self._names:
            self._names = dict.fromkeys(self._names, self._take_version())
            self._set_at = -math.inf

    async def add(self, names: Set[str]) -> None:
        """Hold back the views that name one of these, and are older than the next write.

        If Redis does not take it, `renew` tries again.
        """
        room = MAX_NAMES - len(self._names)
        added = (names & self._names.keys()).union(sorted(names - self._names.keys())[:room])
        self._names |= dict.fromkeys(added, self._take_version())
        self._set_at = -math.inf
        metrics.BULK_CHANGES.inc(len(names))
        log.info("bulk change", partition=self._partition, names=sorted(names)[:MAX_LOGGED])
        # Facts change meanwhile. An error would leave them half changed; the next write fails too.
        with suppress(WriteRefusedError):
            await self.renew()

    async def renew(self) -> None:
        """Set the lines again if that failed, or is long ago. Raises `WriteRefusedError`."""
        if self._names and elapsed() - self._set_at > RENEW_S:
            with suppress(*OUTAGES):
                await self._set()

    async def _set(self) -> None:
        self._may_be_left = True
        lines = overlay.encode_lines(self._partition, self._names)
        if newer := await self._run(max(self._names.values()), lines):
            raise WriteRefusedError(
                f"the overlay of partition {self._partition} is newer: {newer.decode()}"
            )
        self._set_at = elapsed()

    async def remove(self, checkpoint: Version) -> None:
        """Remove the lines: all views are written, and this checkpoint too.

        If Redis is unavailable, the next call tries again. A newer epoch's lines stay until the
        next claim.
        """
        self._names.clear()
        if self._may_be_left:
            with suppress(*OUTAGES):
                await self._run(checkpoint, "")
                self._may_be_left = False

    async def _run(self, version: Version, lines: str) -> bytes:
        """Set the lines, or remove them if these are empty; return the epoch that refuses."""
        newer: bytes = await self._set_lines(
            keys=[schema.OVERLAY],
            args=[f"{self._partition:04}", str(version), lines, KEPT_MS],
        )
        if newer:
            self.refused_by = max(self.refused_by, int(newer, 16))
        return newer
