"""The views in Redis held against the facts of the checkpoint, and put right where they differ.

The owner goes on meanwhile. So whatever differs is looked at again, with newer facts, before it
counts; and a repair writes only over the very bytes that were compared.

Why a repair never brings back what an event took away: it carries the version of the checkpoint
whose facts it was computed from, and every record carries the version that wrote it.

- An owner that wrote the record meanwhile changed its bytes: the repair writes nothing.
- An owner that writes later does so under a higher revision, or under a higher epoch if it has
  claimed or healed in between: it overwrites the repair.
- A record newer than the checkpoint is not compared with it: it is looked at again, and if it
  stays so it is reported as not settled and left alone.
- Where nothing stood, only a record that an owner wrote and that expired since could have been
  there; the second look, after the repair, finds what outlives its token.
- Between a claim and its first stamp, the former owner's records look older than the facts though
  they may be newer: nothing is compared then.
- After a claim that rewrote everything, a repair under the former epoch could only fill a key that
  was lost since; lookups answer 503 from it, for its epoch is below the stamp's.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Final, NamedTuple, TypeVar

from redis.asyncio import Redis

from projector.domain import views
from projector.domain.projection import compute_view
from projector.domain.views import View
from projector.errors import SnapshotError
from projector.operators import snapshot
from projector.operators.snapshot import Snapshot
from projector.store import lua_scripts, partition_state, schema, token_scan, view_diff
from projector.store.partition_count import require_partition_count
from projector.store.partition_store import FIRST_EXPIRY
from projector.store.schema import Version, ViewRecord
from projector.store.view_diff import EXPIRY_TOLERANCE_MS, Mismatch, StoredValue

T = TypeVar("T")

# A page is one round trip, short enough for lookups beside it.
TOKENS_PER_PAGE: Final = 100
# Time-driven changes, and views that are ahead of their checkpoint, settle within a second.
LOOKS: Final = 4
# Of one partition, with their bodies in memory.
MAX_DIFFERENCES: Final = 10_000
PAUSE_S: Final = 1.0
DIGEST: Final = re.compile(r"[0-9a-f]{64}")

Look = Callable[[], Awaitable[Snapshot]]


class Difference(NamedTuple):
    """A token whose record is not what its facts say.

    `view` is what they say (None: no fact knows the token), `stored` and `job_key` what stands in
    Redis. `partition` is None for what no partition can be told of.
    """

    partition: int | None
    digest: str
    what: tuple[Mismatch, ...]
    view: View | None
    stored: StoredValue
    job_key: StoredValue | None
    version: Version
    now: int

    @property
    def grants_more(self) -> bool:
        """Whether the record may allow what the facts do not."""
        told = {Mismatch.STATUS, Mismatch.BODY, Mismatch.EXPIRY, Mismatch.ORPHAN}
        return bool(told & {*self.what}) and view_diff.grants_more(self.view, self.stored)

    @property
    def job(self) -> int | None:
        """The token's job."""
        return self.view.job if self.view else None


class Findings(NamedTuple):
    """What comparing `tokens` of a partition found.

    `unsettled` are those that were newer than every checkpoint they were held against, `more` is
    how many seemed to differ beyond `MAX_DIFFERENCES`.
    """

    tokens: int
    differences: list[Difference]
    unsettled: list[Difference]
    more: int = 0


class LiveTokens(NamedTuple):
    """The live records in Redis by their partitions, and the keys that hold no record."""

    tokens: dict[int, list[str]]
    unreadable: set[str]


async def live_tokens(redis: Redis, partitions: Iterable[int]) -> LiveTokens:
    """Every token with a live record of these partitions; raises `RedisError`."""
    found = LiveTokens({partition: [] for partition in partitions}, set())
    async for page in token_scan.scan_headers(redis):
        for digest, record in page:
            if not DIGEST.fullmatch(digest):
                continue
            if record is None:
                found.unreadable.add(digest)
            elif record.status != 401 and record.partition in found.tokens:
                found.tokens[record.partition].append(digest)
    return found


