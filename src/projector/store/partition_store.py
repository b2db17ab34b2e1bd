"""Redis, as one partition's owner writes it: claim, views, checkpoint, stamp.

Every write carries the owner's claim, and is refused once a newer claim has overtaken it.
"""

import asyncio
from collections import Counter, deque
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Container,
    Iterable,
    Iterator,
    Mapping,
)
from typing import Any, Final, NamedTuple, TypeVar, cast

import structlog
from redis.asyncio import Redis

from projector import metrics
from projector.clients import redis_batch as calls
from projector.clients.redis_batch import Argument
from projector.clients.redis_servers import RedisServers
from projector.domain.fact_keys import Key
from projector.domain.views import View
from projector.errors import IncompleteCheckpointError, WriteRefusedError
from projector.events.model import Topic
from projector.store import lua_scripts, partition_state, schema, view_diff
from projector.store.partition_count import agree_on_partitions
from projector.store.partition_state import PartitionState
from projector.store.schema import Version
from projector.store.view_diff import Mismatch, StoredValue

T = TypeVar("T")

# 1,000 keys in one script block the server for some 7 ms; lookups must not wait that long.
VIEWS_PER_CALL: Final = 100
# While Redis works on one, the next is computed and sent. More gain nothing.
CALLS_IN_FLIGHT: Final = 2
FIELDS_PER_CALL: Final = 1000
BYTES_PER_CALL: Final = 4 * 1024 * 1024
INCOMPLETE: Final = -1
# Redis takes no expiry at or before 1970; anything else that is past deletes the key.
FIRST_EXPIRY: Final = 1
# Outlasts any change of owners, and does not outlast a partition that nobody owns for long.
ACTIVITY_KEPT_S: Final = 300
_key: Final = cast(Callable[[bytes], Key], bytes.decode)

log = structlog.get_logger()


class Checkpoint(NamedTuple):
    """Where the last owner stopped: the next offset of each topic; empty if there was none."""

    revision: int
    offsets: dict[Topic, int]
    facts: int


