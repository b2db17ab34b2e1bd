"""Redis, as one partition's owner writes it: claim, views, checkpoint, stamp.

Every write carries the owner's claim, and is refused once a newer claim has overtaken it.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple, TypeVar

import structlog
from redis.asyncio import Redis

from projector import comparison, metrics, partition_state, scripts, views
from projector.comparison import Stored, What
from projector.environment import calls
from projector.environment.calls import Argument
from projector.environment.connections import Server
from projector.events import Topic
from projector.partition_state import PartitionState
from projector.projection import View
from projector.things import Key
from projector.views import Version

T = TypeVar("T")

# 1,000 keys in one script block the server for some 7 ms; lookups must not wait that long.
VIEWS_PER_CALL: Final = 100
FIELDS_PER_CALL: Final = 1000
BYTES_PER_CALL: Final = 4 * 1024 * 1024
INCOMPLETE: Final = -1
# Redis takes no expiry at or before 1970; anything else that is past deletes the key.
FIRST_EXPIRY: Final = 1
# Outlasts any change of owners, and does not outlast a partition that nobody owns for long.
ACTIVITY_KEPT_S: Final = 300

log = structlog.get_logger()


class RefusedError(Exception):
    """Redis holds a newer claim, or no longer what this owner wrote last."""


class IncompleteCheckpointError(Exception):
    """The facts in Redis are not as many as were written."""


class Checkpoint(NamedTuple):
    """Where the last owner stopped: the next offset of each topic; empty if there was none."""

    revision: int
    offsets: dict[Topic, int]
    facts: int


class Store:
    """One partition in Redis, for one owner.

    Every method raises `RedisError` when Redis does not answer, and those that write
    `RefusedError` when another owner has come in between.
    """

    def __init__(self, redis: Redis, server: Server, partition: int, owner: str) -> None:
        self._redis = redis
        self._server = server
        self._server_changes = 0
        self._partition = partition
        self.owner = owner
        self._epoch = 0
        self._revision = 0
        self._refused_by = 0
        self._hash = views.partition_key(partition)
        self._facts = views.facts_key(partition)
        self._claim = redis.register_script(scripts.CLAIM)
        self._write_views = redis.register_script(scripts.WRITE_VIEWS)
        self._checkpoint = redis.register_script(scripts.CHECKPOINT)
        self._forget = redis.register_script(scripts.FORGET)
        self._stamp = redis.register_script(scripts.STAMP)

    @property
    def version(self) -> Version:
        """The version that the last checkpoint made valid."""
        return Version(self._epoch, self._revision)

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
            return await partition_state.read(self._redis, self._partition)
        except ValueError as error:
            log.warning("partition state unreadable, reading everything again",
                        partition=self._partition, reason=str(error))  # fmt: skip
            await self._redis.hdel(self._hash, *partition_state.CHECKPOINT)
            return None

    async def is_claimed_by_another(self) -> bool:
        """Whether a newer claim holds the partition; not so if the claim is only gone."""
        epoch, owner = await self._redis.hmget(self._hash, ["epoch", "owner"])
        return int(epoch or 0) >= self._epoch and owner != self.owner.encode()

    async def load(self, checkpoint: Checkpoint) -> AsyncIterator[tuple[Key, bytes]]:
        """The checkpoint's facts; `IncompleteCheckpointError` at the end if some are missing."""
        seen: set[bytes] = set()
        async for field, value in self._redis.hscan_iter(self._facts, count=FIELDS_PER_CALL):
            if field not in seen:
                seen.add(field)
                yield Key(field.decode()), value
        if len(seen) != checkpoint.facts:
            raise IncompleteCheckpointError(
                f"{self._facts} has {len(seen)} facts where {checkpoint.facts} were written"
            )
        self._refuse_changed_server()

    async def forget_checkpoint(self) -> None:
        """Drop a checkpoint that cannot be used; the facts come from Kafka again."""
        args: list[Argument] = [self._epoch, self.owner, *(f"offset:{t}" for t in Topic)]
        self._check(await self._forget(keys=[self._hash, self._facts], args=args))

    async def write_views(self, changed: Iterable[View]) -> None:
        """Write views under the next revision, before the checkpoint that makes it valid.

        Raises `RefusedError` if a newer claim has written any of them.
        """
        version = Version(self._epoch, self._revision + 1)
        for chunk in _chunks(changed, VIEWS_PER_CALL, lambda view: len(view.body)):
            await self._write_jobs(chunk)
            shared, own = [f"{self._partition:04}", str(version)], list[Argument]()
            for view in chunk:
                record = views.Record(view.status, self._partition, version, view.body)
                own += [record.encode(), max(view.expires_at, FIRST_EXPIRY)]
            keys = _token_keys(chunk)
            found = await calls.run(self._redis, self._write_views, keys, shared, own)
            for first, (_, foreign) in found:
                self._report_foreign(chunk[first:], foreign)
            self._refuse_newer(max(newest for _, (newest, _) in found))

    async def drifted(self, expected: list[View]) -> list[View]:
        """Those views whose record in Redis says something else, or expires at another time."""
        if not expected:
            return []
        stored = await comparison.read(self._redis, _token_keys(expected))
        self._refuse_changed_server()
        pairs = zip(expected, stored, strict=True)
        return [view for view, found in pairs if self._has_drifted(view, found)]

    def _has_drifted(self, view: View, stored: Stored) -> bool:
        found = comparison.differences(view, self._partition, stored)
        return bool(found) and found != [What.FOREIGN]

    async def checkpoint(
        self, offsets: Mapping[Topic, int], facts: Mapping[Key, bytes | None], total: int
    ) -> None:
        """Make the next revision valid: facts that changed, and the next offset of each topic.

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
        args: list[Argument] = [self._epoch, self.owner, self._revision, self._revision + 1]
        args += [total, len(offsets), *_flat(offsets.items()), len(sets), *_flat(sets), *deletes]
        self._check(await self._checkpoint(keys=[self._hash, self._facts], args=args))
        self._revision += 1

    async def stamp(self, moment: int) -> None:
        """Declare the partition fresh as of `moment` (milliseconds of Redis TIME)."""
        # In a cluster the views are on other servers than the stamp, which says nothing of them.
        self._refuse_changed_server()
        args: list[Argument] = [self._epoch, self.owner, self._revision, moment]
        self._check(await self._stamp(keys=[self._hash], args=args))

    async def publish(self, activity: bytes) -> None:
        """Let operators see what this owner does; not fenced, since no answer depends on it."""
        key = views.activity_key(self._partition)
        await self._redis.set(key, activity, ex=ACTIVITY_KEPT_S)

    async def now(self) -> int:
        """Redis TIME in milliseconds; what became of any server until then is noticed."""
        moment = await calls.time(self._redis, self._hash)
        await calls.prove(self._redis)
        return moment

    async def _write_jobs(self, chunk: list[View]) -> None:
        current = [view for view in chunk if view.is_current]
        sets: list[tuple[Argument, ...]] = [
            (
                "SET",
                views.job_key(each.job),
                each.digest,
                "PXAT",
                max(each.expires_at, FIRST_EXPIRY),
            )
            for each in current
        ]
        await calls.tell(self._redis, sets)

    def _check(self, outcome: bytes) -> None:
        if outcome != b"ok":
            raise RefusedError(
                f"partition {self._partition}: Redis no longer has this owner's {outcome.decode()}"
            )

    def _refuse_newer(self, newest: bytes) -> None:
        if newest:
            self._refused_by = int(newest.split()[0], 16)
            raise RefusedError(f"views of partition {self._partition} are newer: {newest.decode()}")

    def _refuse_changed_server(self) -> None:
        """What was acknowledged before a restart or failover may be lost, what came after not."""
        if self._server.changes != self._server_changes:
            raise RefusedError(f"partition {self._partition}: Redis was restarted or failed over")

    def _report_foreign(self, chunk: list[View], positions: list[int]) -> None:
        for position in positions:
            metrics.FOREIGN_TOKENS.inc()
            log.warning(
                "a job's token belongs to a job of another partition; the first one keeps it",
                partition=self._partition, job=chunk[position - 1].job,
            )  # fmt: skip


async def agree_on_partitions(redis: Redis, expected: int) -> int:
    """Store `expected` where no number of partitions is stored; the number that is stored then."""
    await redis.set(views.PARTITIONS_KEY, expected, nx=True)
    return int(await redis.get(views.PARTITIONS_KEY) or expected)


def _token_keys(chunk: list[View]) -> list[str]:
    return [views.token_key(view.digest) for view in chunk]


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
