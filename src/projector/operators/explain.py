"""From a job or a token to its explanation: reads Redis, decides nothing.

What is explained is never older than the record that is served: the facts are read once their
checkpoint has reached the record's version.
"""

import asyncio
import re
from typing import Any, Final, NamedTuple

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from projector.clients import redis_batch
from projector.config.settings import Settings
from projector.domain import entities, facts, projection
from projector.domain.fact_keys import Key
from projector.errors import SnapshotError, TooManyFactsError, UnknownJobError
from projector.events.timestamps import to_rfc3339
from projector.explain import job as explain
from projector.explain.context import Question
from projector.explain.model import Explanation, ExplanationReport, StoredView
from projector.operators import snapshot
from projector.operators.snapshot import Snapshot
from projector.store import schema
from projector.store.partition_count import require_partition_count
from projector.store.schema import ViewRecord

TRIES: Final = 5
PAUSE_S: Final = 0.2
FIELDS_PER_CALL: Final = 1000
MAX_NOTED: Final = 5
_DIGEST: Final = re.compile(rb"[0-9a-f]{64}")


class JobLocation(NamedTuple):
    """Where a job is: its partition and key; `digest` is the token's that is asked about."""

    partition: int
    key: Key | None
    digest: str | None


class TokenRecord(NamedTuple):
    """A record, and when it expires (ms)."""

    record: ViewRecord
    expires_at: int


async def explain_job(
    redis: Redis,
    settings: Settings,
    job: int,
    agent: int | None = None,
    *,
    most_facts: int | None = None,
) -> ExplanationReport:
    """Why the job's current token gets what it gets, and whether the job may use `agent`.

    Raises `UnknownJobError`, `SnapshotError` where the facts cannot be read as they are,
    `TooManyFactsError` if there are more than `most_facts` in a partition that must be read (all
    three are a `SetupError`, whose sentence may be shown to a person), and `RedisError`. Decoding
    and judging are done in a thread, beside the event loop.
    """
    digest = await digest_of(redis, job)
    stored = await stored_view(redis, digest) if digest else None
    if digest and stored:
        place = JobLocation(stored.record.partition, None, digest)
        inquiry = await _inquire(redis, settings, place, agent, most_facts)
        if inquiry.explanation.job and inquiry.explanation.job.id == job:
            return inquiry
    place, *others = await _search(redis, job, most_facts)
    inquiry = await _inquire(redis, settings, place, agent, most_facts)
    also = [f"job {job} is also known in partition {o.partition}" for o in others[:MAX_NOTED]]
    return msgspec.structs.replace(inquiry, notes=inquiry.notes + also)


async def explain_token(
    redis: Redis,
    settings: Settings,
    digest: str,
    agent: int | None = None,
    *,
    most_facts: int | None = None,
) -> ExplanationReport:
    """The same for the token with this SHA-256 (lower-case hex), also a former one of its job."""
    stored = await stored_view(redis, digest)
    if stored is None:
        raise UnknownJobError("no record stands under this token: it is unknown, or it has expired")
    place = JobLocation(stored.record.partition, None, digest)
    return await _inquire(redis, settings, place, agent, most_facts)


async def digest_of(redis: Redis, job: int) -> str | None:
    """The SHA-256 of the job's current token, None if Redis does not say."""
    raw = await _value(redis, schema.job_token_key(job))
    return raw.decode() if raw and _DIGEST.fullmatch(raw) else None


async def stored_view(redis: Redis, digest: str) -> TokenRecord | None:
    """The record under the token, None if there is none or it is none."""
    key = schema.token_record_key(digest)
    raw, left = await redis_batch.execute(redis, [("GET", key), ("PTTL", key)])
    try:
        record = ViewRecord.decode(_text(raw.value) or b"")
    except ValueError:
        return None
    return TokenRecord(record, int(left.now) + left.value)


async def _value(redis: Redis, key: str) -> bytes | None:
    try:
        return _text(await redis.get(key))
    except ResponseError as error:
        return _text(error)


def _text(found: Any) -> bytes | None:
    """The string; None also where somebody has written a key of another type."""
    if isinstance(found, Exception) and "WRONGTYPE" not in str(found):
        raise found
    return found if isinstance(found, bytes) else None


async def _search(redis: Redis, job: int, most_facts: int | None) -> list[JobLocation]:
    """Every place where facts say something about the job, the latest first; at least one."""
    found: list[tuple[int, JobLocation]] = []
    for partition in range(await require_partition_count(redis)):
        await _refuse_too_many(redis, partition, most_facts)
        pattern = f"*/job/{job}"
        async for field, raw in redis.hscan_iter(
            schema.facts_key(partition), match=pattern, count=FIELDS_PER_CALL
        ):
            key = Key(field.decode(errors="replace"))
            if key.count("/") == 2:
                found.append(_found(partition, key, raw))
    if not found:
        raise UnknownJobError(
            f"job {job} is not known: no job.started for it was applied, or it is forgotten"
        )
    return [place for _, place in sorted(found, key=lambda each: -each[0])]


