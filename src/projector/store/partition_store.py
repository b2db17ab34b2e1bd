"""One partition in Redis, as its owner writes it: claim, views, checkpoint, stamp.

Every write carries the owner's claim. Redis refuses it after a newer claim.
"""

import asyncio
from collections import Counter, deque
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Container,
    Iterable,
    Iterator,
    Mapping,
)
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar, cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from projector import metrics
from projector.clients import redis_batch
from projector.clients.redis_batch import Argument
from projector.clients.redis_servers import RedisServers
from projector.clients.trusted_clock import TOLERANCE_MS, ClockError
from projector.domain.fact_keys import Key
from projector.domain.views import View, ViewId
from projector.elapsed import elapsed
from projector.errors import IncompleteCheckpointError, WriteRefusedError
from projector.events.log_identity import LogIdentity
from projector.events.model import Topic
from projector.store import lua_scripts, partition_state, schema, view_diff
from projector.store.partition_count import restore_partition_count
from projector.store.partition_state import PartitionState
from projector.store.schema import Version
from projector.store.view_diff import Mismatch, StoredValue

T = TypeVar("T")

# A script with 1,000 keys blocks Redis for some 7 ms; lookups must not wait that long.
VIEWS_PER_CALL: Final = 100
# One MGET blocks Redis for less than that.
VIEWS_PER_READ: Final = 500
# While Redis runs one call, the next is computed and sent. More calls gain nothing.
CALLS_IN_FLIGHT: Final = 2
FIELDS_PER_CALL: Final = 1000
BYTES_PER_CALL: Final = 4 * 1024 * 1024
INCOMPLETE: Final = -1
# Redis refuses an expiry at or before 1970. Any later time in the past deletes the key.
FIRST_EXPIRY: Final = 1
# Survives a hand-over; expires soon after the last owner is gone.
ACTIVITY_KEPT_S: Final = 300
# A long step of another partition may make one answer late; a claim must not begin again for it.
READINGS: Final = 3
# Characters in the log of names that anyone may have written to Redis.
MAX_LOGGED: Final = 500
_key: Final = cast(Callable[[bytes], Key], bytes.decode)

log = structlog.get_logger()


class Checkpoint(NamedTuple):
    """The last owner's state: its revision, the next offset of each topic, the number of facts.

    `logs` are those that the offsets belong to; older workers did not store them. Without a
    checkpoint `offsets` is empty.
    """

    revision: int
    offsets: dict[Topic, int]
    facts: int
    logs: Mapping[Topic, LogIdentity] = MappingProxyType({})


