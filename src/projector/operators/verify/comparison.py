"""Stored views compared with the views that the checkpoint's facts justify.

Owners go on writing meanwhile. So a difference counts only when a second look, with newer facts,
finds it again. `repair` repairs differences.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from redis.asyncio import Redis

from projector.domain import fact_keys
from projector.domain.decision import ViewRules
from projector.domain.index.fact_index import FactIndex
from projector.domain.views import ViewId
from projector.errors import SnapshotError
from projector.operators import snapshot
from projector.operators.snapshot import Snapshot
from projector.operators.verify import differences
from projector.operators.verify.differences import Difference
from projector.store import partition_state, record_scan, schema, view_diff
from projector.store.silent_source import NEVER_VOUCHED
from projector.store.view_diff import StoredValue

# One round trip; more keys at once would delay lookups.
VIEWS_PER_PAGE: Final = 100
# Expiries, and views that are ahead of their checkpoint, settle within a second.
LOOKS: Final = 4
# Per partition. Differences hold whole bodies, and without a bound they fill the memory.
MAX_DIFFERENCES: Final = 10_000
PAUSE_S: Final = 1.0
VIEW_ID: Final = re.compile(r"[0-9a-f]{64}|[1-9][0-9]{0,18}", re.ASCII)

Look = Callable[[], Awaitable[Snapshot]]


class Findings(NamedTuple):
    """The result of comparing this number of `tokens` of a partition; `live` are of running jobs.

    A job without a digest counts as one token.

    `unsettled` records were newer than every checkpoint that they were compared with. `more` counts
    the tokens beyond `MAX_DIFFERENCES` that seemed to differ.
    """

    tokens: int
    differences: list[Difference]
    unsettled: list[Difference]
    more: int = 0
    live: int = 0


class LiveRecords(NamedTuple):
    """The views with live records by partition, and those whose keys hold no record.

    A job's key that holds no record may hold the digest of its token.
    """

    records: dict[int, list[ViewId]]
    others: set[ViewId]


async def live_records(redis: Redis, partitions: Iterable[int]) -> LiveRecords:
    """Find every view with a live record of these partitions; raises `RedisError`."""
    found = LiveRecords({partition: [] for partition in partitions}, set())
    async for page in record_scan.scan_headers(redis):
        for id_, record in page:
            if record is None:
                found.others.add(id_)
            elif record.status != 401 and record.partition in found.records:
                found.records[record.partition].append(id_)
    return found


class Verifier:
    """Compares by the `rules`; calls `advance` with the views of each page."""

    def __init__(
        self, redis: Redis, rules: ViewRules, advance: Callable[[int], object] = lambda _: None
    ) -> None:
        self._redis = redis
        self._rules = rules
        self._advance = advance

    async def verify(self, partition: int, live: LiveRecords) -> Findings:
        """Compare every view of the partition; drop from `live.others` those that facts name.

        Raises `SnapshotError`, `DifferentRulesError` and `RedisError`.
        """

        async def look() -> Snapshot:
            return await self.settled_look(partition)

        first = await look()
        live.others.difference_update(first.facts.view_ids(), _jobs_with_digests(first.facts))
        return await self.compare(first, live.records.get(partition, []), look)

    async def look(self, partition: int) -> Snapshot:
        """Read the facts; read them once more if a claim interrupts."""
        try:
            found = await snapshot.read_snapshot(self._redis, partition)
        except SnapshotError:
            await asyncio.sleep(PAUSE_S)
            found = await snapshot.read_snapshot(self._redis, partition)
        partition_state.refuse_other_rules(partition, found.state, self._rules.by_name)
        return found

    async def settled_look(self, partition: int) -> Snapshot:
        """Read the facts under a claim that has stamped.

        Before its first stamp, the former owner may still write views of events that the facts
        lack. Those views are newer, but their lower epoch makes them look older.
        """
        found = await self.look(partition)
        if found.state.stamp_epoch != found.state.version.epoch:
            await asyncio.sleep(PAUSE_S)
            found = await self.look(partition)
        if found.state.stamp_epoch != found.state.version.epoch:
            raise SnapshotError(_not_served(found))
        return found

    async def compare(self, first: Snapshot, live: Iterable[ViewId], look: Look) -> Findings:
        """Compare the views of the facts and the `live` ones; look again at differences.

        A difference counts only if the facts are not older than the record. A live record under the
        id of a job with a digest is compared with that digest.
        """
        ids = {*first.facts.view_ids(), *live} - _jobs_with_digests(first.facts)
        pending = [each.id async for each in self.differences(first, ids)]
        found = Findings(len(ids), [], [], len(pending[MAX_DIFFERENCES:]), first.facts.live_tokens)
        del pending[MAX_DIFFERENCES:]
        for _ in range(LOOKS - 1):
            if not pending:
                break
            await asyncio.sleep(PAUSE_S)
            now = await look()
            found.unsettled.clear()
            async for each in self.differences(now, set(pending) - _jobs_with_digests(now.facts)):
                is_in_doubt = differences.is_in_doubt(each, now)
                (found.unsettled if is_in_doubt else found.differences).append(each)
            pending = [each.id for each in found.unsettled]
        return found

    async def differences(self, look: Snapshot, ids: Iterable[ViewId]) -> AsyncIterator[Difference]:
        """Compare these views with the facts of `look`, page by page."""
        for page in _pages(ids):
            for found in await self._compare_page(look, page):
                yield found
            self._advance(len(page))

    async def _compare_page(self, look: Snapshot, ids: list[ViewId]) -> list[Difference]:
        expected = [differences.expected_view(look, id_, self._rules) for id_ in ids]
        records = await self._read_records(ids)
        named = [view for view in expected if view and view.has_pointer]
        keys = [schema.job_key(view.job) for view in named]
        pointers = await view_diff.read_values(self._redis, keys)
        by_view = {view.id: pointer for view, pointer in zip(named, pointers, strict=True)}
        found = []
        for id_, view, stored in zip(ids, expected, records, strict=True):
            job_key = by_view.get(id_)
            if mismatches := tuple(differences.find_mismatches(look, view, stored, job_key)):
                found.append(
                    Difference(
                        look.partition, id_, mismatches, view, stored, job_key,
                        look.state.version, look.now,
                    )
                )  # fmt: skip
        return await self._follow(found)

    async def _follow(self, found: list[Difference]) -> list[Difference]:
        """Read the records to which misplaced digests lead."""
        digests = [differences.misplaced_digest(each) for each in found]
        led_to = await self._read_records([digest for digest in digests if digest])
        remaining = iter(led_to)
        return [
            each._replace(pointed=next(remaining)) if digest else each
            for each, digest in zip(found, digests, strict=True)
        ]

    async def _read_records(self, ids: Iterable[ViewId]) -> list[StoredValue]:
        return await view_diff.read_values(self._redis, [schema.record_key(id_) for id_ in ids])

    async def unclaimed(self, ids: Iterable[ViewId]) -> Findings:
        """Find the keys, of views that no facts name, that hold neither a record nor a digest.

        A job's key with a digest is a difference if it leads to the record of another job.
        """
        found, more = list[Difference](), 0
        for page in _pages(ids):
            values = zip(page, await self._read_records(page), strict=True)
            named = [differences.unclaimed_value(id_, stored) for id_, stored in values]
            followed = await self._follow([each for each in named if each])
            wrong = [each for each in followed if not differences.is_harmless(each)]
            kept = wrong[: MAX_DIFFERENCES - len(found)]
            found += kept
            more += len(wrong) - len(kept)
        return Findings(0, found, [], more)


def _not_served(found: Snapshot) -> str:
    reason = f"a worker has claimed partition {found.partition} and does not serve it yet"
    if silent := found.state.awaited(found.now):
        seconds = silent.seconds(found.now)
        since = NEVER_VOUCHED if seconds is None else f"for {seconds:.0f} s"
        reason += f", because source {silent.name} has been silent {since}"
    return f"{reason}; ask again when `projector status` shows it as fresh"


def _jobs_with_digests(facts: FactIndex) -> set[ViewId]:
    """Return the ids of the jobs whose keys hold digests, and no records.

    Two root namespaces may have jobs with one id, by a faulty producer. The key holds the record of
    the one without a digest.
    """
    keys = [facts.job_of_view(id_) for id_ in facts.view_ids()]
    jobs = ((key, facts.job(key)) for key in keys if key)
    ids = {ViewId(fact_keys.name_of(key)) for key, job in jobs if job and job.digest}
    return {id_ for id_ in ids if not facts.has_job_by_id(int(id_))}


def _pages(ids: Iterable[ViewId]) -> Iterator[list[ViewId]]:
    remaining = iter(ids)
    while page := list(islice(remaining, VIEWS_PER_PAGE)):
        yield page
