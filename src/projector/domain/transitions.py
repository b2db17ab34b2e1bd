"""What each event does to the facts: which things get which new state."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from msgspec.structs import replace

from projector.domain import entities, fact_keys
from projector.domain.entities import EndedToken, Entity, Job
from projector.domain.fact_index import FactIndex
from projector.domain.fact_keys import Key
from projector.domain.facts import NEVER, AnyFact, Fact
from projector.events import model
from projector.events.ci_access import MAX_ENTRIES
from projector.events.model import BadEvent, Event, KafkaRecord

# A token lives at most this long from its job.started record, whatever the event says: a rebuild
# then never needs older records of the job-lifecycle topic than its retention keeps.
MAX_TOKEN_LIFE_MS: Final = 60 * 24 * 3600 * 1000


class Change(NamedTuple):
    """A thing's new state."""

    key: Key
    fact: AnyFact


def changes(facts: FactIndex, event: Event, record: KafkaRecord) -> Iterator[Change]:
    """The new states that the event brings, given the facts so far; none if it comes too late.

    A replayed event ranks at its original's offset. Raises `BadEvent` where it contradicts a fact.
    """
    root = event.root
    if event.replays:
        record = record._replace(offset=event.replays.offset)
    match event.data:
        case model.JobStarted() as started:
            yield from _start(facts, event, record, started)
        case model.JobFinished(id=job):
            yield from _finish(facts, record, fact_keys.job_key(root, job))
        case model.JobCanceling():
            pass
        case model.MemberSet() | model.MemberRemoved():
            yield from _replace_member(facts, event, record, *state(event))
        case model.GroupSet() | model.GroupRemoved():
            yield from _replace_scope(facts, event, record, *state(event))
        case model.ProjectSet() | model.ProjectRemoved():
            yield from _replace_scope(facts, event, record, *state(event))
        case _:
            yield from _replace(facts, event, record, *state(event))


def state(event: Event) -> tuple[Key, Entity | None]:
    """The thing that the event is about, and its whole new state; None where it was removed."""
    root = event.root
    match event.data:
        case model.GroupSet(id=group, parent_id=parent, path=path):
            return fact_keys.group_key(root, group), entities.Group(parent, path)
        case model.GroupRemoved(id=group):
            return fact_keys.group_key(root, group), None
        case model.ProjectSet(id=project, group_id=group, path=path):
            return fact_keys.project_key(root, project), entities.Project(group, path)
        case model.ProjectRemoved(id=project):
            return fact_keys.project_key(root, project), None
        case model.MemberSet(level=level, expires_at=expires_at) as member:
            return _member_key(root, member), entities.Member(level, _milliseconds(expires_at))
        case model.MemberRemoved() as member:
            return _member_key(root, member), None
        case model.UserSet(id=user, username=username, state=state):
            return fact_keys.user_key(user), entities.User(username, state)
        case model.AgentSet(id=agent, name=name, project_id=project):
            return fact_keys.agent_key(root, agent), entities.Agent(name, project)
        case model.AgentRemoved(id=agent):
            return fact_keys.agent_key(root, agent), None
        case model.AgentConfigured(id=agent, config=config):
            return fact_keys.configuration_key(root, agent), _configuration(config)
        case model.InstanceAgentSet(id=agent, name=name, project_id=project) as shared:
            thing = entities.InstanceAgent(name, project, shared.configuration)
            return fact_keys.instance_agent_key(agent), thing
        case model.InstanceAgentRemoved(id=agent):
            return fact_keys.instance_agent_key(agent), None
    raise TypeError(f"{event.type} has no state of its own")


def _member_key(root: str, member: model.MemberSet | model.MemberRemoved) -> Key:
    if member.group_id is not None:
        return fact_keys.member_key(
            fact_keys.group_key(root, member.group_id), member.user_id, member.via
        )
    assert member.project_id is not None  # noqa: S101  the event has one of the two
    return fact_keys.member_key(
        fact_keys.project_key(root, member.project_id), member.user_id, member.via
    )


def _milliseconds(moment: model.Instant | None) -> int | None:
    return None if moment is None else int(moment)


def _configuration(file: model.AgentFile) -> entities.Configuration:
    access = file.ci_access or model.CiAccess()
    return entities.Configuration(
        projects=(access.projects or [])[:MAX_ENTRIES],
        groups=(access.groups or [])[:MAX_ENTRIES],
    )


def _replace(
    facts: FactIndex, event: Event, record: KafkaRecord, key: Key, thing: Entity | None
) -> Iterator[Change]:
    after = _ranked(event, record, facts.get(key), thing)
    if after:
        yield Change(key, after)


# order: what an event does to the fact that is there


def _ranked(
    event: Event, record: KafkaRecord, before: AnyFact | None, thing: Entity | None
) -> AnyFact | None:
    """The fact after the event; None if nothing changes.

    An event that was outranked may still bring the highest sequence, which later ones must pass.
    """
    if before is None:
        return Fact(record.offset, record.timestamp, event.sequence, thing)
    leads = _leads(event, record, before)
    if event.replays and record.offset == before.offset:
        return _mended(event, before, thing, leads)
    if _wins(event, record, before, leads):
        if leads:
            return Fact(record.offset, record.timestamp, event.sequence, thing)
        return _fact(record.offset, record.timestamp, thing, before)
    if leads:
        ahead = None if record.offset == before.offset else record.offset
        return replace(before, sequence=event.sequence, sequence_offset=ahead)
    return None


def _mended(event: Event, before: AnyFact, thing: Entity | None, leads: bool) -> AnyFact:
    """The state in place of the replayed event's own, of which not everything counted."""
    if leads:
        return replace(before, data=thing, sequence=event.sequence, sequence_offset=None)
    return replace(before, data=thing)


