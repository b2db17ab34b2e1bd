"""One partition in Redis, as its owner writes it: claim, views, checkpoint, stamp.

Every write carries the owner's claim. Redis refuses it after a newer claim.
"""

from collections import Counter
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Collection,
    Container,
    Iterable,
    Iterator,
    Mapping,
)
from types import MappingProxyType
from typing import Final, NamedTuple

from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.clients.redis_batch import Argument
from projector.clients.redis_servers import RedisServers
from projector.clients.trusted_clock import TOLERANCE_MS, ClockError
from projector.domain.fact_keys import Key
from projector.domain.views import View, ViewId
from projector.errors import IncompleteCheckpointError, WriteRefusedError
from projector.events.log_identity import LogIdentity
from projector.events.model import Topic
from projector.store import lua_scripts, partition_state, schema
from projector.store.activity import KEPT_S
from projector.store.checkpoint_writes import FIELDS_PER_CALL, OBSTACLE, CheckpointWrites, Step
from projector.store.claims import Claims
from projector.store.fact_scan import scan_facts
from projector.store.overlay_line import OverlayLine
from projector.store.partition_count import restore_partition_count
from projector.store.partition_stamps import PartitionStamps, Stamp
from projector.store.portions import chunks, overlap
from projector.store.schema import Version
from projector.store.view_writes import ViewWrites

