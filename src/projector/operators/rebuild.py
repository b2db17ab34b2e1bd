"""A partition computed anew from the beginning of its topics, compared, and put in place.

Everything is read beside the running owner, which notices nothing. Only then `Successor` claims
the partition, as any worker would: it takes the rebuilt facts in place of the checkpoint's, reads
what has come meanwhile, writes every view, then the checkpoint, and goes on stamping until a worker
claims the partition from it. So lookups are answered all the while.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from redis.asyncio import Redis

from projector.domain.entities import EndedToken, Job
from projector.domain.fact_index import FactIndex
from projector.domain.fact_keys import Key
from projector.domain.facts import AnyFact
from projector.domain.projection import Policy, Projection, needed_until
from projector.domain.views import tombstone
from projector.errors import HistoryLostError
from projector.events.model import Topic
from projector.kafka.dead_letters import DeadLetterProducer
from projector.kafka.range_reader import Offsets, RangeReader
from projector.operators import verify
from projector.store import partition_state, schema
from projector.store.partition_state import PartitionState
from projector.store.partition_store import FIELDS_PER_CALL, Checkpoint, PartitionStore
from projector.worker import dead_letter_outbox
from projector.worker.dead_letter_outbox import LetterRef
from projector.worker.owner import Owner

# Without deliveries from Faust all is read straight from Kafka, at the next probe.
STALL_S: Final = 0.0
POLL_S: Final = 0.25
# A worker that lost its claim claims again after five seconds, one with an alarm looks every ten.
CLAIMED_WITHIN_S: Final = 20.0


class FactChange(NamedTuple):
    """A fact that the rebuilt ones hold otherwise: as it stands, and as it should be."""

    key: Key
    stored: AnyFact | None
    rebuilt: AnyFact | None


class Rebuilt:
    """One partition's facts, read from the beginning of its topics up to `next`.

    `told` are the offsets below which bad records have had their dead letter, or a reference to it
    in the checkpoint; `untold` are those that have not.
    """

    def __init__(self, partition: int, policy: Policy, source: RangeReader) -> None:
        self.partition = partition
        self.projection = Projection(partition, policy)
        self.beginnings: Offsets = {}
        self.next: Offsets = {}
        self.refused = 0
        self.told: Offsets = {}
        self.untold: list[LetterRef] = []
        self.policy = policy
        self.source = source

    async def begin(self, told: Offsets) -> None:
        """Find the beginnings; raises `KafkaError`."""
        self.beginnings = await self.source.beginnings(self.partition)
        self.next = dict(self.beginnings)
        self.told = told

    async def read(self, ends: Mapping[Topic, int], advance: Callable[[int], object]) -> None:
        """Read on up to `ends`; raises `KafkaError` and `HistoryLostError`."""
        async for progress in self.source.read(self.partition, dict(self.next), ends):
            for record in progress.records:
                if self.next[record.topic] <= record.offset < ends.get(record.topic, 0):
                    self._note(record.topic, record.offset, self.projection.apply(record))
            for topic, position in progress.positions.items():
                self.next[topic] = max(self.next[topic], min(position, ends[topic]))
            advance(len(progress.records))

    def _note(self, topic: Topic, offset: int, reason: str | None) -> None:
        if reason:
            self.refused += 1
            if offset >= self.told.get(topic, 0):
                self.untold.append(LetterRef(topic, offset, reason))


async def losses(source: RangeReader, partition: int, state: PartitionState | None) -> list[str]:
    """What Kafka no longer has of the partition's history: a sentence each; raises `KafkaError`.

    Job-lifecycle may begin anywhere: no token is older than its retention.
    """
    beginnings, ends = await source.beginnings(partition), await source.ends(partition)
    applied = state.offsets if state else {}
    found = []
    for topic in Topic:
        begins, ended = beginnings[topic], applied.get(topic, 0)
        if begins > 0 and topic is not Topic.JOB_LIFECYCLE:
            found.append(f"{topic} begins at offset {begins}: what was only before it is gone")
        elif begins > ended and ended:
            found.append(f"{topic} begins at offset {begins}: events from {ended} on are gone")
        if await is_recreated(source, partition, topic, ends[topic], ended):
            found.append(f"{topic} was recreated: it ends before offset {ended}, which was applied")
    return found


async def is_recreated(
    source: RangeReader, partition: int, topic: Topic, end: int, applied: int
) -> bool:
    """Whether the topic ends below what was applied of it; raises `KafkaError`."""
    return end < applied and not await source.has_reached(partition, topic, applied)


async def known(
    source: RangeReader, partition: int, state: PartitionState | None
) -> tuple[Offsets, Offsets]:
    """Up to where to read so that facts can be compared, and up to where letters were told.

    That is where the checkpoint is; the topic's end where there is none, or it was recreated.
    """
    ends = await source.ends(partition)
    told: Offsets = {}
    for topic, applied in (state.offsets if state else {}).items():
        if not await is_recreated(source, partition, topic, ends[topic], applied):
            told[topic] = applied
    return ends | told, told


# comparing


def changed_facts(
    stored: FactIndex, rebuilt: FactIndex, now: int, retention_ms: int
) -> Iterator[FactChange]:
    """The facts that are not the same, by key; not those that time alone may have taken away."""
    ours, theirs = dict(stored.items()), dict(rebuilt.items())
    for key in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(key), theirs.get(key)
        same = msgspec.json.encode(one) == msgspec.json.encode(other)
        spent = _is_spent(one, now, retention_ms) and _is_spent(other, now, retention_ms)
        if not same and not spent:
            yield FactChange(key, one, other)


def _is_spent(fact: AnyFact | None, now: int, retention_ms: int) -> bool:
    """Whether nothing depends on the fact, so that it may be there or not."""
    if fact is None:
        return True
    if fact.data is None or isinstance(fact.data, EndedToken):
        return needed_until(fact, retention_ms) <= now
    return isinstance(fact.data, Job) and fact.data.expires_at <= now


def is_lost_job(change: FactChange, beginnings: Offsets) -> bool:
    """Whether Kafka no longer has the start of a job that still runs: its token would end."""
    stored = change.stored
    is_live = stored is not None and isinstance(stored.data, Job) and not stored.data.finished
    is_gone = stored is not None and stored.offset < beginnings.get(Topic.JOB_LIFECYCLE, 0)
    return change.rebuilt is None and is_live and is_gone


# putting in place


class Successor(Owner):
    """An owner that begins with rebuilt facts instead of the checkpoint's."""

    def __init__(
        self,
        rebuilt: Rebuilt,
        store: PartitionStore,
        redis: Redis,
        dead_letters: DeadLetterProducer,
    ) -> None:
        super().__init__(rebuilt.partition, rebuilt.policy, store, rebuilt.source, dead_letters)
        self._stall_s = STALL_S
        self._rebuilt = rebuilt
        self._redis = redis
        self._stored: dict[bytes, bytes] = {}
        self._loss: HistoryLostError | None = None

    @property
    def source(self) -> RangeReader:
        """Where it reads Kafka."""
        return self._source

    def refuse_loss(self) -> None:
        """Raise `HistoryLostError` if Kafka lost what the rebuilt facts stand on."""
        if self._loss:
            raise self._loss

    def _alarm(self, loss: HistoryLostError) -> None:
        """A worker waits for somebody who mends it; here somebody waits for this."""
        super()._alarm(loss)
        self._loss = loss
        self.stop()

    @property
    def is_serving(self) -> bool:
        """Whether the rebuilt views and facts stand in Redis."""
        return self._knows_all

    async def _load(self, checkpoint: Checkpoint, beginnings: Offsets) -> None:  # noqa: ARG002
        """The rebuilt facts, as far as the checkpoint goes; its waiting letters are kept.

        The claim fences it: from here on nobody else changes it. May be repeated after an outage.
        """
        self._stored = {}
        async for field, raw in self._redis.hscan_iter(
            schema.facts_key(self.partition), count=FIELDS_PER_CALL
        ):
            self._stored[field] = raw
        if not self._next:
            told = {t: o for t, o in checkpoint.offsets.items() if t in self._rebuilt.told}
            self._rebuilt.told |= told
            await self._rebuilt.read(told, lambda _: None)
            self._projection, self._next = self._rebuilt.projection, dict(self._rebuilt.next)
        self._outbox.restore(self._waiting_letters())

    def _waiting_letters(self) -> dict[Key, bytes]:
        """Those of the checkpoint, and those that nobody has told of yet."""
        letters = {
            reference.key: msgspec.json.encode(reference)
            for reference in self._rebuilt.untold
            if reference.offset >= self._rebuilt.told.get(reference.topic, 0)
        }
        for field, raw in self._stored.items():
            reference = _reference(field, raw)
            if reference and reference.topic in self._rebuilt.told:
                letters[reference.key] = raw
        return letters | self._outbox.fields()

    async def _reconcile(self) -> None:
        """Write every view, end what the rebuilt facts do not know, and make the checkpoint theirs.

        Only the fields that differ are written: the checkpoint is never without its facts for long.
        """
        self._advance(await self._store.now())
        self._take_fields()
        everything = {**self._projection.fields(), **self._outbox.fields()}
        fields = _difference(self._stored, everything)
        if fields is None:
            await self._heal()
            return
        await self._write_all([tombstone(digest, self._now) for digest in self._unknown()])
        await self._checkpoint(fields)

    def _unknown(self) -> Iterator[str]:
        """The tokens of the checkpoint that the rebuilt facts do not know."""
        for field, raw in self._stored.items():
            digest = _digest(field, raw)
            if digest and not self._projection.facts.job_of_token(digest):
                yield digest


