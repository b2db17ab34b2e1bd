"""Jobs, tokens, partitions and agents as Redis holds them: records, facts, states."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.domain import entities, evaluator, fact_keys, facts
from projector.domain.decision import ViewRules
from projector.domain.entities import Job
from projector.domain.fact_keys import Key
from projector.domain.facts import AnyFact
from projector.domain.views import ViewId, is_digest
from projector.errors import NoSuchPartitionError, NotReadyError, SnapshotError
from projector.events.timestamps import to_rfc3339
from projector.explain.model import EventRef
from projector.operators import explain, snapshot
from projector.operators.snapshot import Snapshot
from projector.store import schema
from projector.store.checkpoint_writes import FIELDS_PER_CALL
from projector.store.partition_count import require_partition_count
from projector.store.partition_state import PartitionState

MAX_JOBS: Final = 20


class InspectedRecord(Struct, frozen=True):
    """A token's record; `body` is its JSON, or its text if it is not JSON."""

    status: int
    partition: int
    version: str
    expires_at: str
    body: Any


class InspectedFact(Struct, frozen=True):
    """One fact; `data` is None if the entity was removed."""

    partition: int
    key: str
    event: EventRef
    sequence: int | None
    data: dict[str, Any] | None


class SignedToken(Struct, frozen=True):
    """The check of a signed token, and what the token itself names.

    `result` is `verified`, or why it is not. Then anyone may have written the rest. `refused` is
    the status that lookups get for it, None if its record decides.
    """

    result: str
    refused: int | None
    job: int | None
    kid: str | None
    issuer: str | None
    expires_at: str | None


class InspectedToken(Struct, frozen=True, omit_defaults=True):
    """The record that lookups of a token get, and the facts behind it.

    `sha256` is None for the signed tokens of a job without a digest, which share one record. In
    `inspect token` it is the token's own, also where the record is that of its job.
    """

    sha256: str | None
    record: InspectedRecord | None
    facts: list[InspectedFact]
    signed: SignedToken | None = None


class InspectedJob(Struct, frozen=True):
    """A job: its current token (None if Redis has none), and its facts.

    `job_key` is what the key of the job in Redis holds, None if it is missing: the `record` of a
    job without a digest, else the `digest`.
    """

    job: int
    job_key: Literal["record", "digest", "unreadable"] | None
    token: InspectedToken | None
    facts: list[InspectedFact]


class AwaitedSource(Struct, frozen=True):
    """The source that a partition's stamp waits for; `silent` in seconds, None if it never came."""

    source: str
    silent: float | None


class InspectedPartition(Struct, frozen=True):
    """A partition: its owner, next offsets, freshness and contents.

    `facts` counts them by kind, removed entities included. `checkpoint` is the number of fields
    that were written, -1 while they are being written. `live_tokens` counts the jobs that have
    neither finished nor expired; `letters_waiting` are dead letters that Kafka has not acknowledged
    yet. `age` is in seconds.
    """

    partition: int
    owner: str
    epoch: int
    revision: int
    offsets: dict[str, int]
    checkpoint: int | None
    fresh_at: str | None
    age: float | None
    facts: dict[str, int]
    live_tokens: int
    letters_waiting: int
    waits_for: AwaitedSource | None = None


class InspectedAgent(Struct, frozen=True):
    """An agent: its facts in all partitions, some live jobs that may use it now, their number."""

    agent: int
    facts: list[InspectedFact]
    jobs: list[int]
    jobs_total: int


async def inspect_job(redis: Redis, number: int) -> InspectedJob:
    """Read a job; search all partitions for its facts if its token has no record."""
    key = await explain.read_job_key(redis, number)
    found = await inspect_view(redis, key.view_id) if key.view_id else None
    if found and found.record:
        searched = [found.record.partition]
    else:
        searched = list(range(await require_partition_count(redis)))
    suffix = f"/job/{number}"
    known = [fact async for fact in _search(redis, searched, suffix)]
    return InspectedJob(number, key.content, found, [f for f in known if f.key.endswith(suffix)])


async def inspect_view(redis: Redis, view_id: ViewId) -> InspectedToken:
    """Read a view; without a record, its partition and so its facts are not known."""
    sha256 = view_id if is_digest(view_id) else None
    stored = await explain.read_record(redis, view_id)
    if stored is None:
        return InspectedToken(sha256, None, [])
    record = stored.record
    version = f"{record.partition}.{record.version.epoch}.{record.version.revision}"
    shown = InspectedRecord(
        record.status, record.partition, version, to_rfc3339(stored.expires_at), _body(record.body)
    )
    found = await snapshot.read_snapshot(redis, record.partition, record.version)
    return InspectedToken(sha256, shown, await asyncio.to_thread(_facts_of_view, found, view_id))


async def inspect_token_of_job(redis: Redis, digest: ViewId, job: int) -> InspectedToken:
    """Read the view of a verified token: its own if it has one, else that of its job."""
    own = await inspect_view(redis, digest)
    key = await explain.read_job_key(redis, job)
    if own.record or key.view_id is None:
        return own
    found = await inspect_view(redis, key.view_id)
    return msgspec.structs.replace(found, sha256=digest)