def _found(partition: int, key: Key, raw: bytes) -> tuple[int, JobLocation]:
    try:
        fact = facts.decode_fact(key, raw)
    except ValueError as error:
        raise SnapshotError(f"a fact of partition {partition} is unreadable: {error}") from None
    job = fact.data if isinstance(fact.data, entities.Job) else None
    return fact.timestamp, JobLocation(partition, key, job.digest if job else None)


async def _refuse_too_many(redis: Redis, partition: int, most: int | None) -> None:
    if most is None:
        return
    state = await snapshot.state(redis, partition)
    held = (state and state.facts) or 0
    if held < 0:
        raise SnapshotError(
            f"the checkpoint of partition {partition} is not written to its end; ask again"
        )
    if held > most:
        raise TooManyFactsError(
            f"partition {partition} holds {held:,} facts, and at most {most:,} are read here; "
            "ask `projector explain` instead"
        )


async def _inquire(
    redis: Redis, settings: Settings, place: JobLocation, agent: int | None, most_facts: int | None
) -> ExplanationReport:
    """Read until the facts and the record are of one moment; bounded."""
    last: ExplanationReport | None = None
    for attempt in range(TRIES):
        if attempt:
            await asyncio.sleep(PAUSE_S)
        await _refuse_too_many(redis, place.partition, most_facts)
        stored = await stored_view(redis, place.digest) if place.digest else None
        reached = stored.record.version if stored else None
        found = await snapshot.read_snapshot(redis, place.partition, reached)
        if place.digest in found.in_doubt:
            continue
        # Once more: what was written while the facts were read would be newer than they are.
        stored = await stored_view(redis, place.digest) if place.digest else None
        if stored and stored.record.version > found.state.version:
            continue
        last = await asyncio.to_thread(_inquiry, found, settings, place, agent, stored)
        if last.agrees:
            return last
    if last is None:
        raise SnapshotError(
            f"the facts of the job in partition {place.partition} change faster than they can be "
            "read; ask again"
        )
    return last


def _inquiry(
    found: Snapshot,
    settings: Settings,
    place: JobLocation,
    agent: int | None,
    stored: TokenRecord | None,
) -> ExplanationReport:
    explanation = _explained(found, settings, place, agent)
    agrees = _agrees(found, settings, place, stored)
    stamp = found.state.stamp
    age = None if stamp is None else max(0, found.now - stamp) / 1000
    return ExplanationReport(
        explanation=explanation,
        view=stored and _shown(stored),
        agrees=agrees,
        fresh_at=None if stamp is None else to_rfc3339(stamp),
        age=age,
        notes=list(_notes(settings, found.partition, age, agrees)),
    )


def _explained(
    found: Snapshot, settings: Settings, place: JobLocation, agent: int | None
) -> Explanation:
    key = place.key or found.facts.job_of_token(place.digest or "")
    if key is None:
        raise UnknownJobError(
            f"a record stands under the token, but no fact of partition {found.partition} "
            "justifies it; the worker's sweep, or `projector verify --repair`, mends that"
        )
    question = Question(key, settings.minimum_level, found.now, agent, place.digest)
    try:
        return explain.explain_job(found.facts, found.partition, question)
    except KeyError:
        raise UnknownJobError(f"{key} is forgotten") from None


def _agrees(
    found: Snapshot, settings: Settings, place: JobLocation, stored: TokenRecord | None
) -> bool:
    """Whether the record is what the facts lead to; none is right where the token has expired."""
    if place.digest is None or found.facts.job_of_token(place.digest) is None:
        return stored is None
    expected = projection.compute_view(found.facts, place.digest, settings.minimum_level, found.now)
    if stored is None:
        return expected.expires_at <= found.now
    return (stored.record.status, stored.record.body) == (expected.status, expected.body)


def _shown(stored: TokenRecord) -> StoredView:
    record = stored.record
    version = f"{record.partition}.{record.version.epoch}.{record.version.revision}"
    return StoredView(record.status, version, to_rfc3339(stored.expires_at))


def _notes(settings: Settings, partition: int, age: float | None, agrees: bool) -> list[str]:
    notes = []
    if age is None:
        notes.append(f"partition {partition} was never fresh: lookups get 503 until it is")
    elif age > settings.max_staleness:
        notes.append(
            f"partition {partition} was last fresh {age:.0f} s ago: lookups get 503 until it is "
            "fresh again; is a worker running?"
        )
    if not agrees:
        notes.append(
            "the stored view differs from this explanation: see `projector verify`, and whether "
            "PROJECTOR_MINIMUM_ROLE is the same here as at the workers"
        )
    return notes
