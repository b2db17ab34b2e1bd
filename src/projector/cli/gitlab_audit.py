"""The audit of `projector gitlab run --audit`: facts that a bridge without its state cannot end.

A bridge with a new state sends all that is due. What an earlier one told, and what is gone since,
no table has any more. The facts that workers have in Redis show it. They show too which jobs have
ended for good, though GitLab has them running.
"""

import asyncio
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from typing import BinaryIO, Final, NamedTuple, Protocol, cast

import structlog
from redis.asyncio import Redis

from projector.cli.terminal import SPOOL_BYTES, connected
from projector.clients import redis_batch
from projector.clients.retry import retry_outages, wait_until_ready
from projector.config.settings import Settings
from projector.domain import fact_keys
from projector.domain.entities import Job
from projector.domain.fact_keys import Key
from projector.errors import NotReadyError, OperatorError, SnapshotError
from projector.gitlab.export import Fact, export_lines
from projector.gitlab.lost_state import Audit
from projector.gitlab.mapping.state import HeldJob
from projector.gitlab.memory import Memory
from projector.gitlab.sender import Sender
from projector.operators import snapshot
from projector.operators.audit.comparison import (
    EVERYTHING,
    Export,
    FactMismatch,
    read_export,
)
from projector.operators.audit.run import (
    AuditRequest,
    AuditRow,
    AuditRun,
    FindingRow,
    refuse_unsafe_repair,
)
from projector.store.partition_count import require_partition_count
from projector.store.schema import PARTITIONS_KEY

log = structlog.get_logger()

PAUSE_S: Final = 1.0
# Longer than workers need for their next step, so one of them stands still.
PATIENCE_S: Final = 120.0
SHOWN: Final = 10


class Told(Protocol):
    """The facts that the bridge has told; it sends nothing else during the audit."""

    async def remember_users(self, ids: Collection[int]) -> None:
        """Tell of these users too; return once Kafka has acknowledged it."""

    async def leave_out_jobs(self, held: Collection[HeldJob]) -> None:
        """Pin jobs that workers have ended, or have under another root namespace."""

    async def facts(self) -> list[Fact]:
        """Return type, root and data of all that was told."""


class _Known(NamedTuple):
    """Users and jobs that workers hold, and that no set or start of the bridge changes."""

    users: set[int]
    jobs: list[HeldJob]


class Look(NamedTuple):
    """One comparison of all partitions; `rows` are without users whom GitLab no longer has."""

    counts: Counter[FactMismatch]
    rows: list[AuditRow]

    @property
    def is_applied(self) -> bool:
        """Whether workers have applied all that was told."""
        behind = self.counts[FactMismatch.MISSING] + self.counts[FactMismatch.DIFFERENT]
        return not behind and all(isinstance(row, FindingRow) for row in self.rows)

    @property
    def left(self) -> int:
        """The number of differences. A newer fact is one: the bridge sends nothing now."""
        return len(self.rows) + self.counts[FactMismatch.NEWER]


@retry_outages
async def audit_lost_state(settings: Settings, told: Told) -> None:
    """Feed the ends of all facts that the bridge did not send, once workers have applied the rest.

    Begins anew after an outage of Redis or Kafka. Raises `OperatorError` when facts stay different.
    """
    async with connected(settings) as redis:
        partitions = await require_partition_count(redis)
        known = await _known(redis, partitions)
        await told.leave_out_jobs(known.jobs)
        await told.remember_users(known.users)
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
            source = cast(BinaryIO, spool)
            export = await _export(told, source, partitions)
            audit = _Audit(settings, redis, told, export, source)
            await audit.until(lambda look: look.is_applied, "workers have not applied")
            await audit.until(lambda look: not look.left, "no event ends", repair=True)


def audit_hook(settings: Settings) -> Audit:
    """Return the audit as the bridge calls it before its first heartbeat."""

    async def audit(memory: Memory, _sender: Sender) -> None:
        # Before all batches are held back: workers may come late.
        await wait_until_ready("Redis", settings.redis_place, partial(_require_workers, settings))
        async with memory.quiet() as told:
            await audit_lost_state(settings, told)

    return audit


