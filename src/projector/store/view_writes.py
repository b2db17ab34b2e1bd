"""The records and pointers of one partition's views: written, compared, and orphans deleted.

Every write carries a version. A newer record refuses it, and the record of another partition stays.
"""

from collections.abc import Collection, Container, Iterable, Mapping
from http import HTTPStatus
from typing import Final

import structlog
from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.clients.redis_batch import Argument
from projector.domain.views import View, ViewId
from projector.errors import WriteRefusedError
from projector.store import lua_scripts, schema, view_diff
from projector.store.portions import overlap
from projector.store.schema import Version
from projector.store.view_diff import Mismatch, StoredValue

# Redis refuses an expiry at or before 1970. Any later time in the past deletes the key.
FIRST_EXPIRY: Final = 1

log = structlog.get_logger()


class ViewWrites:
    """The keys of one partition's views in Redis; `refused_by` is the newest epoch that refused.

    Every method raises `RedisError` if Redis does not answer.
    """

    def __init__(self, redis: Redis, partition: int) -> None:
        self._redis = redis
        self._partition = partition
        self.refused_by = 0
        self._write_views = redis.register_script(lua_scripts.WRITE_VIEWS)
        self._repair = redis.register_script(lua_scripts.REPAIR)

    async def write(
        self, chunk: list[View], version: Version, pointers: Container[ViewId] | None
    ) -> None:
        """Write these views, then the `pointers` of their jobs, None for all.

        Raises `WriteRefusedError` if a newer claim has written one of these records.
        """
        records = self._records(chunk, version)
        foreign = await self._write_values(chunk, _record_keys(chunk), records, version)
        pointed = [(at, view) for at, view in enumerate(chunk) if _is_pointed(view, pointers)]
        # Behind the records that they name, and never to a record of another partition.
        await self._write_pointers([view for at, view in pointed if at not in foreign], version)
        await self._end_strays([view for at, view in pointed if at in foreign], version)

    def in_one_call(
        self, views: list[View], version: Version, pointers: Container[ViewId] | None
    ) -> tuple[list[str], list[Argument]]:
        """Return what `write` writes where nothing is in the way: keys; value and expiry of each.

        Pointers are behind the records that they name.
        """
        pointed = [view for view in views if _is_pointed(view, pointers)]
        keys = [*_record_keys(views), *(schema.job_key(view.job) for view in pointed)]
        values = [*self._records(views, version), *(view.id.encode() for view in pointed)]
        return keys, _with_expiry([*views, *pointed], values)

    def _records(self, views: list[View], version: Version) -> list[bytes]:
        # A head for each view instead of each status would take four times as long.
        heads = {
            status: schema.ViewRecord(status, self._partition, version, b"").encode()
            for status in {view.status for view in views}
        }
        return [heads[view.status] + view.body for view in views]

    async def _write_pointers(self, views: list[View], version: Version) -> None:
        if views:
            keys = [schema.job_key(view.job) for view in views]
            await self._write_values(views, keys, [view.id.encode() for view in views], version)

    async def _end_strays(self, views: list[View], version: Version) -> None:
        """End what these jobs' keys hold from before the records of their digests were foreign.

        No pointer replaces a record from before the digest, and no revocation reaches it. A pointer
        may lead to another job's answer. All other keys stay: a tombstone there could block the job
        of the other partition.
        """
        strays = {ViewId(str(view.job)): (view, value) for view, value in await self._strays(views)}
        records = [
            View(id_, view.job, HTTPStatus.UNAUTHORIZED, b"", view.expires_at, is_current=False)
            for id_, (view, value) in strays.items()
            if value.record
        ]
        if records:
            ended = schema.ViewRecord(401, self._partition, version, b"").encode()
            await self._write_values(
                records, _record_keys(records), [ended] * len(records), version
            )
        for id_, (_, value) in strays.items():
            if value.pointer:
                await self._delete(schema.record_key(id_), value.pointer.encode())

    async def _strays(self, views: list[View]) -> list[tuple[View, StoredValue]]:
        """Return the values of the jobs' keys that lead astray, of views with foreign records."""
        keys = [*_record_keys(views), *(schema.job_key(view.job) for view in views)]
        stored = await view_diff.read_values(self._redis, keys)
        records, job_keys = stored[: len(views)], stored[len(views) :]
        return [
            (view, job_key)
            for view, value, job_key in zip(views, records, job_keys, strict=True)
            if (record := value.record)
            and record.partition != self._partition
            and view_diff.leads_astray(job_key, view, self._partition, record)
        ]

    async def _write_values(
        self, views: list[View], keys: list[str], values: list[bytes], version: Version
    ) -> set[int]:
        """Write a value for each view, unless a newer or a foreign record, or pointer, is there.

        Returns the positions of those behind foreign records.
        """
        shared, own = [f"{self._partition:04}", str(version)], _with_expiry(views, values)
        results = await redis_batch.run_script(self._redis, self._write_views, keys, shared, own)
        foreign = {first + at - 1 for first, (_, found, _) in results for at in found}
        self._report_foreign(views, foreign)
        self._refuse_newer(max(newest for _, (newest, _, _) in results))
        behind = [first + at - 1 for first, (_, _, found) in results for at in found]
        replaced = {keys[at]: (views[at], values[at]) for at in behind if views[at].is_current}
        await self._replace_pointers(replaced, version)
        return foreign

    async def _replace_pointers(
        self, values: Mapping[str, tuple[View, bytes]], version: Version
    ) -> None:
        """Write these values in place of the pointers that are there now, and of nothing else.

        The job has got another digest, the facts have lost it, or another job had this id. Owners
        write a record before its pointer. So a newer record behind a pointer shows a newer owner,
        and the late value of a former owner replaces no pointer that came after.
        """
        if not values:
            return
        stored = await view_diff.read_values(self._redis, list(values))
        pointers = {
            key: value.pointer
            for key, value in zip(values, stored, strict=True)
            if value.pointer is not None
        }
        named = [schema.record_key(digest) for digest in pointers.values()]
        self._refuse_newer_records(await view_diff.read_values(self._redis, named), version)

        async def replace(key: str, pointer: ViewId) -> None:
            view, value = values[key]
            expiry = max(view.expires_at, FIRST_EXPIRY)
            await self._repair(keys=[key], args=["string", pointer, value, expiry])

        await overlap(replace(*each) for each in pointers.items())

    async def delete_orphans(self, ids: Collection[ViewId], version: Version) -> None:
        """Delete the live records of this partition under these ids of jobs, which no fact names.

        A tombstone would block a job with this id in another partition until it expires. A missing
        key is safe in its place:

        - Lookups answer 401 only once every partition has stamped a later moment than theirs. So a
          job that starts meanwhile is found first, in whichever partition.
        - Only the bytes that were read are deleted. A record or a pointer that came since stays. A
          record of a newer owner refuses this one, as with every write.
        - Nothing fences the key then. The late record of a former owner has a lower epoch than the
          stamps, so lookups answer 503, and the next scan finds it. A late attempt of this owner
          carries an expiry that has passed: facts keep a job until then.
        """
        keys = [schema.record_key(id_) for id_ in ids]
        stored = await view_diff.read_values(self._redis, keys)
        self._refuse_newer_records(stored, version)
        await overlap(
            self._delete(key, value.raw)
            for key, value in zip(keys, stored, strict=True)
            if self._is_own_and_live(value) and value.raw
        )

    async def _delete(self, key: str, held: bytes) -> None:
        await self._repair(keys=[key], args=["string", held, "", FIRST_EXPIRY])

    async def drifted(self, chunk: list[View]) -> list[View]:
        """Return the views whose records or pointers in Redis differ, in content or expiry."""
        stored = await view_diff.read_values(self._redis, _record_keys(chunk))
        pairs = list(zip(chunk, stored, strict=True))
        pointed = [pair for pair in pairs if pair[0].has_pointer]
        wrong = await self._misplaced([v for v, value in pointed if not self._is_foreign(value)])
        strays = await self._strays([v for v, value in pointed if self._is_foreign(value)])
        wrong.update(view.id for view, _ in strays)
        return [v for v, value in pairs if self._has_drifted(v, value) or v.id in wrong]

    def _has_drifted(self, view: View, stored: StoredValue) -> bool:
        found = view_diff.mismatches(view, self._partition, stored)
        return bool(found) and found != [Mismatch.FOREIGN]

    async def _misplaced(self, views: list[View]) -> set[ViewId]:
        """Return the views that the keys of their jobs should name and do not.

        The keys of another partition's jobs are left alone: a job's own record, or a digest with
        one.
        """
        stored = await view_diff.read_values(self._redis, [schema.job_key(v.job) for v in views])
        pairs = zip(views, stored, strict=True)
        wrong = {view.id: value for view, value in pairs if not view_diff.names(value, view)}
        named = {id_: other for id_, value in wrong.items() if (other := value.pointer)}
        keys = [schema.record_key(other) for other in named.values()]
        found = await view_diff.read_values(self._redis, keys)
        deciding = wrong | dict(zip(named, found, strict=True))
        return {id_ for id_, value in deciding.items() if not self._is_foreign(value)}

    def _is_foreign(self, stored: StoredValue) -> bool:
        record = stored.record
        return record is not None and record.partition != self._partition

    def _is_own_and_live(self, stored: StoredValue) -> bool:
        record = stored.record
        if record is None or record.status == 401:
            return False
        return record.partition == self._partition

    def _refuse_newer(self, newest: bytes) -> None:
        if newest:
            self.refused_by = max(self.refused_by, int(newest.split()[0], 16))
            raise WriteRefusedError(
                f"views of partition {self._partition} are newer: {newest.decode()}"
            )

    def _refuse_newer_records(self, stored: Iterable[StoredValue], version: Version) -> None:
        """Raise `WriteRefusedError` if a record of this partition is newer than `version`."""
        own = (r for value in stored if (r := value.record) and r.partition == self._partition)
        newest = max((str(record.version) for record in own), default="")
        self._refuse_newer(newest.encode() if newest > str(version) else b"")

    def _report_foreign(self, views: list[View], foreign: Iterable[int]) -> None:
        # Here, as `projector verify` does without: it costs a command 20 ms.
        from projector import metrics  # noqa: PLC0415

        for at in foreign:
            metrics.FOREIGN_TOKENS.inc()
            log.warning(
                "a job, or its token, belongs to another partition too; the first one keeps it",
                partition=self._partition, job=views[at].job,
            )  # fmt: skip


def _record_keys(chunk: list[View]) -> list[str]:
    return [schema.record_key(view.id) for view in chunk]


def _is_pointed(view: View, pointers: Container[ViewId] | None) -> bool:
    return view.has_pointer and (pointers is None or view.id in pointers)


def _with_expiry(views: list[View], values: list[bytes]) -> list[Argument]:
    args: list[Argument] = []
    for view, value in zip(views, values, strict=True):
        args += (value, max(view.expires_at, FIRST_EXPIRY))
    return args