# A script with 1,000 keys blocks Redis for some 7 ms; lookups must not wait that long.
VIEWS_PER_CALL: Final = 100
# One MGET blocks Redis for less than that.
VIEWS_PER_READ: Final = 500
INCOMPLETE: Final = -1


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

    def __init__(
        self,
        redis: Redis,
        server: RedisServers,
        partition: int,
        owner: str,
        stamps: PartitionStamps | None = None,
    ) -> None:
        """Write with the `stamps` of all partitions of this process, by default with own ones."""
        self._redis = redis
        self._server = server
        self._stamps = stamps or PartitionStamps(redis, server)
        self._server_changes = 0
        self._partition = partition
        self.owner = owner
        self._epoch = 0
        self._revision = 0
        # The revision of the latest views; the next checkpoint makes it valid.
        self._written = 0
        self._views = ViewWrites(redis, partition)
        self.overlay = OverlayLine(redis, partition, self._take_version)
        self._hash = schema.partition_key(partition)
        self._facts = schema.facts_key(partition)
        self._claims = Claims(redis, partition, owner)
        self._checkpoint = CheckpointWrites(redis, partition, owner)
        self._forget = redis.register_script(lua_scripts.FORGET)
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
        refused_by = max(self._views.refused_by, self.overlay.refused_by)
        self._epoch = await self._claims.take(now, refused_by, rules or {}, sources)
        state = await self._claims.read_state()
        self._revision = state.version.revision if state else 0
        self.overlay.begin()
        if state is None:
            return Checkpoint(0, {}, 0)
        return Checkpoint(self._revision, state.offsets, state.facts or 0, state.logs)

    async def is_claimed_by_another(self) -> bool:
        """Whether a newer claim holds the partition; false if the claim is only missing."""
        return await self._claims.is_replaced(self._epoch)

    def load(self) -> AsyncGenerator[dict[bytes, bytes], None]:
        """Yield the checkpoint's facts in parts; parts may repeat facts.

        Raises `IncompleteCheckpointError` if the key is not a hash.
        """
        return scan_facts(self._redis, self._facts, self.refuse_changed_server)

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

    def next_revision(self) -> int:
        """Take a revision that is higher than all before, for one commit and all attempts at it."""
        self._written = max(self._written, self._revision) + 1
        return self._written

    @property
    def commits_at_once(self) -> bool:
        """Whether views may go to Redis with the checkpoint: in a cluster slots keep them apart."""
        return self._checkpoint.takes_views

    async def write_views(
        self, changed: Iterable[View], pointers: Container[ViewId] | None = None
    ) -> Counter[int]:
        """Write different views; the next checkpoint makes them valid.

        Each call has a higher revision than the one before, so a late attempt never overwrites a
        later call. `pointers` are the views whose jobs' pointers are written too, None for all.
        Returns the number of views by status. Raises `WriteRefusedError` if a newer claim has
        written one of these records.
        """
        version = self._take_version()
        portions = chunks(changed, VIEWS_PER_CALL, lambda view: len(view.body))
        statuses: Counter[int] = Counter()

        def writes() -> Iterator[Awaitable[None]]:
            for chunk in portions:
                statuses.update(view.status for view in chunk)
                yield self._views.write(chunk, version, pointers)

        await overlap(writes())
        return statuses

    def _take_version(self) -> Version:
        return Version(self._epoch, self.next_revision())

    async def delete_orphans(self, ids: Collection[ViewId]) -> None:
        """Delete this partition's live records under these ids of jobs, which no fact names.

        Raises `WriteRefusedError` if a newer claim has written one of these records.
        """
        version = Version(self._epoch, max(self._written, self._revision))
        for chunk in chunks(ids, VIEWS_PER_READ, len):
            await self._views.delete_orphans(chunk, version)

    async def drifted(self, expected: Iterable[View]) -> list[View]:
        """Return the views whose records or pointers in Redis differ, in content or expiry."""
        found: list[View] = []
        for chunk in chunks(expected, VIEWS_PER_READ, lambda view: len(view.body)):
            found += await self._views.drifted(chunk)
            self.refuse_changed_server()
        return found

    async def checkpoint(
        self,
        offsets: Mapping[Topic, int],
        facts: Mapping[Key, bytes | None],
        total: int,
        logs: Mapping[Topic, LogIdentity] = MappingProxyType({}),
        served_jobs: int | None = None,
    ) -> None:
        """Write changed facts and the next offsets, and so make all views written so far valid.

        `total` is the number of all facts then, `logs` are those that the offsets belong to.
        `served_jobs` is the offset of job-lifecycle below which no first view is held back.
        Many facts are written in several steps. Until the last step the checkpoint counts as
        incomplete, because its facts are ahead of its offsets.
        Raises `WriteRefusedError` if the claim or the revision in Redis is not this owner's last.
        """
        portions = chunks(facts.items(), FIELDS_PER_CALL, lambda f: len(f[0]) + len(f[1] or b""))
        *steps, last = list(portions) or [[]]
        for step in steps:
            await self._checkpoint_step(Step({}, step, INCOMPLETE))
        places = partition_state.encode_places(offsets, logs, self._epoch, served_jobs)
        await self._checkpoint_step(Step(places, last, total))
        self.refuse_changed_server()

    async def commit(  # noqa: PLR0913, PLR0917  the arguments of `write_views` and `checkpoint`
        self,
        changed: list[View],
        pointers: Container[ViewId],
        revision: int,
        offsets: Mapping[Topic, int],
        facts: Mapping[Key, bytes | None],
        total: int,
        logs: Mapping[Topic, LogIdentity] = MappingProxyType({}),
        served_jobs: int | None = None,
    ) -> bool:
        """Write views and checkpoint in one call, under a `next_revision`; whether that was done.

        Otherwise nothing is written, and `write_views` and `checkpoint` must do it. Views and facts
        must fit one call. Raises `WriteRefusedError` like `checkpoint`.
        """
        keys, values = self._views.in_one_call(changed, Version(self._epoch, revision), pointers)
        places = partition_state.encode_places(offsets, logs, self._epoch, served_jobs)
        step = Step(places, list(facts.items()), total)
        outcome = await self._checkpoint.write(self.version, revision, step, keys, values)
        if outcome == OBSTACLE:
            return False
        self._check(outcome)
        self._revision = revision
        self.refuse_changed_server()
        return True

    async def _checkpoint_step(self, step: Step) -> None:
        revision = max(self._revision + 1, self._written)
        self._check(await self._checkpoint.write(self.version, revision, step))
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
        outcome = await self._stamps.stamp(Stamp((self._hash, self._facts), tuple(args)))
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

    async def read_activity(self) -> bytes | None:
        """Read the activity that this or the former owner published; raises `RedisError`."""
        found = await self._redis.get(schema.activity_key(self._partition))
        return found if isinstance(found, bytes) else None

    async def publish(self, activity: bytes) -> None:
        """Publish this owner's activity for operators; not fenced, because no answer needs it."""
        key = schema.activity_key(self._partition)
        await self._redis.set(key, activity, ex=KEPT_S)

    async def now(self) -> int:
        """Return Redis TIME in milliseconds; restarts and failovers before it are noticed.

        Raises `ClockError` while a server's clock is not believed.
        """
        return await self._stamps.now(self._hash)

    def _check(self, outcome: bytes) -> None:
        if outcome != b"ok":
            raise WriteRefusedError(
                f"partition {self._partition}: Redis no longer has this owner's {outcome.decode()}"
            )

    def refuse_changed_server(self) -> None:
        """Raise `WriteRefusedError` after a restart or failover: earlier writes may be lost."""
        if self._server.changes != self._server_changes:
            raise WriteRefusedError(
                f"partition {self._partition}: Redis failed over, or restarted, or its clock jumped"
            )