def _leads(event: Event, record: KafkaRecord, before: AnyFact) -> bool:
    """Whether the event has the highest sequence so far; of equal ones the first counts."""
    if event.sequence is None or before.sequence is None:
        return event.sequence is not None
    highest = (before.sequence, -before.sequenced_at)
    return (event.sequence, -record.offset) > highest


def _wins(event: Event, record: KafkaRecord, before: AnyFact, leads: bool) -> bool:
    """Whether the event outranks the fact: by sequence where both have one, else by offset."""
    if event.sequence is None or before.sequence is None:
        return record.offset > before.offset
    return leads and (record.offset > before.offset or before.sequenced_at == before.offset)


def _fact(offset: int, timestamp: int, thing: Entity | None, before: AnyFact | None) -> AnyFact:
    """A new state, with the sequence of the one before."""
    if before is None or before.sequence is None:
        return Fact(offset, timestamp, None, thing)
    elsewhere = None if before.sequenced_at == offset else before.sequenced_at
    return Fact(offset, timestamp, before.sequence, thing, elsewhere)


# groups and projects: memberships go with them, and those from before do not come back


def _replace_scope(
    facts: FactIndex, event: Event, record: KafkaRecord, key: Key, thing: Entity | None
) -> Iterator[Change]:
    before = facts.get(key)
    removes = thing is None and _removes_memberships(event, record, before)
    removal = max(before.last_removal if before else NEVER, record.offset if removes else NEVER)
    after = _ranked(event, record, before, thing) or before
    if after and (after := _removed_at(after, removal)) != before:
        yield Change(key, after)
    if removes:
        yield from _memberships_removed(facts, record, scope=key)


def _removes_memberships(event: Event, record: KafkaRecord, before: AnyFact | None) -> bool:
    """Whether a removal took effect at its place, though the thing may have been set again since.

    Of a replay that is not certain where a later event has the higher sequence: then it did.
    """
    if before is None or event.sequence is None or before.sequence is None:
        return True
    outrun = event.replays is not None and record.offset < before.sequenced_at
    return outrun or _leads(event, record, before)


def _removed_at(fact: AnyFact, removal: int) -> AnyFact:
    unmarked = replace(fact, removal_offset=None)
    return unmarked if unmarked.last_removal == removal else replace(fact, removal_offset=removal)


def _memberships_removed(facts: FactIndex, record: KafkaRecord, scope: Key) -> Iterator[Change]:
    for key in facts.membership_keys(scope):
        before = facts.get(key)
        if before and before.offset < record.offset:
            yield Change(key, _fact(record.offset, record.timestamp, None, before))


def _replace_member(
    facts: FactIndex, event: Event, record: KafkaRecord, key: Key, thing: Entity | None
) -> Iterator[Change]:
    after = _ranked(event, record, facts.get(key), thing)
    scope = facts.get(fact_keys.membership_of(key)[0])
    removal = scope.last_removal if scope else NEVER
    if after and after.offset < removal:
        after = _fact(removal, record.timestamp, None, after)
    if after:
        yield Change(key, after)


# jobs: finished is final, and a token belongs to one job


def _start(
    facts: FactIndex, event: Event, record: KafkaRecord, started: model.JobStarted
) -> Iterator[Change]:
    key = fact_keys.job_key(event.root, started.id)
    job = job_of(event, record, started)
    _refuse_shared_token(facts.job_of_token(job.digest), key)
    before, known = facts.get(key), facts.job(key)
    if facts.ended_token(event.root, job.digest):
        return
    if before is not None and known is None:
        yield Change(key, _finished(before, record, job))
        return
    after = None if known and known.finished else _ranked(event, record, before, job)
    if after:
        yield Change(key, after)
    if known and known.digest != job.digest:
        goes_on = after is not None and after.data is job
        yield _end_token(event.root, key, record, known if goes_on else job)


def _refuse_shared_token(owner: Key | None, key: Key) -> None:
    if owner not in (None, key):
        raise BadEvent(
            f"`data.token_sha256` already belongs to job {fact_keys.id_of(owner or key)}; "
            "every job has a token of its own"
        )


def _end_token(root: fact_keys.Root, job_key: Key, record: KafkaRecord, job: Job) -> Change:
    """The token of an overtaken start ends, though its job may go on with another."""
    token = EndedToken(fact_keys.id_of(job_key), job.expires_at)
    return Change(
        fact_keys.token_key(root, job.digest), Fact(record.offset, record.timestamp, None, token)
    )


def _finish(facts: FactIndex, record: KafkaRecord, key: Key) -> Iterator[Change]:
    yield Change(key, _finished(facts.get(key), record, facts.job(key)))


def _finished(before: AnyFact | None, record: KafkaRecord, job: Job | None) -> AnyFact:
    """The end of a job, which holds for every event before and after it."""
    ended = replace(job, finished=True) if job else None
    offset = max(before.offset, record.offset) if before else record.offset
    return _fact(offset, record.timestamp, ended, before)


def job_of(event: Event, record: KafkaRecord, started: model.JobStarted) -> Job:
    """The job as the event says; its token lives no longer than the record allows."""
    first = min(record.timestamp, event.replays.timestamp) if event.replays else record.timestamp
    return Job(
        digest=started.token_sha256.lower(),
        project=started.project_id,
        pipeline=started.pipeline_id,
        user=started.user.id,
        username=started.user.username,
        ref_protected=started.ref_protected,
        expires_at=min(int(started.expires_at), first + MAX_TOKEN_LIFE_MS),
        environment=started.environment,
    )
