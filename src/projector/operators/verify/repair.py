"""Repairs of stored views that `verify` found to differ from their facts.

A repair writes only over the very bytes that were compared, and carries the version of the
checkpoint whose facts it was computed from. Every record carries the version that wrote it. So a
repair never brings back access that an event has revoked:

- An owner that wrote the record meanwhile changed its bytes: the repair writes nothing.
- An owner that writes later does so under a higher revision, or under a higher epoch if it has
  claimed or healed in between. So it overwrites the repair.
- A record newer than the checkpoint is compared again later. If it stays newer, it is reported as
  not settled and left alone.
- A digest under a job has no version. It counts as newer if the record that it leads to is newer:
  owners write that first.
- Where there was no record, only one that has expired since can have been written meanwhile. The
  second look, after the repair, finds a record that outlives its token.
- Between a claim and its first stamp, the former owner's records may be newer than the facts but
  look older. So nothing is compared then.
- After a claim that rewrote everything, a repair under the former epoch can only fill a key that
  was lost since. Lookups answer 503 from it, because its epoch is below the stamp's.
"""

from collections import defaultdict

from redis.asyncio import Redis

from projector.domain import fact_keys, views
from projector.domain.views import View, ViewId, is_digest
from projector.operators.verify.comparison import Verifier
from projector.operators.verify.differences import Difference
from projector.store import lua_scripts, schema
from projector.store.partition_count import require_partition_count
from projector.store.schema import ViewRecord
from projector.store.view_diff import Mismatch, StoredValue
from projector.store.view_writes import FIRST_EXPIRY


class ViewRepairer:
    """Repairs the differences that `verifier` found."""

    def __init__(self, redis: Redis, verifier: Verifier) -> None:
        self._redis = redis
        self._verifier = verifier
        self._script = redis.register_script(lua_scripts.REPAIR)

    async def repair(self, difference: Difference) -> bool:
        """Write the view; False if the record is another partition's, or has changed since.

        A job's key that leads to the record of another partition's job is deleted.
        """
        mismatches, job_key = difference.mismatches, difference.job_key
        is_foreign = Mismatch.FOREIGN in mismatches
        if is_foreign and await self._find_job(difference.stored, difference.id) is not None:
            if Mismatch.JOB_KEY in mismatches and job_key and difference.job:
                await self._write(schema.job_key(difference.job), job_key, b"", 0)
            return False
        is_record_right = mismatches == (Mismatch.JOB_KEY,) and job_key is not None
        if not is_record_right and not await self._write_record(difference):
            return False
        if Mismatch.JOB_KEY not in mismatches or job_key is None or difference.view is None:
            return True
        if await self._belongs_elsewhere(difference, job_key):
            return False
        return await self._write_job_key(difference.view, job_key)

    async def again(self, differences: list[Difference]) -> list[Difference]:
        """Compare these views again after a repair; return the differences that are left."""
        by_partition: defaultdict[int, list[ViewId]] = defaultdict(list)
        left: list[Difference] = []
        for each in differences:
            if each.partition is None:
                left += (await self._verifier.unclaimed([each.id])).differences
            else:
                by_partition[each.partition].append(each.id)
        for partition, ids in by_partition.items():
            look = await self._verifier.settled_look(partition)
            left += [each async for each in self._verifier.differences(look, ids)]
        return left

    async def _belongs_elsewhere(self, difference: Difference, job_key: StoredValue) -> bool:
        """Whether the job's key is right by the facts of another partition."""
        record = (difference.pointed or job_key).record
        if record is None or record.partition == difference.partition:
            return False
        id_ = job_key.pointer or ViewId(str(difference.job))
        return await self._find_job(difference.pointed or job_key, id_) == difference.job

    async def _find_job(self, stored: StoredValue, id_: ViewId) -> int | None:
        """Find the job of the view in the facts of the partition that the record names."""
        record = stored.record
        if record is None or record.partition >= await require_partition_count(self._redis):
            return None
        look = await self._verifier.settled_look(record.partition)
        key = look.facts.job_of_view(id_)
        return fact_keys.id_of(key) if key else None

    async def _write_record(self, difference: Difference) -> bool:
        key, value, expires_at = schema.record_key(difference.id), b"", 0
        # An orphan under a job's id is deleted: a tombstone could block another partition's job.
        is_ended = difference.view is not None or is_digest(difference.id)
        if difference.partition is not None and is_ended:
            view = difference.view or views.tombstone(difference.id, difference.now)
            version, partition = difference.version, difference.partition
            value = ViewRecord(view.status, partition, version, view.body).encode()
            expires_at = view.expires_at
        return await self._write(key, difference.stored, value, expires_at)

    async def _write_job_key(self, view: View, job_key: StoredValue) -> bool:
        key, value = schema.job_key(view.job), view.id.encode()
        return await self._write(key, job_key, value, view.expires_at)

    async def _write(self, key: str, compared: StoredValue, value: bytes, expires_at: int) -> bool:
        kind = "none" if compared.is_absent else "other" if compared.is_other else "string"
        args: list[bytes | str | int] = [
            kind,
            compared.raw or b"",
            value,
            max(expires_at, FIRST_EXPIRY),
        ]
        return bool(await self._script(keys=[key], args=args))
