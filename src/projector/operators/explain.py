"""Explanations of jobs, from the facts and records in Redis.

An explanation is never older than the record that lookups get. Its facts are read only when their
checkpoint has reached the record's version.
"""

import asyncio
from typing import Any, Final, Literal, NamedTuple

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from projector.clients import redis_batch
from projector.config.settings import Settings
from projector.domain import entities, facts, projection
from projector.domain.decision import ViewRules
from projector.domain.fact_keys import Key
from projector.domain.views import ViewId, view_id
from projector.errors import SnapshotError, TooManyFactsError, UnknownJobError
from projector.events.timestamps import to_rfc3339
from projector.explain import job as job_explanation
from projector.explain.context import Question
from projector.explain.model import Explanation, ExplanationReport, StoredView
from projector.operators import snapshot
from projector.operators.snapshot import Snapshot
from projector.store import schema
from projector.store.checkpoint_writes import FIELDS_PER_CALL
from projector.store.partition_count import require_partition_count
from projector.store.schema import ViewRecord

# An owner that writes faster than this process reads would otherwise hold the command up.
TRIES: Final = 5
PAUSE_S: Final = 0.2
MAX_NOTED: Final = 5


class JobLocation(NamedTuple):
    """A job's partition, its key if that is known, and the view in question."""

    partition: int
    key: Key | None
    view_id: ViewId | None


class JobKey(NamedTuple):
    """The content of a job's key, None if it is missing, and the view id that it leads to."""

    content: Literal["record", "digest", "unreadable"] | None
    view_id: ViewId | None


class StoredRecord(NamedTuple):
    """A record, and its expiry (ms)."""

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
    """Explain what the job's current token gets, and whether the job may use `agent`.

    Raises `RedisError` and an `OperatorError`: `UnknownJobError`, `SnapshotError` if the facts
    cannot be read, `TooManyFactsError` if one of the partitions to read has more than `most_facts`.
    Decoding and evaluation run in a thread, so that the event loop goes on.
    """
    key = await read_job_key(redis, job)
    stored = await read_record(redis, key.view_id) if key.view_id else None
    reason = f"job {job} is not known: no job.started for it was applied, or its facts have expired"
    if stored:
        location = JobLocation(stored.record.partition, None, key.view_id)
        try:
            report = await _explain(redis, settings, location, agent, most_facts)
            if report.explanation.job and report.explanation.job.id == job:
                return report
        except UnknownJobError as error:
            reason = str(error)
    location, *others = await _search(redis, job, reason, most_facts)
    report = await _explain(redis, settings, location, agent, most_facts)
    notes = [f"job {job} is also known in partition {o.partition}" for o in others[:MAX_NOTED]]
    if key.content and key.view_id != location.view_id:
        notes.append(
            f"{schema.job_key(job)} does not lead to this record, so signed tokens of the job get "
            "another answer: see `projector verify`"
        )
    return msgspec.structs.replace(report, notes=report.notes + notes)


async def read_job_key(redis: Redis, job: int) -> JobKey:
    """Read what the key of a job holds, and so under which view id its record is."""
    try:
        raw: Any = await redis.get(schema.job_key(job))
    except ResponseError as error:
        raw = _string(error) or b""
    if raw is None:
        return JobKey(None, None)
    if schema.POINTER.fullmatch(raw):
        return JobKey("digest", ViewId(raw.decode()))
    return JobKey("record", ViewId(str(job))) if _decode(raw) else JobKey("unreadable", None)


async def read_record(redis: Redis, view_id: ViewId) -> StoredRecord | None:
    """Read the record of a view; None if it is missing or malformed."""
    key = schema.record_key(view_id)
    raw, left = await redis_batch.execute(redis, [("GET", key), ("PTTL", key)])
    record = _decode(_string(raw.value))
    return record and StoredRecord(record, int(left.now) + left.value)


def _decode(raw: bytes | None) -> ViewRecord | None:
    try:
        return ViewRecord.decode(raw or b"")
    except ValueError:
        return None


def _string(found: Any) -> bytes | None:
    """Return a string; None if the key is missing or has another type. Raises other errors."""
    if isinstance(found, Exception) and "WRONGTYPE" not in str(found):
        raise found
    return found if isinstance(found, bytes) else None


async def _search(
    redis: Redis, job: int, unknown: str, most_facts: int | None
) -> list[JobLocation]:
    """Find the job in the facts of all partitions, the latest first.

    Raises `UnknownJobError` with the reason `unknown` if no partition has it.
    """
    found: list[tuple[int, JobLocation]] = []
    for partition in range(await require_partition_count(redis)):
        await _refuse_too_many(redis, partition, most_facts)
        pattern = f"*/job/{job}"
        async for field, raw in redis.hscan_iter(
            schema.facts_key(partition), match=pattern, count=FIELDS_PER_CALL
        ):
            key = Key(field.decode(errors="replace"))
            if key.count("/") == 2:
                found.append(_locate(partition, key, raw))
    if not found:
        raise UnknownJobError(unknown)
    return [location for _, location in sorted(found, key=lambda each: -each[0])]


