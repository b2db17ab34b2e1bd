"""Rebuilt facts put in place of a partition's: claimed, written, and served until a worker claims.

An `Owner` does this as it would in a worker, but begins with the rebuilt facts. It reads Kafka at
every probe, because Faust delivers nothing to it. So lookups are answered all the time.
"""

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple
from uuid import uuid4

import msgspec
from redis.asyncio import Redis

from projector.clients.redis_servers import RedisServers
from projector.domain.fact_keys import WAITING_LETTER, Key
from projector.domain.projection import Policy
from projector.domain.views import ViewId
from projector.kafka.dead_letters import DeadLetterProducer
from projector.kafka.range_reader import Offsets, RangeReader
from projector.operators.rebuild.rebuilt_facts import Rebuilt
from projector.operators.verify import comparison
from projector.store import partition_state, schema
from projector.store.checkpoint_writes import FIELDS_PER_CALL
from projector.store.partition_store import Checkpoint, PartitionStore
from projector.worker.dead_letter_outbox import LetterRef
from projector.worker.event_applier import EventApplier
from projector.worker.owner import Owner, cancel_until_done
from projector.worker.sources import Sources
from projector.worker.timing import DEFAULT_TIMING, Timing


class Patience(NamedTuple):
    """Intervals and bounds of a takeover, in seconds."""

    poll_s: float = 0.25
    # A worker that lost its claim claims again after 5 s, or after 15 s if it had an alarm.
    claimed_within_s: float = 20.0


DEFAULT_PATIENCE: Final = Patience()


class RebuildClients(NamedTuple):
    """The clients that a rebuild works with, the settings of its views, and its intervals."""

    redis: Redis
    server: RedisServers
    reader: RangeReader
    dead_letters: DeadLetterProducer
    policy: Policy
    timing: Timing = DEFAULT_TIMING
    patience: Patience = DEFAULT_PATIENCE
    sources: Sources | None = None


class RebuiltFacts:
    """Rebuilt facts as those that an owner begins with."""

    def __init__(self, rebuilt: Rebuilt, redis: Redis) -> None:
        self._rebuilt = rebuilt
        self._redis = redis
        self._stored: dict[bytes, bytes] = {}

    async def load(
        self,
        applier: EventApplier,
        checkpoint: Checkpoint,
        beginnings: Offsets,  # noqa: ARG002  the topics were read from there
    ) -> None:
        """Put the rebuilt facts into memory, read on to the checkpoint; keep its waiting letters.

        The claim fences the checkpoint: no other owner changes it from here on.
        """
        self._stored = {}
        async for field, raw in self._redis.hscan_iter(
            schema.facts_key(self._rebuilt.partition), count=FIELDS_PER_CALL
        ):
            self._stored[field] = raw
        # Once only: after an outage the owner may have applied more to these facts.
        if not applier.progress.next:
            await self._read_on(checkpoint)
            applier.projection = self._rebuilt.projection
            applier.progress.next = dict(self._rebuilt.next)
            applier.logs.restore(self._rebuilt.logs.identities())
        applier.outbox.restore(self._waiting_letters() | applier.outbox.fields())

    async def _read_on(self, checkpoint: Checkpoint) -> None:
        known = self._rebuilt.reported
        reported = {topic: end for topic, end in checkpoint.offsets.items() if topic in known}
        self._rebuilt.reported |= reported
        await self._rebuilt.read(reported, lambda _: None)

    def _waiting_letters(self) -> dict[Key, bytes]:
        """Return the letters that wait in the checkpoint, and those of unreported bad records."""
        letters = {
            reference.key: msgspec.json.encode(reference)
            for reference in self._rebuilt.unreported
            if reference.offset >= self._rebuilt.reported.get(reference.topic, 0)
        }
        for field, raw in self._stored.items():
            reference = _letter_ref(field, raw)
            if reference and reference.topic in self._rebuilt.reported:
                letters[reference.key] = raw
        return letters

    def unknown_views(self, applier: EventApplier) -> Iterator[ViewId]:
        """Yield the views of the checkpoint that no rebuilt fact has."""
        for field, raw in self._stored.items():
            id_ = _view_id(field, raw)
            if id_ and not applier.projection.facts.job_of_view(id_):
                yield id_

    async def changed_fields(self, applier: EventApplier) -> dict[Key, bytes | None] | None:
        """Return the fields that differ from the checkpoint's; None if not all can be written.

        So a worker that claims meanwhile never finds a checkpoint without its facts.
        """
        return _difference(self._stored, await applier.take_all_fields())