class PartitionStore:
    """One partition in Redis, for one owner.

    Every method raises `RedisError` if Redis does not answer. Methods that write raise
    `WriteRefusedError` if another owner has claimed the partition.
    """

    def __init__(self, redis: Redis, server: RedisServers, partition: int, owner: str) -> None:
        self._redis = redis
        self._server = server
        self._server_changes = 0
        self._partition = partition
        self.owner = owner
        self._epoch = 0
        self._revision = 0
        # The revision of the latest views; the next checkpoint makes it valid.
        self._written = 0
        self._refused_by = 0
        self._hash = schema.partition_key(partition)
        self._facts = schema.facts_key(partition)
        self._claim = redis.register_script(lua_scripts.CLAIM)
        self._write_views = redis.register_script(lua_scripts.WRITE_VIEWS)
        self._repair = redis.register_script(lua_scripts.REPAIR)
        self._checkpoint = redis.register_script(lua_scripts.CHECKPOINT)
        self._forget = redis.register_script(lua_scripts.FORGET)
        self._stamp = redis.register_script(lua_scripts.STAMP)
        self._silence = redis.register_script(lua_scripts.SILENCE)

    @property
    def version(self) -> Version:
        """Return the version of the last checkpoint."""
        return Version(self._epoch, self._revision)

    @property
    def is_ahead(self) -> bool:
        """Whether views have been written since the last checkpoint."""
        return self._written > self._revision

    async def claim(
        self,
        partitions: int,
        rules: Mapping[str, int] | None = None,
        sources: Collection[str] = (),
    ) -> Checkpoint:
        """Claim the partition, one of `partitions`, under a new epoch; return its checkpoint.

        `rules` are the settings that the views depend on. Commands that compute views compare them.
        `sources` are those that stamps wait for. Commands that stamp compare them.
        """
        # Meets the server, so that a failover before the claim is none after it.
        now = await self.now()
        self._server_changes = self._server.changes
        await restore_partition_count(self._redis, partitions)
        args: list[Argument] = [self.owner, self._refused_by, now, *_flat((rules or {}).items())]
        args += ["sources", ",".join(sources)]
        epoch, former = await self._claim(keys=[self._hash], args=args)
        self._epoch = int(epoch)
        self._report_other_sources(former, sources)
        state = await self._read_state()
        if state is None:
            self._revision = 0
            return Checkpoint(0, {}, 0)
        self._revision = state.version.revision
        return Checkpoint(self._revision, state.offsets, state.facts or 0, state.logs)

    def _report_other_sources(self, stored: bytes | None, sources: Collection[str]) -> None:
        """Log that the former owner's stamps waited for other sources than this one's."""
        former = partition_state.decode_sources(stored)
        if former is not None and former != frozenset(sources):
            log.warning("the former owner waited for other sources", partition=self._partition,
                        former=_named(former), now=_named(sources))  # fmt: skip

    async def _read_state(self) -> PartitionState | None:
        """Read the state; drop a malformed checkpoint, which would stop every worker."""
        try:
            return await partition_state.read_partition_state(self._redis, self._partition)
        except ValueError as error:
            log.warning("partition state unreadable, reading everything again",
                        partition=self._partition, reason=str(error))  # fmt: skip
            await self._redis.hdel(self._hash, *partition_state.CHECKPOINT)
            return None

    async def is_claimed_by_another(self) -> bool:
        """Whether a newer claim holds the partition; false if the claim is only missing."""
        try:
            epoch, owner = await self._redis.hmget(self._hash, ["epoch", "owner"])
            return int(epoch or 0) >= self._epoch and owner != self.owner.encode()
        except (ResponseError, ValueError) as error:
            if not _is_malformed(error):
                raise
            return False

    async def load(self) -> AsyncGenerator[dict[Key, bytes], None]:
        """Yield the checkpoint's facts in parts; parts may repeat facts.

        Redis reads the next part while the caller uses this one. Raises `ValueError` for a fact
        whose key is not UTF-8, and `IncompleteCheckpointError` if the key is not a hash.
        """
        reading: asyncio.Task[Any] | None = self._start_read(0)
        try:
            while reading:
                cursor, fields = await self._part(reading)
                self.refuse_changed_server()
                reading = self._start_read(cursor) if cursor else None
                # Lets the request leave before the caller uses the part. Twice, because redis-py
                # sends in a task of its own on Python 3.11.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                yield dict(zip(map(_key, fields), fields.values(), strict=True))
        finally:
            await _cancel(reading)

    async def _part(self, reading: asyncio.Task[Any]) -> Any:
        try:
            return await reading
        except ResponseError as error:
            if _is_malformed(error):
                raise IncompleteCheckpointError(f"{self._facts} is not a hash") from None
            raise

    def _start_read(self, cursor: int) -> asyncio.Task[Any]:
        scan: Any = self._redis.hscan(self._facts, cursor, count=FIELDS_PER_CALL)
        return asyncio.create_task(scan)

    def refuse_incomplete(self, checkpoint: Checkpoint, found: int) -> None:
        """Raise `IncompleteCheckpointError` unless the checkpoint counts `found` facts."""
        if found != checkpoint.facts:
            raise IncompleteCheckpointError(
                f"{self._facts} has {found} facts where {checkpoint.facts} were written"
            )

    async def forget_checkpoint(self) -> None:
        """Delete an unusable checkpoint; the owner then reads all events from Kafka."""
        args: list[Argument] = [self._epoch, self.owner, *partition_state.PLACES]
        self._check(await self._forget(keys=[self._hash, self._facts], args=args))

    async def write_views(
        self, changed: Iterable[View], pointers: Container[ViewId] | None = None
    ) -> Counter[int]:
        """Write different views; the next checkpoint makes them valid.

        Each call has a higher revision than the one before, so a late attempt never overwrites a
        later call. `pointers` are the views whose jobs' pointers are written too, None for all.
        Returns the number of views by status. Raises `WriteRefusedError` if a newer claim has
        written one of these records.
        """
        self._written = max(self._written, self._revision) + 1
        version = Version(self._epoch, self._written)
        chunks = _chunks(changed, VIEWS_PER_CALL, lambda view: len(view.body))
        statuses: Counter[int] = Counter()

        def writes() -> Iterator[Awaitable[None]]:
            for chunk in chunks:
                statuses.update(view.status for view in chunk)
                yield self._write_chunk(chunk, version, pointers)

        await _overlap(writes())
        return statuses

    async def _write_chunk(
        self, chunk: list[View], version: Version, pointers: Container[ViewId] | None
    ) -> None:
        # A head for each view instead of each status would take four times as long.
        heads = {
            status: schema.ViewRecord(status, self._partition, version, b"").encode()
            for status in {view.status for view in chunk}
        }
        keys, values = _record_keys(chunk), [heads[view.status] + view.body for view in chunk]
        foreign, behind = await self._write_values(chunk, keys, values, version)
        for at in behind:
            if chunk[at].is_current:
                await self._replace_pointer(chunk[at], values[at])
        # Behind the records that they name, and never to a record of another partition.
        pointed = [
            view
            for at, view in enumerate(chunk)
            if view.has_pointer and at not in foreign and (pointers is None or view.id in pointers)
        ]
        if pointed:
            keys = [schema.job_key(view.job) for view in pointed]
            await self._write_values(pointed, keys, [v.id.encode() for v in pointed], version)

    async def _write_values(
        self, views: list[View], keys: list[str], values: list[bytes], version: Version
    ) -> tuple[set[int], list[int]]:
        """Write a value for each view, unless a newer or a foreign record, or a pointer, is there.

        Returns the positions of those behind foreign records, and behind pointers.
        """
        shared, own = [f"{self._partition:04}", str(version)], list[Argument]()
        for view, value in zip(views, values, strict=True):
            own += (value, max(view.expires_at, FIRST_EXPIRY))
        results = await redis_batch.run_script(self._redis, self._write_views, keys, shared, own)
        foreign = {first + at - 1 for first, (_, found, _) in results for at in found}
        self._report_foreign(views, foreign)
        self._refuse_newer(max(newest for _, (newest, _, _) in results))
        return foreign, [first + at - 1 for first, (_, _, found) in results for at in found]

    async def _replace_pointer(self, view: View, record: bytes) -> None:
        """Write a record in place of the pointer that is there now, and of no other value.

        The facts have lost the digest, or another job had this id. So a late attempt replaces no
        pointer that came after.
        """
        key = schema.record_key(view.id)
        (stored,) = await view_diff.read_values(self._redis, [key])
        if stored.pointer:
            expiry = max(view.expires_at, FIRST_EXPIRY)
            await self._repair(keys=[key], args=["string", stored.pointer, record, expiry])

    async def drifted(self, expected: Iterable[View]) -> list[View]:
        """Return the views whose records or pointers in Redis differ, in content or expiry."""
        found: list[View] = []
        for chunk in _chunks(expected, VIEWS_PER_READ, lambda view: len(view.body)):
            stored = await view_diff.read_values(self._redis, _record_keys(chunk))
            pairs = list(zip(chunk, stored, strict=True))
            unnamed = await self._unnamed([v for v, value in pairs if not self._is_foreign(value)])
            self.refuse_changed_server()
            for view, value in pairs:
                if self._has_drifted(view, value) or view.id in unnamed:
                    found.append(view)
        return found

    def _has_drifted(self, view: View, stored: StoredValue) -> bool:
        found = view_diff.mismatches(view, self._partition, stored)
        return bool(found) and found != [Mismatch.FOREIGN]

    async def _unnamed(self, views: list[View]) -> set[ViewId]:
        """Return the views that the keys of their jobs should name and do not.

        A late pointer of a former owner is not fenced by another pointer. The keys of another
        partition's jobs are left alone: a job's own record, or a digest with one.
        """
        views = [view for view in views if view.has_pointer]
        keys = [schema.job_key(view.job) for view in views]
        stored = await view_diff.read_values(self._redis, keys)
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

    async def checkpoint(
        self,
        offsets: Mapping[Topic, int],
        facts: Mapping[Key, bytes | None],
        total: int,
        logs: Mapping[Topic, LogIdentity] = MappingProxyType({}),
    ) -> None:
        """Write changed facts and the next offsets, and so make all views written so far valid.

        `total` is the number of all facts then, `logs` are those that the offsets belong to.
        Many facts are written in several steps. Until the last step the checkpoint counts as
        incomplete, because its facts are ahead of its offsets.
        Raises `WriteRefusedError` if the claim or the revision in Redis is not this owner's last.
        """
        chunks = _chunks(facts.items(), FIELDS_PER_CALL, lambda f: len(f[0]) + len(f[1] or b""))
        *steps, last = list(chunks) or [[]]
        for step in steps:
            await self._checkpoint_step({}, step, INCOMPLETE)
        await self._checkpoint_step(partition_state.encode_places(offsets, logs), last, total)
        self.refuse_changed_server()

    async def _checkpoint_step(
        self, places: Mapping[str, Argument], facts: list[tuple[Key, bytes | None]], total: int
    ) -> None:
        sets = [(key, value) for key, value in facts if value is not None]
        deletes = [key for key, value in facts if value is None]
        revision = max(self._revision + 1, self._written)
        args: list[Argument] = [self._epoch, self.owner, self._revision, revision]
        args += [total, len(places), *_flat(places.items()), len(sets), *_flat(sets), *deletes]
        self._check(await self._checkpoint(keys=[self._hash, self._facts], args=args))
        self._revision = revision

    async def stamp(self, timestamp_ms: int, /) -> None:
        """Declare the partition fresh as of this time (milliseconds of Redis TIME).

        Raises `WriteRefusedError`, and `ClockError` if TIME is not what this process's own clock
        lets expect.
        """
        # In a cluster other servers hold the views; a restart of theirs does not fail the stamp.
        self.refuse_changed_server()
        place = redis_batch.place_of(self._redis, self._hash)
        expected = self._server.expected_time(place)
        args: list[Argument] = [self._epoch, self.owner, self._revision, timestamp_ms]
        args += [self._server.identity(place), "" if expected is None else round(expected)]
        args.append(round(TOLERANCE_MS))
        outcome = await self._stamp(keys=[self._hash, self._facts], args=args)
        if outcome == b"clock":
            raise ClockError("its clock has jumped since the probe")
        self._check(outcome)

    async def note_silence(self, source: str, since_ms: int) -> None:
        """Declare that stamps wait for this source alone; it counts for two seconds.

        The next stamp takes it back. The source last vouched for the partition as of `since_ms`
        (milliseconds of Redis TIME), 0 if it never did. Raises `WriteRefusedError`.
        """
        self.refuse_changed_server()
        args: list[Argument] = [self._epoch, self.owner, f"{source} {since_ms}"]
        self._check(await self._silence(keys=[self._hash], args=args))

    async def publish(self, activity: bytes) -> None:
        """Publish this owner's activity for operators; not fenced, because no answer needs it."""
        key = schema.activity_key(self._partition)
        await self._redis.set(key, activity, ex=ACTIVITY_KEPT_S)

    async def now(self) -> int:
        """Return Redis TIME in milliseconds; restarts and failovers before it are noticed.

        Raises `ClockError` while a server's clock is not believed.
        """
        for _ in range(READINGS):
            sent = elapsed()
            answers = await redis_batch.identify(self._redis, self._hash)
            if elapsed() - sent <= TOLERANCE_MS / 1000:
                await self._server.note(answers, sent)
                await redis_batch.barrier(self._redis)
                return int(answers[0].now)
        raise ClockError("it answers too late to compare clocks")

    def _check(self, outcome: bytes) -> None:
        if outcome != b"ok":
            raise WriteRefusedError(
                f"partition {self._partition}: Redis no longer has this owner's {outcome.decode()}"
            )

    def _refuse_newer(self, newest: bytes) -> None:
        if newest:
            self._refused_by = max(self._refused_by, int(newest.split()[0], 16))
            raise WriteRefusedError(
                f"views of partition {self._partition} are newer: {newest.decode()}"
            )

    def refuse_changed_server(self) -> None:
        """Raise `WriteRefusedError` after a restart or failover: earlier writes may be lost."""
        if self._server.changes != self._server_changes:
            raise WriteRefusedError(
                f"partition {self._partition}: Redis failed over, or restarted, or its clock jumped"
            )

    def _report_foreign(self, views: list[View], foreign: Iterable[int]) -> None:
        for at in foreign:
            metrics.FOREIGN_TOKENS.inc()
            log.warning(
                "a job, or its token, belongs to another partition too; the first one keeps it",
                partition=self._partition, job=views[at].job,
            )  # fmt: skip