def _locate(partition: int, key: Key, raw: bytes) -> tuple[int, JobLocation]:
    """Decode the job's fact; return its time (ms) and the job's location."""
    try:
        fact = facts.decode_fact(key, raw)
    except ValueError as error:
        raise SnapshotError(f"a fact of partition {partition} is unreadable: {error}") from None
    job = fact.data if isinstance(fact.data, entities.Job) else None
    return fact.timestamp, JobLocation(partition, key, view_id(key, job) if job else None)


async def _refuse_too_many(redis: Redis, partition: int, most: int | None) -> None:
    if most is None:
        return
    state = await snapshot.read_state(redis, partition)
    count = (state and state.facts) or 0
    if count < 0:
        raise SnapshotError(
            f"the checkpoint of partition {partition} is not written to its end; ask again"
        )
    if count > most:
        raise TooManyFactsError(
            f"partition {partition} holds {count:,} facts, and at most {most:,} are read here; "
            "run `projector explain` instead"
        )


async def _explain(
    redis: Redis,
    settings: Settings,
    location: JobLocation,
    agent: int | None,
    most_facts: int | None,
) -> ExplanationReport:
    """Read until the facts and the record are of the same time, at most `TRIES` times."""
    last: ExplanationReport | None = None
    for attempt in range(TRIES):
        if attempt:
            await asyncio.sleep(PAUSE_S)
        await _refuse_too_many(redis, location.partition, most_facts)
        stored = await read_record(redis, location.view_id) if location.view_id else None
        reached = stored.record.version if stored else None
        found = await snapshot.read_snapshot(redis, location.partition, reached)
        if location.view_id in found.in_doubt:
            continue
        # Once more: a record written while the facts were read is newer than they are.
        stored = await read_record(redis, location.view_id) if location.view_id else None
        if stored and stored.record.version > found.state.version:
            continue
        last = await asyncio.to_thread(_report, found, settings, location, agent, stored)
        if last.agrees:
            return last
    if last is None:
        raise SnapshotError(
            f"the facts of the job in partition {location.partition} change faster than they are "
            "read; ask again"
        )
    return last


def _report(
    found: Snapshot,
    settings: Settings,
    location: JobLocation,
    agent: int | None,
    stored: StoredRecord | None,
) -> ExplanationReport:
    explanation = _explanation(found, settings, location, agent)
    agrees = _agrees(found, settings, location, stored)
    stamp = found.state.stamp
    age = None if stamp is None else max(0, found.now - stamp) / 1000
    return ExplanationReport(
        explanation=explanation,
        view=stored and _stored_view(stored),
        agrees=agrees,
        fresh_at=None if stamp is None else to_rfc3339(stamp),
        age=age,
        notes=_notes(settings, found.partition, age, agrees),
    )


def _explanation(
    found: Snapshot, settings: Settings, location: JobLocation, agent: int | None
) -> Explanation:
    key = location.key or found.facts.job_of_view(location.view_id or ViewId(""))
    if key is None:
        raise UnknownJobError(
            f"there is a record, but no fact of partition {found.partition} justifies it; "
            "wait for the worker's sweep, or run `projector verify --repair`"
        )
    question = Question(key, _rules(settings), found.now, agent, location.view_id)
    try:
        return job_explanation.explain_job(found.facts, found.partition, question)
    except KeyError:
        raise UnknownJobError(f"the facts of {key} have expired") from None


def _rules(settings: Settings) -> ViewRules:
    return ViewRules(settings.minimum_level, settings.max_view_bytes)


def _agrees(
    found: Snapshot, settings: Settings, location: JobLocation, stored: StoredRecord | None
) -> bool:
    """Whether the record follows from the facts. An expired token has no record."""
    if location.view_id is None or found.facts.job_of_view(location.view_id) is None:
        return stored is None
    expected = projection.compute_view(found.facts, location.view_id, _rules(settings), found.now)
    if stored is None:
        return expected.expires_at <= found.now
    return (stored.record.status, stored.record.body) == (expected.status, expected.body)


def _stored_view(stored: StoredRecord) -> StoredView:
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
            "PROJECTOR_MINIMUM_ROLE and PROJECTOR_MAX_VIEW_BYTES are the same here as at the "
            "workers"
        )
    return notes
