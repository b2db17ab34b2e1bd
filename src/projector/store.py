"""Redis, as one partition's owner writes it: claim, views, checkpoint, stamp.

Every write carries the owner's claim. A script refuses what a newer claim has overtaken, and takes
its own retry for the success that it was (clients repeat scripts whose answer got lost).
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from redis.asyncio import Redis

from projector import views
from projector.events import Topic
from projector.projection import View
from projector.things import Key
from projector.views import Version

T = TypeVar("T")
Argument = bytes | str | int

# 1,000 keys in one script block the server for some 7 ms; lookups must not wait that long.
VIEWS_PER_CALL: Final = 100
FIELDS_PER_CALL: Final = 1000
BYTES_PER_CALL: Final = 4 * 1024 * 1024
INCOMPLETE: Final = -1
# Redis takes no expiry at or before 1970; anything else that is past deletes the key.
FIRST_EXPIRY: Final = 1

# The names of the partition hash's fields stand here and in docs/redis.md.
# KEYS: partition hash. ARGV: owner.
# The clock keeps the epoch rising even after FLUSHALL took the stored one away.
CLAIM: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
local epoch = math.max(stored + 1, now)
redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', epoch), 'owner', ARGV[1])
return string.format('%.0f', epoch)
"""

# KEYS: token records. ARGV: version, then (record, expiry in ms) per key. Returns the refused.
WRITE_VIEWS: Final = """
local refused = 0
for i, key in ipairs(KEYS) do
  local stored = redis.call('GETRANGE', key, 9, 33)
  if stored > ARGV[1] then
    refused = refused + 1
  else
    redis.call('SET', key, ARGV[2 * i], 'PXAT', ARGV[2 * i + 1])
  end
end
return refused
"""

# What the scripts below begin with. KEYS[1]: partition hash. ARGV: epoch, owner, revision.
_CLAIMED: Final = """
local held = redis.call('HMGET', KEYS[1], 'epoch', 'owner', 'revision')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then return 'claim' end
local revision = held[3] or '0'
"""

# KEYS: partition hash, facts hash. ARGV: epoch, owner, previous revision, new revision, how many
# facts there are then (-1 while more steps of the same checkpoint follow), number of offsets,
# (topic, offset)..., number of facts set, (field, fact)..., fields deleted...
CHECKPOINT: Final = (
    _CLAIMED
    + """
if revision == ARGV[4] then return 'ok' end
if revision ~= ARGV[3] then return 'revision' end
local at = 7
for _ = 1, ARGV[6] do
  redis.call('HSET', KEYS[1], 'offset:' .. ARGV[at], ARGV[at + 1])
  at = at + 2
end
local sets = tonumber(ARGV[at])
at = at + 1
for _ = 1, sets do
  redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
  at = at + 2
end
for i = at, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
redis.call('HSET', KEYS[1], 'revision', ARGV[4], 'facts', ARGV[5])
return 'ok'
"""
)

# KEYS: partition hash, facts hash. ARGV: epoch, owner, then the fields of the offsets.
FORGET: Final = (
    _CLAIMED
    + """
redis.call('HDEL', KEYS[1], 'facts', unpack(ARGV, 3))
redis.call('DEL', KEYS[2])
return 'ok'
"""
)