class Verifier:
    """Compares and repairs by the rules with this minimum level; counts tokens with `advance`."""

    def __init__(
        self, redis: Redis, minimum_level: int, advance: Callable[[int], object] = lambda _: None
    ) -> None:
        self._redis = redis
        self._level = minimum_level
        self._advance = advance
        self._repair = redis.register_script(lua_scripts.REPAIR)

    async def verify(self, partition: int, live: LiveTokens) -> Findings:
        """Compare every token of the partition; takes what its facts know out of `unreadable`.

        Raises `SnapshotError`, `OtherRulesError` and `RedisError`.
        """

        async def look() -> Snapshot:
            return await self._settled(partition)

        first = await look()
        live.unreadable.difference_update(first.facts.tokens())
        return await self.compare(first, live.tokens.get(partition, []), look)

    async def look(self, partition: int) -> Snapshot:
        """The facts as they are now. Once more, should a claim come in between."""
        try:
            found = await snapshot.read_snapshot(self._redis, partition)
        except SnapshotError:
            await asyncio.sleep(PAUSE_S)
            found = await snapshot.read_snapshot(self._redis, partition)
        rules = {"minimum_level": self._level}
        partition_state.refuse_other_rules(partition, found.state, rules)
        return found

    async def _settled(self, partition: int) -> Snapshot:
        """The facts under a claim that has stamped.

        Before that the former owner may go on writing views, under a lower epoch and of events
        that the facts do not have yet: they are newer, and look older.
        """
        found = await self.look(partition)
        if found.state.stamp_epoch != found.state.version.epoch:
            await asyncio.sleep(PAUSE_S)
            found = await self.look(partition)
        if found.state.stamp_epoch != found.state.version.epoch:
            raise SnapshotError(
                f"a worker has claimed partition {partition} and does not serve it yet; ask again "
                "when `projector status` calls it fresh"
            )
        return found

    async def compare(self, first: Snapshot, live: Iterable[str], look: Look) -> Findings:
        """Compare the tokens of the facts and the live ones; what differs, again with a new look.

        A difference counts once it was seen with facts that are no older than the record.
        """
        tokens = {*first.facts.tokens(), *live}
        pending = [each.digest async for each in self._differing(first, tokens)]
        found = Findings(len(tokens), [], [], len(pending[MAX_DIFFERENCES:]))
        del pending[MAX_DIFFERENCES:]
        for _ in range(LOOKS - 1):
            if not pending:
                break
            await asyncio.sleep(PAUSE_S)
            now = await look()
            found.unsettled.clear()
            async for each in self._differing(now, pending):
                (found.unsettled if _is_in_doubt(each, now) else found.differences).append(each)
            pending = [each.digest for each in found.unsettled]
        return found

    async def _differing(self, look: Snapshot, tokens: Iterable[str]) -> AsyncIterator[Difference]:
        for page in chunked(tokens, TOKENS_PER_PAGE):
            for found in await self._differing_of(look, page):
                yield found
            self._advance(len(page))

    async def _differing_of(self, look: Snapshot, page: list[str]) -> list[Difference]:
        expected = [_view(look, digest, self._level) for digest in page]
        stored = await view_diff.read_values(
            self._redis, [schema.token_record_key(digest) for digest in page]
        )
        current = {view.job for view in expected if view and view.is_current}
        job_keys = await view_diff.read_values(
            self._redis, [schema.job_token_key(job) for job in current]
        )
        by_job = dict(zip(current, job_keys, strict=True))
        found = []
        for digest, view, held in zip(page, expected, stored, strict=True):
            job_key = by_job[view.job] if view and view.is_current else None
            what = tuple(_what(look, view, held, job_key))
            if what:
                found.append(
                    Difference(
                        look.partition, digest, what, view, held, job_key,
                        look.state.version, look.now,
                    )
                )  # fmt: skip
        return found

    # repair

    async def repair(self, difference: Difference) -> bool:
        """Write what the facts say; false where it is another partition's, or changed meanwhile."""
        if Mismatch.FOREIGN in difference.what and await self._is_justified(difference):
            return False
        if difference.what != (Mismatch.JOB_KEY,) and not await self._write_record(difference):
            return False
        return Mismatch.JOB_KEY not in difference.what or await self._write_job_key(difference)

    async def _is_justified(self, difference: Difference) -> bool:
        """Whether the facts of the partition that the record names know the token."""
        record = difference.stored.record
        if record is None or record.partition >= await require_partition_count(self._redis):
            return False
        theirs = await self._settled(record.partition)
        return theirs.facts.job_of_token(difference.digest) is not None

    async def _write_record(self, difference: Difference) -> bool:
        key, value, expires_at = schema.token_record_key(difference.digest), b"", 0
        if difference.partition is not None:
            view = difference.view or views.tombstone(difference.digest, difference.now)
            version, partition = difference.version, difference.partition
            value = ViewRecord(view.status, partition, version, view.body).encode()
            expires_at = view.expires_at
        return await self._write(key, difference.stored, value, expires_at)

    async def _write_job_key(self, difference: Difference) -> bool:
        view, job_key = difference.view, difference.job_key
        assert view is not None and job_key is not None  # noqa: S101, PT018  what `_what` says
        key, value = schema.job_token_key(view.job), view.digest.encode()
        return await self._write(key, job_key, value, view.expires_at)

    async def _write(self, key: str, stood: StoredValue, value: bytes, expires_at: int) -> bool:
        kind = "none" if stood.is_absent else "other" if stood.is_other else "string"
        args: list[bytes | str | int] = [
            kind,
            stood.raw or b"",
            value,
            max(expires_at, FIRST_EXPIRY),
        ]
        return bool(await self._repair(keys=[key], args=args))

    async def again(self, differences: list[Difference]) -> list[Difference]:
        """Those that still differ after a repair."""
        by_partition: defaultdict[int, list[str]] = defaultdict(list)
        left: list[Difference] = []
        for each in differences:
            if each.partition is None:
                left += await self.unreadable([each.digest])
            else:
                by_partition[each.partition].append(each.digest)
        for partition, digests in by_partition.items():
            look = await self._settled(partition)
            left += [each async for each in self._differing(look, digests)]
        return left

    async def unreadable(self, digests: Iterable[str]) -> list[Difference]:
        """What is no record under the keys of these tokens, which no facts know."""
        found = []
        for page in chunked(digests, TOKENS_PER_PAGE):
            stored = await view_diff.read_values(
                self._redis, [schema.token_record_key(digest) for digest in page]
            )
            found += [
                Difference(None, digest, (Mismatch.UNREADABLE,), None, held, None, Version(0, 0), 0)
                for digest, held in zip(page, stored, strict=True)
                if not held.is_absent and held.record is None
            ]
        return found


