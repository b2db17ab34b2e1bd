"""The lines of `projector inspect`."""

from projector.cli.display.rows import Row
from projector.cli.terminal import as_json
from projector.operators.diagnosis.words import many
from projector.operators.inspect import (
    InspectedAgent,
    InspectedFact,
    InspectedJob,
    InspectedPartition,
    InspectedToken,
    SignedToken,
)
from projector.store.silent_source import NEVER_VOUCHED


def job(found: InspectedJob) -> list[Row]:
    """List the job's token, then its facts."""
    if found.token is None:
        reason = (
            "the job's key in Redis holds neither a record nor a digest; see `projector verify`"
            if found.job_key
            else "it has expired, or no event named the job"
        )
        return [Row("token", f"none: {reason}"), *_facts(found.facts)]
    return [*_token(found.token), *_facts(found.facts)]


def answer_of_token(found: InspectedToken) -> str:
    """Return the first line about a token."""
    if found.record is not None:
        return "The token"
    if found.signed and found.signed.refused:
        return f"Lookups get {found.signed.refused} for the token: {found.signed.result}"
    if found.signed and found.signed.result == "no keys":
        return (
            "There is no record under the token's SHA-256. Set PROJECTOR_JOB_TOKEN_KEYS here to "
            "check it as the API does"
        )
    return "There is no record of the token: lookups get 401, or 503"


def token(found: InspectedToken) -> list[Row]:
    """List the check of a signed token, the record, then its facts."""
    return [*_signed(found.signed), *_token(found), *_facts(found.facts)]


def partition(found: InspectedPartition) -> list[Row]:
    """List owner, freshness, offsets and contents."""
    fresh = "never" if found.age is None else f"{found.age:.1f} s ago, as of {found.fresh_at}"
    total = sum(found.facts.values())
    kinds = ", ".join(f"{kind} {count}" for kind, count in found.facts.items())
    offsets = ", ".join(f"{topic} {offset}" for topic, offset in found.offsets.items())
    return [
        Row("owner", found.owner or "none"),
        Row("fresh", fresh),
        *_awaited(found),
        Row("claim", f"epoch {found.epoch}, revision {found.revision}"),
        Row("next", offsets or "no offsets yet"),
        Row("facts", f"{total}: {kinds}" if kinds else "0"),
        Row("checkpoint", _checkpoint(found, total)),
        Row("live tokens", str(found.live_tokens)),
        Row("letters", f"{many(found.letters_waiting, 'dead letter')} not in Kafka yet"),
    ]


def agent(found: InspectedAgent) -> list[Row]:
    """List the agent's facts, the removed ones last, then the jobs that may use it."""
    shown = ", ".join(str(number) for number in found.jobs)
    more = found.jobs_total - len(found.jobs)
    jobs = f"{found.jobs_total}{f': {shown}' if shown else ''}{f' and {more} more' if more else ''}"
    facts = sorted(found.facts, key=lambda fact: fact.data is None)
    return [*_facts(facts), Row("live jobs", f"that may use it now: {jobs}")]


def _awaited(found: InspectedPartition) -> list[Row]:
    awaited = found.waits_for
    if awaited is None:
        return []
    since = NEVER_VOUCHED if awaited.silent is None else f"for {awaited.silent:.1f} s"
    return [Row("waits for", f"source {awaited.source}, silent {since}")]


def _checkpoint(found: InspectedPartition, total: int) -> str:
    total += found.letters_waiting
    if found.checkpoint is None:
        return "none"
    if found.checkpoint < 0:
        return "is being written"
    if found.checkpoint == total:
        return "whole"
    return f"{found.checkpoint} fields were written, {total} are there; ask again"


def _signed(signed: SignedToken | None) -> list[Row]:
    if signed is None:
        return []
    result = signed.result
    if result == "no keys":
        result = "not checked: PROJECTOR_JOB_TOKEN_KEYS is not set here"
    job = "no job" if signed.job is None else f"job {signed.job}"
    names = f"{job}, issuer {signed.issuer}, key {signed.kid}, valid until {signed.expires_at}"
    return [Row("signature", result), Row("names", names)]


def _token(found: InspectedToken) -> list[Row]:
    rows = [Row("sha256", found.sha256 or "none: the job's signed tokens share one record")]
    if found.record is None:
        return [*rows, Row("record", "none")]
    record = found.record
    return [
        *rows,
        Row("record", f"status {record.status}, version {record.version}"),
        Row("expires", record.expires_at),
        Row("body", "none" if record.body is None else as_json(record.body)),
    ]


def _facts(found: list[InspectedFact]) -> list[Row]:
    """List the facts; a broadcast, which is alike in several partitions, in one row."""
    alike: dict[tuple[str, str], list[InspectedFact]] = {}
    for fact in found:
        alike.setdefault((fact.key, _data(fact)), []).append(fact)
    return [_fact(facts) for facts in alike.values()]


def _fact(facts: list[InspectedFact]) -> Row:
    first = facts[0]
    text = f"{first.key} {_data(first)}"
    if len(facts) > 1:
        return Row("fact", f"{text}, alike in {len(facts)} partitions", first.event)
    return Row("fact", text, first.event)


def _data(fact: InspectedFact) -> str:
    return "was removed" if fact.data is None else as_json(fact.data)