def _difference(
    stored: Mapping[bytes, bytes], wanted: Mapping[Key, bytes]
) -> dict[Key, bytes | None] | None:
    """The fields to write (None: to delete); None where one has a name that cannot be written."""
    try:
        held = {Key(field.decode()): raw for field, raw in stored.items()}
    except UnicodeDecodeError:
        return None
    changed: dict[Key, bytes | None] = {
        key: raw for key, raw in wanted.items() if held.get(key) != raw
    }
    return changed | {key: None for key in held if key not in wanted}


def _reference(field: bytes, raw: bytes) -> LetterRef | None:
    """The letter that waits in a field of the checkpoint."""
    if not field.startswith(f"*/{dead_letter_outbox.KIND}/".encode()):
        return None
    try:
        return msgspec.json.decode(raw, type=LetterRef)
    except msgspec.DecodeError:
        return None


def _digest(field: bytes, raw: bytes) -> str | None:
    """The token of a job, or the token, that a field of the checkpoint holds."""
    kind, _, name = field.decode(errors="replace").partition("/")[2].partition("/")
    try:
        fact: Any = msgspec.json.decode(raw)
        digest = name if kind == "token" else str(fact["data"]["digest"])
    except (msgspec.DecodeError, LookupError, TypeError, RecursionError):
        return None
    return digest if kind in ("job", "token") and verify.DIGEST.fullmatch(digest) else None


async def serve(successor: Successor, redis: Redis) -> bool:
    """Let it put the rebuilt facts in place, and serve until a worker claims; whether one did.

    Raises `RedisError` and `KafkaError` where what it needs is away before it serves, and
    `HistoryLostError`.
    """
    serving = asyncio.create_task(successor.run())
    try:
        while not serving.done() and not await _is_stamped(successor, redis):
            await asyncio.wait({serving}, timeout=POLL_S)
        await asyncio.wait({serving}, timeout=CLAIMED_WITHIN_S)
        claimed = serving.done()
        successor.stop()
        await serving
        successor.refuse_loss()
        return claimed
    finally:
        serving.cancel()


async def _is_stamped(successor: Successor, redis: Redis) -> bool:
    await successor.source.ends(successor.partition)
    state = await partition_state.read_partition_state(redis, successor.partition)
    return state is not None and state.stamp_epoch == successor.version.epoch