class PartitionStore:
    """One partition in Redis, for one owner.

    Every method raises `RedisError` when Redis does not answer, and those that write
    `RefusedError` when another owner has come in between.
    """

    def __init__(self, redis: Redis, server: RedisServers, partition: int, owner: str) -> None:
        self._redis = redis
        self._server = server
        self._server_changes = 0
        self._partition = partition
        self.owner = owner
        self._epoch = 0
        self._revision = 0
        # The revision of the views written last, which the next checkpoint makes valid.
        self._written = 0
        self._refused_by = 0
        self._hash = schema.partition_key(partition)
        self._facts = schema.facts_key(partition)
        self._claim = redis.register_script(lua_scripts.CLAIM)
        self._write_views = redis.register_script(lua_scripts.WRITE_VIEWS)
        self._checkpoint = redis.register_script(lua_scripts.CHECKPOINT)
        self._forget = redis.register_script(lua_scripts.FORGET)
        self._stamp = redis.register_script(lua_scripts.STAMP)

    @property
    def version(self) -> Version:
        """The version that the last checkpoint made valid."""
        return Version(self._epoch, self._revision)

    @property
    def is_ahead(self) -> bool:
        """Whether views are written that no checkpoint has made valid yet."""
        return self._written > self._revision

    async def claim(self, partitions: int, rules: Mapping[str, int] | None = None) -> Checkpoint:
        """Become the owner of one of `partitions` under a new epoch; what the last one left.

        `rules` are the settings that the views depend on, kept for those who compute them too.
        """
        self._server_changes = self._server.changes
        await agree_on_partitions(self._redis, partitions)
        args: list[Argument] = [self.owner, self._refused_by, *_flat((rules or {}).items())]
        self._epoch = int(await self._claim(keys=[self._hash], args=args))
        held = await self._held()
        self._revision = held.version.revision if held else 0
        return Checkpoint(self._revision, held.offsets if held else {}, (held and held.facts) or 0)

    async def _held(self) -> PartitionState | None:
        """The partition's state. One that is damaged must not keep every worker from it."""
        try:
            return await partition_state.read_partition_state(self._redis, self._partition)
        except ValueError as error:
            log.warning("partition state unreadable, reading everything again",
                        partition=self._partition, reason=str(error))  # fmt: skip
            await self._redis.hdel(self._hash, *partition_state.CHECKPOINT)
            return None

    async def is_claimed_by_another(self) -> bool:
        """Whether a newer claim holds the partition; not so if the claim is only gone."""
        epoch, owner = await self._redis.hmget(self._hash, ["epoch", "owner"])
        return int(epoch or 0) >= self._epoch and owner != self.owner.encode()

    async def load(self) -> AsyncGenerator[dict[Key, bytes], None]:
        """The checkpoint's facts in parts, which may repeat some; ValueError where one has no name.

        Redis looks for the next part while this one is being used.
        """
        asked: asyncio.Task[Any] | None = self._ask_for_facts(0)
        try:
            while asked:
                cursor, fields = await asked
                self._refuse_changed_server()
                asked = self._ask_for_facts(cursor) if cursor else None
                # Or the question would leave only when the part has been used. Twice, for on Python
                # 3.11 redis-py sends in a task of its own where sending must end in time.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                yield dict(zip(map(_key, fields), fields.values(), strict=True))
        finally:
            await _abandon(asked)

    def _ask_for_facts(self, cursor: int) -> asyncio.Task[Any]:
        found: Any = self._redis.hscan(self._facts, cursor, count=FIELDS_PER_CALL)
        return asyncio.create_task(found)

    def refuse_incomplete(self, checkpoint: Checkpoint, found: int) -> None:
        """Raise `IncompleteCheckpointError` if other than `found` facts were written."""
        if found != checkpoint.facts:
            raise IncompleteCheckpointError(
                f"{self._facts} has {found} facts where {checkpoint.facts} were written"
            )

    async def forget_checkpoint(self) -> None:
        """Drop a checkpoint that cannot be used; the facts come from Kafka again."""
        args: list[Argument] = [self._epoch, self.owner, *(f"offset:{t}" for t in Topic)]
        self._check(await self._forget(keys=[self._hash, self._facts], args=args))

    async def write_views(
        self, changed: Iterable[View], named: Container[str] | None = None
    ) -> Counter[int]:
        """Write views, each of another token, before the checkpoint that makes them valid.

        Each call has a higher revision than the one before, so that no attempt at it that is still
        on its way ever overwrites a later one. `named` are the tokens whose jobs do not name them
        yet; all of them if not given. Returns how many there were of each status.
        Raises `RefusedError` if a newer claim has written any of them.
        """
        self._written = max(self._written, self._revision) + 1
        version = Version(self._epoch, self._written)
        chunks = _chunks(changed, VIEWS_PER_CALL, lambda view: len(view.body))
        statuses: Counter[int] = Counter()

        def writes() -> Iterator[Awaitable[None]]:
            for chunk in chunks:
                statuses.update(view.status for view in chunk)
                yield self._write_chunk(chunk, version, named)

        await _overlapping(writes())
        return statuses

    async def _write_chunk(
        self, chunk: list[View], version: Version, named: Container[str] | None
    ) -> None:
        await self._write_jobs([v for v in chunk if named is None or v.digest in named])
        heads = _Heads(self._partition, version)
        shared, own = [f"{self._partition:04}", str(version)], list[Argument]()
        for view in chunk:
            own += (heads[view.status] + view.body, max(view.expires_at, FIRST_EXPIRY))
        keys = _token_keys(chunk)
        found = await calls.run_script(self._redis, self._write_views, keys, shared, own)
        for first, (_, foreign) in found:
            self._report_foreign(chunk[first:], foreign)
        self._refuse_newer(max(newest for _, (newest, _) in found))

    async def drifted(self, expected: list[View]) -> list[View]:
        """Those views whose record in Redis says something else, or expires at another time."""
        if not expected:
            return []
        stored = await view_diff.read_values(self._redis, _token_keys(expected))
        self._refuse_changed_server()
        pairs = zip(expected, stored, strict=True)
        return [view for view, found in pairs if self._has_drifted(view, found)]

    def _has_drifted(self, view: View, stored: StoredValue) -> bool:
        found = view_diff.mismatches(view, self._partition, stored)
        return bool(found) and found != [Mismatch.FOREIGN]

    async def checkpoint(
        self, offsets: Mapping[Topic, int], facts: Mapping[Key, bytes | None], total: int
    ) -> None:
        """Make a revision valid, and all views written so far: facts that changed, next offsets.

        `total` is how many facts there are then. Many go in several steps; until the last one the
        checkpoint counts as incomplete, for its facts are ahead of its offsets.
        Raises `RefusedError` if the claim is no longer this owner's or the revision not its last.
        """
        chunks = _chunks(facts.items(), FIELDS_PER_CALL, lambda f: len(f[0]) + len(f[1] or b""))
        *steps, last = list(chunks) or [[]]
        for step in steps:
            await self._checkpoint_step({}, step, INCOMPLETE)
        await self._checkpoint_step(offsets, last, total)
        self._refuse_changed_server()

    async def _checkpoint_step(
        self, offsets: Mapping[Topic, int], facts: list[tuple[Key, bytes | None]], total: int
    ) -> None:
        sets = [(key, value) for key, value in facts if value is not None]
        deletes = [key for key, value in facts if value is None]
        revision = max(self._revision + 1, self._written)
        args: list[Argument] = [self._epoch, self.owner, self._revision, revision]
        args += [total, len(offsets), *_flat(offsets.items()), len(sets), *_flat(sets), *deletes]
        self._check(await self._checkpoint(keys=[self._hash, self._facts], args=args))
        self._revision = revision

    async def stamp(self, moment: int) -> None:
        """Declare the partition fresh as of `moment` (milliseconds of Redis TIME)."""
        # In a cluster the views are on other servers than the stamp, which says nothing of them.
        self._refuse_changed_server()
        args: list[Argument] = [self._epoch, self.owner, self._revision, moment]
        self._check(await self._stamp(keys=[self._hash], args=args))

    async def publish(self, activity: bytes) -> None:
        """Let operators see what this owner does; not fenced, since no answer depends on it."""
        key = schema.activity_key(self._partition)
        await self._redis.set(key, activity, ex=ACTIVITY_KEPT_S)

    async def now(self) -> int:
        """Redis TIME in milliseconds; what became of any server until then is noticed."""
        moment = await calls.server_time(self._redis, self._hash)
        await calls.barrier(self._redis)
        return moment

    async def _write_jobs(self, started: list[View]) -> None:
        sets: list[tuple[Argument, ...]] = [
            ("SET", schema.job_token_key(v.job), v.digest, "PXAT", max(v.expires_at, FIRST_EXPIRY))
            for v in started
            if v.is_current
        ]
        if sets:
            await calls.execute_writes(self._redis, sets)

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

    def _refuse_changed_server(self) -> None:
        """What was acknowledged before a restart or failover may be lost, what came after not."""
        if self._server.changes != self._server_changes:
            raise WriteRefusedError(
                f"partition {self._partition}: Redis was restarted or failed over"
            )

    def _report_foreign(self, chunk: list[View], positions: list[int]) -> None:
        for position in positions:
            metrics.FOREIGN_TOKENS.inc()
            log.warning(
                "a job's token belongs to a job of another partition; the first one keeps it",
                partition=self._partition, job=chunk[position - 1].job,
            )  # fmt: skip