def _is_malformed(error: Exception) -> bool:
    """Whether a key is of another type than it must be, or holds another text than a number."""
    return isinstance(error, ValueError) or str(error).startswith("WRONGTYPE")


async def _cancel(task: asyncio.Task[Any] | None) -> None:
    if task:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _overlap(calls: Iterable[Awaitable[None]]) -> None:
    """Await all calls in this order, `CALLS_IN_FLIGHT` at a time; no call survives an error."""
    running: deque[asyncio.Future[None]] = deque()
    try:
        for call in calls:
            running.append(asyncio.ensure_future(call))
            # Lets the call be sent before the next one is computed. Twice, as in `load`.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if len(running) == CALLS_IN_FLIGHT:
                await running.popleft()
        while running:
            await running.popleft()
    finally:
        await asyncio.gather(*running, return_exceptions=True)


def _record_keys(chunk: list[View]) -> list[str]:
    return [schema.record_key(view.id) for view in chunk]


def _chunks(items: Iterable[T], most: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield chunks of at most `most` items and, unless an item is larger, `BYTES_PER_CALL`."""
    chunk: list[T] = []
    total = 0
    for item in items:
        if chunk and (len(chunk) == most or total + size(item) > BYTES_PER_CALL):
            yield chunk
            chunk, total = [], 0
        chunk.append(item)
        total += size(item)
    if chunk:
        yield chunk


def _named(sources: Collection[str]) -> str:
    return ",".join(sorted(sources))[:MAX_LOGGED] or "none"


def _flat(pairs: Iterable[tuple[str, Argument]]) -> list[Argument]:
    return [part for pair in pairs for part in pair]