def _view(look: Snapshot, digest: str, minimum_level: int) -> View | None:
    known = look.facts.job_of_token(digest) is not None
    return compute_view(look.facts, digest, minimum_level, look.now) if known else None


def _what(
    look: Snapshot, view: View | None, stored: StoredValue, job_key: StoredValue | None
) -> Iterator[Mismatch]:
    """How the token's keys differ from what the facts say."""
    if view is None:
        if _is_live(stored, look.partition):
            yield Mismatch.ORPHAN
    elif view.expires_at > look.now + EXPIRY_TOLERANCE_MS:
        yield from view_diff.mismatches(view, look.partition, stored)
        if job_key and not _names(job_key, view):
            yield Mismatch.JOB_KEY
    elif view.expires_at < look.now - EXPIRY_TOLERANCE_MS and _is_live(stored, look.partition):
        yield Mismatch.EXPIRY


def _is_live(stored: StoredValue, partition: int) -> bool:
    record = stored.record
    return record is not None and record.partition == partition and record.status != 401


def _names(job_key: StoredValue, view: View) -> bool:
    lasts = abs(job_key.expires_at - view.expires_at) < EXPIRY_TOLERANCE_MS
    return job_key.raw == view.digest.encode() and lasts


def _is_in_doubt(difference: Difference, look: Snapshot) -> bool:
    """Whether the record may be newer than the facts that it was held against."""
    record = difference.stored.record
    newer = record is not None and record.partition == look.partition and (
        record.version > look.state.version
    )  # fmt: skip
    return newer or difference.digest in look.in_doubt


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of this size; the last may be shorter."""
    page: list[T] = []
    for item in items:
        page.append(item)
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page