async def _abandon(task: asyncio.Task[Any] | None) -> None:
    if task:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _Heads(dict[int, bytes]):
    """How a record begins, by its status."""

    def __init__(self, partition: int, version: Version) -> None:
        super().__init__()
        self._rest = (partition, version)

    def __missing__(self, status: int) -> bytes:
        head = self[status] = schema.ViewRecord(status, *self._rest, b"").encode()
        return head


async def _overlapping(calls: Iterable[Awaitable[None]]) -> None:
    """Await all, a few at a time, in this order; the first error leaves none running."""
    running: deque[asyncio.Future[None]] = deque()
    try:
        for call in calls:
            running.append(asyncio.ensure_future(call))
            # Let it be sent before the next one is computed, by a task of its own on Python 3.11.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if len(running) == CALLS_IN_FLIGHT:
                await running.popleft()
        while running:
            await running.popleft()
    finally:
        await asyncio.gather(*running, return_exceptions=True)


def _token_keys(chunk: list[View]) -> list[str]:
    return [schema.token_record_key(view.digest) for view in chunk]


def _chunks(items: Iterable[T], most: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Chunks of at most so many items, and of so many bytes that no call takes seconds."""
    chunk: list[T] = []
    held = 0
    for item in items:
        if chunk and (len(chunk) == most or held + size(item) > BYTES_PER_CALL):
            yield chunk
            chunk, held = [], 0
        chunk.append(item)
        held += size(item)
    if chunk:
        yield chunk


def _flat(pairs: Iterable[tuple[str, Argument]]) -> list[Argument]:
    return [part for pair in pairs for part in pair]