def _difference(
    stored: Mapping[bytes, bytes], wanted: Mapping[Key, bytes | None]
) -> dict[Key, bytes | None] | None:
    """Return the fields to write (None: to delete); None if a stored name is not UTF-8."""
    try:
        held = {Key(field.decode()): raw for field, raw in stored.items()}
    except UnicodeDecodeError:
        return None
    changed = {key: raw for key, raw in wanted.items() if held.get(key) != raw}
    return changed | {key: None for key in held if key not in wanted}


def _letter_ref(field: bytes, raw: bytes) -> LetterRef | None:
    """Return the letter that a field of the checkpoint refers to."""
    if not field.startswith(f"*/{WAITING_LETTER}/".encode()):
        return None
    try:
        return msgspec.json.decode(raw, type=LetterRef)
    except msgspec.DecodeError:
        return None


def _view_id(field: bytes, raw: bytes) -> ViewId | None:
    """Return the view that a field of the checkpoint is about."""
    kind, _, name = field.decode(errors="replace").partition("/")[2].partition("/")
    try:
        fact: Any = msgspec.json.decode(raw)
        id_ = name if kind == "token" else str(fact["data"]["digest"] or name)
    except (msgspec.DecodeError, LookupError, TypeError, RecursionError):
        return None
    return ViewId(id_) if kind in ("job", "token") and comparison.VIEW_ID.fullmatch(id_) else None


def create_owner(rebuilt: Rebuilt, clients: RebuildClients) -> Owner:
    """Create an owner of the partition that begins with the rebuilt facts."""
    identity = f"rebuild-{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
    store = PartitionStore(clients.redis, clients.server, rebuilt.partition, identity)
    return Owner(
        rebuilt.partition, clients.policy, store, clients.reader, clients.dead_letters,
        timing=clients.timing._replace(stall_s=0.0),
        initial_facts=RebuiltFacts(rebuilt, clients.redis), sources=clients.sources,
    )  # fmt: skip


async def serve(owner: Owner, clients: RebuildClients) -> bool:
    """Put the rebuilt facts in place, serve until a worker claims; return whether one did.

    Raises `RedisError` and `KafkaError` if a server is away before lookups are served. Raises
    `HistoryLostError` at any time. A worker would wait for an operator then, who waits here.
    """
    serving = asyncio.create_task(owner.run())

    async def pause() -> bool:
        await asyncio.wait({serving}, timeout=clients.patience.poll_s)
        return serving.done() or owner.loss is not None

    clock = asyncio.get_running_loop().time
    try:
        while not await _is_in_place(owner, clients) and not await pause():
            pass
        until = clock() + clients.patience.claimed_within_s
        while not await pause() and clock() < until:
            pass
        claimed = serving.done()
        owner.stop()
        await serving
        if owner.loss:
            raise owner.loss
        return claimed
    finally:
        await cancel_until_done([serving])


async def _is_in_place(owner: Owner, clients: RebuildClients) -> bool:
    """Whether the owner has stamped, or waits for nothing but a source to do so."""
    return owner.waits_for is not None or await _is_stamped(owner, clients)


async def _is_stamped(owner: Owner, clients: RebuildClients) -> bool:
    await clients.reader.ends(owner.partition)
    state = await partition_state.read_partition_state(clients.redis, owner.partition)
    return state is not None and state.stamp_epoch == owner.version.epoch