async def inspect_partition(redis: Redis, number: int) -> InspectedPartition:
    """Read a partition; raises `NoSuchPartitionError`, `NotReadyError` before the first claim."""
    total = await require_partition_count(redis)
    if number >= total:
        raise NoSuchPartitionError(number, total)
    state = await snapshot.read_state(redis, number)
    if state is None:
        raise NotReadyError(f"no worker has claimed partition {number} yet; start one")
    now = await redis_batch.server_time(redis, schema.partition_key(number))
    kinds: Counter[str] = Counter()
    live = 0
    async for key, raw in _fields(redis, number):
        kinds[fact_keys.kind_of(key)] += 1
        live += fact_keys.kind_of(key) == "job" and _is_live(_decode(number, key, raw), now)
    waiting = kinds.pop(fact_keys.WAITING_LETTER, 0)
    return InspectedPartition(
        partition=number,
        owner=state.owner,
        epoch=state.version.epoch,
        revision=state.version.revision,
        offsets={str(topic): offset for topic, offset in state.offsets.items()},
        checkpoint=state.facts,
        fresh_at=None if state.stamp is None else to_rfc3339(state.stamp),
        age=None if state.stamp is None else max(0, now - state.stamp) / 1000,
        facts=dict(sorted(kinds.items())),
        live_tokens=live,
        letters_waiting=waiting,
        waits_for=_awaited(state, now),
    )


def _awaited(state: PartitionState, now: int) -> AwaitedSource | None:
    silent = state.awaited(now)
    return AwaitedSource(silent.name, silent.seconds(now)) if silent else None


async def inspect_agent(redis: Redis, rules: ViewRules, number: int) -> InspectedAgent:
    """Read an agent, and find the live jobs that may use it."""
    everywhere = list(range(await require_partition_count(redis)))
    suffix = f"/{number}"
    kinds = ("agent", "configuration", "shared-agent", "instance-agent")
    known = [
        fact
        async for fact in _search(redis, everywhere, suffix)
        if fact_keys.kind_of(Key(fact.key)) in kinds
    ]
    jobs: list[int] = []
    for each in sorted({fact.partition for fact in known if fact.data is not None}):
        found = await snapshot.read_snapshot(redis, each)
        jobs += await asyncio.to_thread(_jobs_of_agent, found, rules, number)
    return InspectedAgent(number, known, jobs[:MAX_JOBS], len(jobs))


async def _search(redis: Redis, partitions: list[int], suffix: str) -> AsyncIterator[InspectedFact]:
    """Find the facts whose keys end in `suffix`."""
    for number in partitions:
        async for key, raw in _fields(redis, number, f"*{suffix}"):
            if key.count("/") == 2 and fact_keys.kind_of(key) in entities.ENTITY_KINDS:
                yield _inspected(number, key, _decode(number, key, raw))


async def _fields(
    redis: Redis, number: int, pattern: str | None = None
) -> AsyncIterator[tuple[Key, bytes]]:
    """Read the fields of the checkpoint, each once, though HSCAN may repeat them."""
    seen: set[bytes] = set()
    async for field, raw in redis.hscan_iter(
        schema.facts_key(number), match=pattern, count=FIELDS_PER_CALL
    ):
        key = Key(field.decode(errors="replace"))
        if field not in seen and key.count("/") >= 2:
            seen.add(field)
            yield key, raw


def _decode(number: int, key: Key, raw: bytes) -> AnyFact:
    try:
        return facts.decode_fact(key, raw)
    except (ValueError, LookupError) as error:
        raise SnapshotError(
            f"the field {key} of partition {number} is unreadable: {error}"
        ) from None


def _is_live(fact: AnyFact, now: int) -> bool:
    data = fact.data
    return isinstance(data, Job) and not data.finished and data.expires_at > now


def _facts_of_view(found: Snapshot, view_id: ViewId) -> list[InspectedFact]:
    key = found.facts.job_of_view(view_id)
    if key is None:
        return []
    keys = (key, fact_keys.token_key(fact_keys.root_of(key), view_id))
    known = ((each, found.facts.get(each)) for each in keys)
    return [_inspected(found.partition, each, fact) for each, fact in known if fact]


def _inspected(number: int, key: Key, fact: AnyFact) -> InspectedFact:
    topic = entities.TOPIC_OF_KIND[fact_keys.kind_of(key)]
    event = EventRef(topic, number, fact.offset, to_rfc3339(fact.timestamp))
    data = None if fact.data is None else entities.fields_of(fact.data)
    return InspectedFact(number, key, event, fact.sequence, data)


def _jobs_of_agent(found: Snapshot, rules: ViewRules, agent: int) -> list[int]:
    """List the ids of the live jobs that may use the agent, ascending."""
    return sorted(
        fact_keys.id_of(key)
        for view_id in found.facts.view_ids()
        if (key := found.facts.job_of_view(view_id)) and _may_use(found, key, view_id, rules, agent)
    )


def _may_use(found: Snapshot, key: Key, view_id: ViewId, rules: ViewRules, agent: int) -> bool:
    decision = evaluator.decide(found.facts, key, view_id, rules, found.now)
    return any(c.effective.agent == agent and not c.refused_by for c in decision.candidates)


def _body(body: bytes) -> Any:
    if not body:
        return None
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return body.decode(errors="backslashreplace")