# KEYS: partition hash. ARGV: epoch, owner, revision, T0 in ms.
STAMP: Final = (
    _CLAIMED
    + """
if revision ~= ARGV[3] then return 'revision' end
redis.call('HSET', KEYS[1], 'stamp', ARGV[4], 'stamp_epoch', ARGV[1])
return 'ok'
"""
)


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
    """One partition in Redis, for one owner."""

    def __init__(self, redis: Redis, partition: int, owner: str) -> None:
        self._redis = redis
        self._partition = partition
        self._owner = owner
        self._epoch = 0
        self._revision = 0
        self._hash = views.partition_key(partition)
        self._facts = views.facts_key(partition)
        self._claim = redis.register_script(CLAIM)
        self._write_views = redis.register_script(WRITE_VIEWS)
        self._checkpoint = redis.register_script(CHECKPOINT)
        self._forget = redis.register_script(FORGET)
        self._stamp = redis.register_script(STAMP)

    @property
    def version(self) -> Version:
        """The version that the last checkpoint made valid."""
        return Version(self._epoch, self._revision)

    async def claim(self, partitions: int) -> Checkpoint:
        """Become the owner of one of `partitions` under a new epoch; what the last one left."""
        await agree_on_partitions(self._redis, partitions)
        self._epoch = int(await self._claim(keys=[self._hash], args=[self._owner]))
        held: dict[Any, Any] = await self._redis.hgetall(self._hash)
        fields = {name.decode(): value for name, value in held.items()}
        self._revision = int(fields.get("revision", 0))
        offsets = {t: int(fields[f"offset:{t}"]) for t in Topic if f"offset:{t}" in fields}
        return Checkpoint(self._revision, offsets, int(fields.get("facts", 0)))

    async def is_claimed_by_another(self) -> bool:
        """Whether a newer claim holds the partition; not so if the claim is only gone."""
        epoch, owner = await self._redis.hmget(self._hash, ["epoch", "owner"])
        return int(epoch or 0) >= self._epoch and owner != self._owner.encode()

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

    async def forget_checkpoint(self) -> None:
        """Drop a checkpoint that cannot be used; the facts come from Kafka again."""
        args: list[Argument] = [self._epoch, self._owner, *(f"offset:{t}" for t in Topic)]
        self._check(await self._forget(keys=[self._hash, self._facts], args=args))

    async def write_views(self, changed: Iterable[View]) -> None:
        """Write views under the next revision, before the checkpoint that makes it valid.

        Raises `RefusedError` if a newer claim has written any of them.
        """
        version = Version(self._epoch, self._revision + 1)
        for chunk in _chunks(changed, VIEWS_PER_CALL, lambda view: len(view.body)):
            await self._write_jobs(chunk)
            args: list[Argument] = [str(version)]
            for view in chunk:
                record = views.Record(view.status, self._partition, version, view.body)
                args += [record.encode(), max(view.expires_at, FIRST_EXPIRY)]
            keys = [views.token_key(view.digest) for view in chunk]
            if refused := await self._write_views(keys=keys, args=args):
                raise RefusedError(f"{refused} views of partition {self._partition} are newer")

    async def checkpoint(
        self, offsets: Mapping[Topic, int], facts: Mapping[Key, bytes | None], total: int
    ) -> None:
        """Make the next revision valid: facts that changed, and the next offset of each topic.

        `total` is how many facts there are then. Many go in several steps; until the last one the
        checkpoint counts as incomplete, for its facts are ahead of its offsets.
        Raises `RefusedError` if the claim is no longer this owner's or the revision not its last.
        """
        chunks = _chunks(facts.items(), FIELDS_PER_CALL, lambda field: len(field[1] or b""))
        *steps, last = list(chunks) or [[]]
        for step in steps:
            await self._checkpoint_step({}, step, INCOMPLETE)
        await self._checkpoint_step(offsets, last, total)

    async def _checkpoint_step(
        self, offsets: Mapping[Topic, int], facts: list[tuple[Key, bytes | None]], total: int
    ) -> None:
        sets = [(key, value) for key, value in facts if value is not None]
        deletes = [key for key, value in facts if value is None]
        args: list[Argument] = [self._epoch, self._owner, self._revision, self._revision + 1]
        args += [total, len(offsets), *_flat(offsets.items()), len(sets), *_flat(sets), *deletes]
        self._check(await self._checkpoint(keys=[self._hash, self._facts], args=args))
        self._revision += 1

    async def stamp(self, moment: int) -> None:
        """Declare the partition fresh as of `moment` (milliseconds of Redis TIME)."""
        args: list[Argument] = [self._epoch, self._owner, self._revision, moment]
        self._check(await self._stamp(keys=[self._hash], args=args))

    async def now(self) -> int:
        """Redis TIME in milliseconds."""
        return await redis_time(self._redis)

    async def _write_jobs(self, chunk: list[View]) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            for view in chunk:
                if view.is_current:
                    pipe.set(
                        views.job_key(view.job),
                        view.digest,
                        pxat=max(view.expires_at, FIRST_EXPIRY),
                    )
            await pipe.execute()

    def _check(self, outcome: bytes) -> None:
        if outcome != b"ok":
            raise RefusedError(
                f"partition {self._partition}: another {outcome.decode()} is in Redis"
            )


async def agree_on_partitions(redis: Redis, expected: int) -> int:
    """Store `expected` where no number of partitions is stored; the number that is stored then."""
    await redis.set(views.PARTITIONS_KEY, expected, nx=True)
    return int(await redis.get(views.PARTITIONS_KEY) or expected)


async def redis_time(redis: Redis) -> int:
    """Redis TIME in milliseconds."""
    seconds, microseconds = await redis.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


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
