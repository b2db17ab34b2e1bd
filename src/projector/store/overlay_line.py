"""One owner's line in the overlay.

Buys: a revocation from 100,000 live tokens holds once Redis has this one line, some milliseconds
after the event. The last of their views is written seconds later. Leans on: versions rise with
every write of views, lookups read the overlay with the record, and the checkpoint follows the last
view. Where the line is lost, or Redis does not take it, the bound of staleness holds as before.
"""

from collections.abc import Callable, Set
from contextlib import suppress
from typing import Final

import structlog
from redis.asyncio import Redis

from projector import metrics
from projector.clients.retry import OUTAGES
from projector.elapsed import elapsed
from projector.errors import WriteRefusedError
from projector.store import lua_scripts, overlay, schema
from projector.store.schema import Version

# Bounds what a line without an owner holds back. The bound of staleness is shorter by default.
KEPT_MS: Final = 30_000
# A long write sets its line again after this time.
RENEW_S: Final = 10.0
# Bounds what every lookup reads. Names beyond it rely on the bound of staleness.
MAX_NAMES: Final = 1000
MAX_LOGGED: Final = 10

log = structlog.get_logger()


class OverlayLine:
    """The changes that hold back views of one partition, until its owner has written these.

    `refused_by` is the newest epoch that refused the line. `next_version` is that of the views
    which are written next.
    """

    def __init__(self, redis: Redis, partition: int, next_version: Callable[[], Version]) -> None:
        self.refused_by = 0
        self._partition = partition
        self._next_version = next_version
        self._names: set[str] = set()
        self._version: Version | None = None
        self._set_at = 0.0
        # The line of this claim or of a former one may be in Redis.
        self._may_be_left = True
        self._set_line = redis.register_script(lua_scripts.SET_OVERLAY)

    def begin(self) -> None:
        """Begin a claim: a former line holds back nothing that it writes."""
        self._version = None
        self._may_be_left = True

    async def add(self, names: Set[str]) -> None:
        """Hold back the views that name one of these, and are older than the next write.

        If Redis does not take it, `renew` tries again.
        """
        room = MAX_NAMES - len(self._names)
        self._names.update(sorted(names - self._names)[:room])
        self._version = None
        metrics.BULK_CHANGES.inc(len(names))
        log.info("bulk change", partition=self._partition, names=sorted(names)[:MAX_LOGGED])
        # Facts change meanwhile. An error would leave them half changed; the next write fails too.
        with suppress(WriteRefusedError):
            await self.renew()

    async def renew(self) -> None:
        """Set the line again if that failed, or is long ago. Raises `WriteRefusedError`."""
        is_due = self._version is None or elapsed() - self._set_at > RENEW_S
        if self._names and is_due:
            with suppress(*OUTAGES):
                await self._set()

    async def _set(self) -> None:
        version = self._version or self._next_version()
        line = overlay.encode_line(self._partition, version, self._names)
        self._may_be_left = True
        if newer := await self._run(version, line):
            self.refused_by = max(self.refused_by, int(newer, 16))
            raise WriteRefusedError(
                f"the overlay of partition {self._partition} is newer: {newer.decode()}"
            )
        self._version, self._set_at = version, elapsed()

    async def remove(self) -> None:
        """Remove the line: all views are written, and the checkpoint too.

        If Redis is unavailable it expires.
        """
        self._names.clear()
        if self._may_be_left:
            with suppress(*OUTAGES):
                await self._run(self._next_version(), "")
                self._may_be_left = False

    async def _run(self, version: Version, line: str) -> bytes:
        """Set the line, or remove it if it is empty; return the newer epoch that refuses."""
        partition, epoch = f"{self._partition:04}", f"{version.epoch:012x}"
        newer: bytes = await self._set_line(
            keys=[schema.OVERLAY], args=[partition, epoch, line, KEPT_MS]
        )
        return newer
