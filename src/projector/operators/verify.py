"""Stored views compared with the views that the checkpoint's facts justify.

Owners go on writing meanwhile. So a difference counts only when a second look, with newer facts,
finds it again. `view_repair` repairs differences.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from redis.asyncio import Redis

from projector.domain.decision import ViewRules
from projector.domain.projection import compute_view
from projector.domain.views import View, ViewId
from projector.errors import SnapshotError
from projector.operators import snapshot
from projector.operators.snapshot import Snapshot
from projector.store import partition_state, record_scan, schema, view_diff
from projector.store.schema import Version
from projector.store.view_diff import EXPIRY_TOLERANCE_MS, Mismatch, StoredValue

# One round trip; more keys at once would delay lookups.
TOKENS_PER_PAGE: Final = 100
# Expiries, and views that are ahead of their checkpoint, settle within a second.
LOOKS: Final = 4
# Per partition. Differences hold whole bodies, and without a bound they fill the memory.
MAX_DIFFERENCES: Final = 10_000
PAUSE_S: Final = 1.0
DIGEST: Final = re.compile(r"[0-9a-f]{64}")

Look = Callable[[], Awaitable[Snapshot]]


class Difference(NamedTuple):
    """A token whose keys in Redis differ from its view.

    `view` is None if no fact names the token; `stored` and `job_key` are the values in Redis. The
    `partition` of an unreadable record without facts is None.
    """

    partition: int | None
    digest: ViewId
    mismatches: tuple[Mismatch, ...]
    view: View | None
    stored: StoredValue
    job_key: StoredValue | None
    version: Version
    now: int

    @property
    def grants_more(self) -> bool:
        """Whether the record may allow more than the facts do."""
        granting = {Mismatch.STATUS, Mismatch.BODY, Mismatch.EXPIRY, Mismatch.ORPHAN}
        return not granting.isdisjoint(self.mismatches) and view_diff.grants_more(
            self.view, self.stored
        )

    @property
    def job(self) -> int | None:
        """The id of the token's job."""
        return self.view.job if self.view else None


class Findings(NamedTuple):
    """The result of comparing this number of `tokens` of a partition.

    `unsettled` records were newer than every checkpoint that they were compared with. `more` counts
    the tokens beyond `MAX_DIFFERENCES` that seemed to differ.
    """

    tokens: int
    differences: list[Difference]
    unsettled: list[Difference]
    more: int = 0


class LiveTokens(NamedTuple):
    """The digests of live records by partition, and those of keys without a readable record."""

    tokens: dict[int, list[ViewId]]
    unreadable: set[ViewId]


async def live_tokens(redis: Redis, partitions: Iterable[int]) -> LiveTokens:
    """Find every token with a live record of these partitions; raises `RedisError`."""
    found = LiveTokens({partition: [] for partition in partitions}, set())
    async for page in record_scan.scan_headers(redis):
        for digest, record in page:
            if not DIGEST.fullmatch(digest):
                continue
            if record is None:
                found.unreadable.add(digest)
            elif record.status != 401 and record.partition in found.tokens:
                found.tokens[record.partition].append(digest)
    return found


