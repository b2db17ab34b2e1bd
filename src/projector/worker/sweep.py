"""The sweep: views that are compared with Redis in turn, and the search for orphans there.

An owner compares its own views, a few at a time. No owner has orphans among its views, so the
worker also scans the records in Redis and asks the owners about each record.
"""

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Final

import structlog
from redis.asyncio import Redis

from projector import metrics
from projector.clients import redis_batch
from projector.clients.retry import retry_outages
from projector.domain.views import View, ViewId, is_digest, view_id
from projector.store.partition_store import PartitionStore
from projector.store.record_scan import KEYS_PER_PAGE, RecordHeader, scan_headers
from projector.worker.event_applier import EventApplier
from projector.worker.view_writer import ViewWriter

log = structlog.get_logger()

# More views in one comparison would delay events.
MAX_PER_TICK: Final = 500
# Of few views so many are compared at once, and then none for as many ticks: a read of one costs as
# much as a read of all of them.
FEW: Final = 8
# A bound on memory; the next scan finds the other suspects.
MAX_SUSPECTS: Final = 1000


class SweepSchedule:
    """The views to compare next, such that each has its turn every `interval` seconds."""

    def __init__(self, interval: float, tick: float) -> None:
        self._ticks = max(1.0, interval / tick)
        # Ticks until the next portion.
        self._wait = 1
        self._round: list[ViewId] = []
        self._portion = 0
        self._pause = 1
        self._suspects: set[ViewId] = set()

    def tick(self) -> None:
        """Let `take` return the next portion, or come one tick nearer to it."""
        self._wait -= 1

    def suspect(self, id_: ViewId) -> None:
        """Add a view whose record no fact seems to justify."""
        if len(self._suspects) < MAX_SUSPECTS:
            self._suspects.add(id_)

    def take(self, view_ids: Callable[[], Iterable[ViewId]]) -> list[ViewId]:
        """Return the views whose turn it is; each round begins with a call of `view_ids`."""
        if self._wait > 0:
            return []
        if not self._round:
            self._round = list(view_ids())
            self._portion, self._pause = self._pace(len(self._round))
        self._wait = self._pause
        taken, self._round = self._round[-self._portion :], self._round[: -self._portion]
        return taken

    def _pace(self, views: int) -> tuple[int, int]:
        """Return how many views of a round are taken at once, and after how many ticks."""
        if views + FEW <= self._ticks:
            return FEW, FEW
        return min(MAX_PER_TICK, math.ceil(views / self._ticks)), 1

    def take_suspects(self) -> list[ViewId]:
        """Return the suspects, and remove them."""
        suspects, self._suspects = self._suspects, set()
        return list(suspects)


class ViewSweep:
    """Compares one partition's views with Redis, a portion at a time, and repairs what differs."""

    def __init__(
        self,
        schedule: SweepSchedule,
        store: PartitionStore,
        applier: EventApplier,
        writer: ViewWriter,
    ) -> None:
        self.partition = applier.partition
        self._schedule = schedule
        self._store = store
        self._applier = applier
        self._writer = writer

    def tick(self) -> None:
        """Let `run_portion` compare the next portion."""
        self._schedule.tick()

    def check_orphan(self, id_: ViewId) -> None:
        """Suspect a live record, unless a fact has its view or facts are not complete."""
        if self._applier.is_complete and not self._has_fact(id_):
            self._schedule.suspect(id_)

    async def run_portion(self) -> None:
        """Compare the next few views, write those that differ, and end orphans."""
        now, projection = self._applier.now, self._applier.projection
        suspects = [id_ for id_ in self._schedule.take_suspects() if not self._has_fact(id_)]
        taken = self._schedule.take(projection.facts.view_ids)
        if not suspects and not taken:
            return
        moved = await self._moved(suspects)
        orphans = [id_ for id_ in suspects if id_ not in moved]
        due = list(filter(self._is_due, {*taken, *moved.values()}))
        drifted = await self._drifted(
            lambda: (view for view in projection.views(due, now) if view.expires_at > now)
        )
        if drifted or orphans:
            self._report(drifted, orphans)
            ended = await self._writer.end_orphans(orphans)
            await self._writer.write(lambda: drifted + ended)
            fields = await self._applier.take_fields()
            await self._writer.checkpoint(fields, self._applier.field_count)

    async def _moved(self, suspects: list[ViewId]) -> dict[ViewId, ViewId]:
        """Return the views by digest, by their jobs, of those suspects that are jobs with one.

        Such a record is from before the job had a digest, and its pointer is lost.
        """
        jobs = {id_ for id_ in suspects if not is_digest(id_)}
        if not jobs:
            return {}
        now, facts = self._applier.now, self._applier.projection.facts
        found = await self._applier.find_jobs(jobs)
        ids = [view_id(key, job) for key in found if (job := facts.job(key))]
        views = self._applier.projection.views(ids, now)
        return {ViewId(str(view.job)): view.id for view in views if view.expires_at > now}

    def _is_due(self, id_: ViewId) -> bool:
        """Whether the view should have a record: a first view may be held back."""
        return self._has_fact(id_) and not self._applier.projection.facts.dirty.is_held(id_)

    def _has_fact(self, id_: ViewId) -> bool:
        return self._applier.projection.facts.job_of_view(id_) is not None

    @retry_outages
    async def _drifted(self, views: Callable[[], Iterable[View]]) -> list[View]:
        # One at a time: all at once may take half a gigabyte.
        return await self._store.drifted(views())

    def _report(self, drifted: list[View], orphans: list[ViewId]) -> None:
        metrics.DRIFT_REPAIRED.labels(what="view").inc(len(drifted))
        metrics.DRIFT_REPAIRED.labels(what="orphan").inc(len(orphans))
        log.warning("Redis differed from the facts and was repaired", partition=self.partition,
                    jobs=[view.job for view in drifted], orphans=len(orphans))  # fmt: skip


class OrphanScan:
    """Passes every live record in Redis, its partition and view id, to `suspect`.

    One scan takes `interval` seconds.
    """

    def __init__(
        self, redis: Redis, interval: float, suspect: Callable[[int, ViewId], None]
    ) -> None:
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
            self._suspect(found.record.partition, found.id)