async def _require_workers(settings: Settings) -> None:
    """Raise `NotReadyError` until workers have written all partitions, and `RedisError`."""
    async with connected(settings) as redis:
        try:
            await _known(redis, await require_partition_count(redis))
        except SnapshotError as error:
            raise NotReadyError(str(error)) from None


async def _known(redis: Redis, partitions: int) -> _Known:
    """Return the users and the jobs that workers know of."""
    known = _Known(set(), [])
    for partition in range(partitions):
        look = await snapshot.read_snapshot(redis, partition)
        for key, fact in look.facts.items():
            kind = fact_keys.kind_of(key)
            if kind == "user" and fact.data is not None:
                known.users.add(fact_keys.id_of(key))
            elif kind == "job":
                job = fact.data if isinstance(fact.data, Job) else None
                root, number = fact_keys.job_of(key)
                known.jobs.append(HeldJob(number, root, job is None or job.finished))
    return known


async def _export(told: Told, source: BinaryIO, partitions: int) -> Export:
    """Write all that was told into the file, and read it as an export."""
    source.seek(0)
    source.truncate()
    source.writelines(export_lines(await told.facts(), int(time.time() * 1000)))
    source.seek(0)
    export, bad = await asyncio.to_thread(read_export, source, partitions)
    if bad:
        raise OperatorError(f"an event of the bridge has no place in an audit: {bad[0]}")
    return export


class _Audit:
    """Comparisons of all partitions with what was told."""

    def __init__(
        self, settings: Settings, redis: Redis, told: Told, export: Export, source: BinaryIO
    ) -> None:
        self._settings = settings
        self._redis = redis
        self._told = told
        self._export = export
        self._source = source

    async def until(
        self, is_done: Callable[[Look], bool], obstacle: str, *, repair: bool = False
    ) -> None:
        """Compare again and again; raise `OperatorError` when nothing gets better any more."""
        best, since = math.inf, time.monotonic()
        while not is_done(look := await self._compare(repair)):
            if look.left < best:
                best, since = look.left, time.monotonic()
            if time.monotonic() - since > PATIENCE_S:
                raise OperatorError(
                    f"{obstacle} {look.left} facts, such as {_shown(look)}; see that all workers "
                    "run, then run with --audit again"
                )
            log.info("the audit goes on", differences=look.left, ending=repair, waits_for="workers")
            await asyncio.sleep(PAUSE_S)
        log.info(
            "audited", ended=repair, **{each.value: look.counts[each] for each in FactMismatch}
        )

    async def _compare(self, repair: bool) -> Look:
        """Compare all partitions now."""
        now = await redis_batch.server_time(self._redis, PARTITIONS_KEY)
        request = AuditRequest(self._export, EVERYTHING, self._source, now, 0, repair)
        if repair:
            await refuse_unsafe_repair(self._settings, self._redis, request)
        run = AuditRun(self._settings, self._redis, request)
        rows = [
            row
            for partition in range(self._export.partitions)
            for row in await run.audit(partition)
        ]
        if not repair and any(map(_is_job_behind, rows)):
            await self._leave_out_ended_jobs()
        return Look(run.counts, [row for row in rows if not _is_former_user(row)])

    async def _leave_out_ended_jobs(self) -> None:
        """Leave out jobs whose end workers have applied since, from events of an earlier bridge."""
        partitions = self._export.partitions
        try:
            known = await _known(self._redis, partitions)
        except SnapshotError:
            return  # a worker has just claimed a partition; the next comparison comes here again
        await self._told.leave_out_jobs(known.jobs)
        self._export = await _export(self._told, self._source, partitions)


def _is_job_behind(row: AuditRow) -> bool:
    """Whether workers do not have the job as it was told."""
    return (
        isinstance(row, FindingRow)
        and row.what in (FactMismatch.MISSING, FactMismatch.DIFFERENT)
        and fact_keys.kind_of(Key(row.key)) == "job"
    )


def _is_former_user(row: AuditRow) -> bool:
    """Whether the row is a user that GitLab no longer has: no event ends one, and none must."""
    return (
        isinstance(row, FindingRow)
        and row.what is FactMismatch.EXTRA
        and fact_keys.kind_of(Key(row.key)) == "user"
    )


def _shown(look: Look) -> str:
    keys = [row.key if isinstance(row, FindingRow) else row.error for row in look.rows]
    return ", ".join(keys[:SHOWN]) or "some that are newer"