class Verifier:
    """Compares by the `rules`; calls `advance` with the tokens of each page."""

    def __init__(
        self, redis: Redis, rules: ViewRules, advance: Callable[[int], object] = lambda _: None
    ) -> None:
        self._redis = redis
        self._rules = rules
        self._advance = advance

    async def verify(self, partition: int, live: LiveTokens) -> Findings:
        """Compare every token of the partition; drop the facts' tokens from `live.unreadable`.

        Raises `SnapshotError`, `DifferentRulesError` and `RedisError`.
        """

        async def look() -> Snapshot:
            return await self.settled_look(partition)

        first = await look()
        live.unreadable.difference_update(first.facts.view_ids())
        return await self.compare(first, live.tokens.get(partition, []), look)

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
            raise SnapshotError(
                f"a worker has claimed partition {partition} and does not serve it yet; ask again "
                "when `projector status` shows it as fresh"
            )
        return found

    async def compare(self, first: Snapshot, live: Iterable[ViewId], look: Look) -> Findings:
        """Compare the tokens of the facts and the `live` ones; look again at differences.

        A difference counts only if the facts are not older than the record.
        """
        tokens = {*first.facts.view_ids(), *live}
        pending = [each.digest async for each in self.differences(first, tokens)]
        found = Findings(len(tokens), [], [], len(pending[MAX_DIFFERENCES:]))
        del pending[MAX_DIFFERENCES:]
        for _ in range(LOOKS - 1):
            if not pending:
                break
            await asyncio.sleep(PAUSE_S)
            now = await look()
            found.unsettled.clear()
            async for each in self.differences(now, pending):
                (found.unsettled if _is_in_doubt(each, now) else found.differences).append(each)
            pending = [each.digest for each in found.unsettled]
        return found

    async def differences(
        self, look: Snapshot, digests: Iterable[ViewId]
    ) -> AsyncIterator[Difference]:
        """Compare these tokens with the facts of `look`, page by page."""
        for page in _pages(digests):
            for found in await self._compare_page(look, page):
                yield found
            self._advance(len(page))

    async def _compare_page(self, look: Snapshot, digests: list[ViewId]) -> list[Difference]:
        expected = [_expected_view(look, digest, self._rules) for digest in digests]
        records = await self._read_records(digests)
        current = {view.job for view in expected if view and view.is_current}
        job_keys = await view_diff.read_values(
            self._redis, [schema.job_key(job) for job in current]
        )
        by_job = dict(zip(current, job_keys, strict=True))
        found = []
        for digest, view, stored in zip(digests, expected, records, strict=True):
            job_key = by_job[view.job] if view and view.is_current else None
            if mismatches := tuple(_mismatches(look, view, stored, job_key)):
                found.append(
                    Difference(
                        look.partition, digest, mismatches, view, stored, job_key,
                        look.state.version, look.now,
                    )
                )  # fmt: skip
        return found

    async def _read_records(self, digests: list[ViewId]) -> list[StoredValue]:
        keys = [schema.record_key(digest) for digest in digests]
        return await view_diff.read_values(self._redis, keys)

    async def unreadable(self, digests: Iterable[ViewId]) -> list[Difference]:
        """Find the keys of these tokens whose value is not a record; no facts name the tokens."""
        found = []
        for page in _pages(digests):
            found += [
                Difference(
                    None, digest, (Mismatch.UNREADABLE,), None, stored, None, Version(0, 0), 0
                )
                for digest, stored in zip(page, await self._read_records(page), strict=True)
                if not stored.is_absent and stored.record is None
            ]
        return found


def _expected_view(look: Snapshot, digest: ViewId, rules: ViewRules) -> View | None:
    has_job = look.facts.job_of_view(digest) is not None
    return compute_view(look.facts, digest, rules, look.now) if has_job else None


def _mismatches(
    look: Snapshot, view: View | None, stored: StoredValue, job_key: StoredValue | None
) -> Iterator[Mismatch]:
    """Compare the token's record and its job's key with the view."""
    if view is None:
        if _is_live(stored, look.partition):
            yield Mismatch.ORPHAN
    elif view.expires_at > look.now + EXPIRY_TOLERANCE_MS:
        yield from view_diff.mismatches(view, look.partition, stored)
        if job_key and not _matches(job_key, view):
            yield Mismatch.JOB_KEY
    elif view.expires_at < look.now - EXPIRY_TOLERANCE_MS and _is_live(stored, look.partition):
        yield Mismatch.EXPIRY


def _is_live(stored: StoredValue, partition: int) -> bool:
    record = stored.record
    return record is not None and record.partition == partition and record.status != 401


def _matches(job_key: StoredValue, view: View) -> bool:
    expires_alike = abs(job_key.expires_at - view.expires_at) < EXPIRY_TOLERANCE_MS
    return job_key.raw == view.id.encode() and expires_alike


def _is_in_doubt(difference: Difference, look: Snapshot) -> bool:
    """Whether the record may be newer than the facts, or held back until these are complete."""
    record = difference.stored.record
    if difference.stored.is_absent and _started_since_stamp(look, difference.digest):
        return True
    newer = record is not None and record.partition == look.partition and (
        record.version > look.state.version
    )  # fmt: skip
    return newer or difference.digest in look.in_doubt


def _started_since_stamp(look: Snapshot, digest: ViewId) -> bool:
    """Whether the token's job is newer than the stamp: its owner may hold its first view back."""
    key = look.facts.job_of_view(digest)
    fact = look.facts.get(key) if key else None
    return fact is not None and (look.state.stamp or 0) < fact.timestamp <= look.now


def _pages(digests: Iterable[ViewId]) -> Iterator[list[ViewId]]:
    remaining = iter(digests)
    while page := list(islice(remaining, TOKENS_PER_PAGE)):
        yield page
