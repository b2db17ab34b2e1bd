"""Transitions from events to new facts: order, sequences, replays."""

from collections.abc import Iterator
from typing import Final, NamedTuple, cast

from msgspec.structs import replace

from projector.domain import entities, fact_keys
from projector.domain.entities import DigestStart, EndedToken, Entity, Job
from projector.domain.fact_keys import Key
from projector.domain.facts import NEVER, AnyFact, Fact
from projector.domain.index.fact_index import FactIndex
from projector.domain.views import view_id
from projector.events import model
from projector.events.ci_access import MAX_ENTRIES, Entry
from projector.events.model import BadEvent, Event, KafkaRecord

# A token lives at most this long after its job.started record, also with a later expiry. So a
# rebuild never needs records of the job-lifecycle topic older than its retention keeps.
MAX_TOKEN_LIFE_MS: Final = 60 * 24 * 3600 * 1000


class Change(NamedTuple):
    """The new state of an entity."""

    key: Key
    fact: AnyFact


def changes(facts: FactIndex, event: Event, record: KafkaRecord) -> Iterator[Change]:
    """Yield the new states that an event leads to; none if newer events have been applied.

    The memberships that go with a group or project are not among them: see `ended_memberships`.
    A replayed event has the position of its original. Raises `BadEvent` if it contradicts a fact.
    """
    root = event.root
    record = _in_place(event, record)
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


def _in_place(event: Event, record: KafkaRecord) -> KafkaRecord:
    """Return the record at the position that its event counts from."""
    return record._replace(offset=event.replays.offset) if event.replays else record


def state(event: Event) -> tuple[Key, Entity | None]:
    """Return the entity's key and its whole new state; None if the event removes it."""
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
    if found := _agent_state(root, event.data):
        return found
    raise TypeError(f"{event.type} has no state of its own")


def _agent_state(root: str, data: model.Data) -> tuple[Key, Entity | None] | None:
    """Return the same for an event about an agent, None for any other."""
    match data:
        case model.AgentSet(id=agent, name=name, project_id=project):
            return fact_keys.agent_key(root, agent), entities.Agent(name, project)
        case model.AgentRemoved(id=agent):
            return fact_keys.agent_key(root, agent), None
        case model.AgentConfigured(id=agent, config=config):
            configuration = entities.Configuration(*_entries(config))
            return fact_keys.configuration_key(root, agent), configuration
        case model.SharedAgentSet(id=agent, name=name, project_id=project, config=config):
            granted = entities.SharedAgent(name, project, *_entries(config))
            return fact_keys.shared_agent_key(root, agent), granted
        case model.SharedAgentRemoved(id=agent):
            return fact_keys.shared_agent_key(root, agent), None
        case model.InstanceAgentSet(id=agent, name=name, project_id=project) as of_all:
            shared = entities.InstanceAgent(name, project, of_all.configuration)
            return fact_keys.instance_agent_key(agent), shared
        case model.InstanceAgentRemoved(id=agent):
            return fact_keys.instance_agent_key(agent), None
    return None


def _member_key(root: str, member: model.MemberSet | model.MemberRemoved) -> Key:
    if member.group_id is not None:
        return fact_keys.member_key(
            fact_keys.group_key(root, member.group_id), member.user_id, member.via
        )
    assert member.project_id is not None  # noqa: S101  the event has one of the two
    return fact_keys.member_key(
        fact_keys.project_key(root, member.project_id), member.user_id, member.via
    )


def _milliseconds(time: model.Instant | None) -> int | None:
    return None if time is None else int(time)


def _entries(file: model.AgentFile) -> tuple[list[Entry], list[Entry]]:
    """Return the entries of a file for projects and for groups, as many as count."""
    access = file.ci_access or model.CiAccess()
    return (access.projects or [])[:MAX_ENTRIES], (access.groups or [])[:MAX_ENTRIES]


def _replace(
    facts: FactIndex, event: Event, record: KafkaRecord, key: Key, data: Entity | None
) -> Iterator[Change]:
    after = _applied(event, record, facts.get(key), data)
    if after:
        yield Change(key, after)


# order: which state the entity has after an event


def _applied(
    event: Event, record: KafkaRecord, before: AnyFact | None, data: Entity | None
) -> AnyFact | None:
    """Return the fact after the event; None if nothing changes.

    An event older than the fact may still bring the highest sequence, which later events must
    exceed.
    """
    if before is None:
        return Fact(record.offset, record.timestamp, event.sequence, data)
    has_highest = _has_highest_sequence(event, record, before)
    if event.replays and record.offset == before.offset:
        return _corrected(event, before, data, has_highest)
    if _supersedes(event, record, before, has_highest):
        if has_highest:
            return Fact(record.offset, record.timestamp, event.sequence, data)
        return _keep_sequence(record.offset, record.timestamp, data, before)
    if has_highest:
        sequence_offset = None if record.offset == before.offset else record.offset
        return replace(before, sequence=event.sequence, sequence_offset=sequence_offset)
    return None


def _corrected(event: Event, before: AnyFact, data: Entity | None, has_highest: bool) -> AnyFact:
    """Replace the original event's state, which lacks the entries that a replay has corrected."""
    if has_highest:
        return replace(before, data=data, sequence=event.sequence, sequence_offset=None)
    return replace(before, data=data)


def _has_highest_sequence(event: Event, record: KafkaRecord, before: AnyFact) -> bool:
    """Return whether the event has the highest sequence so far; of equal ones, the first has."""
    if event.sequence is None or before.sequence is None:
        return event.sequence is not None
    highest = (before.sequence, -before.sequenced_at)
    return (event.sequence, -record.offset) > highest


def _supersedes(event: Event, record: KafkaRecord, before: AnyFact, has_highest: bool) -> bool:
    """Return whether the event is newer: by sequence if both have one, else by offset."""
    if event.sequence is None or before.sequence is None:
        return record.offset > before.offset
    return has_highest and (record.offset > before.offset or before.sequenced_at == before.offset)


def _keep_sequence(
    offset: int, timestamp: int, data: Entity | None, before: AnyFact | None
) -> AnyFact:
    """Return a fact that keeps the sequence of the fact before."""
    if before is None or before.sequence is None:
        return Fact(offset, timestamp, None, data)
    sequence_offset = None if before.sequenced_at == offset else before.sequenced_at
    return Fact(offset, timestamp, before.sequence, data, sequence_offset)


# groups and projects: a removal ends all memberships from before it, also if their events come late


def _replace_scope(
    facts: FactIndex, event: Event, record: KafkaRecord, key: Key, data: Entity | None
) -> Iterator[Change]:
    before = facts.get(key)
    removes = data is None and _removes_memberships(event, record, before)
    removal = max(before.last_removal if before else NEVER, record.offset if removes else NEVER)
    after = _applied(event, record, before, data) or before
    if after and (after := _removed_at(after, removal)) != before:
        yield Change(key, after)


def ended_memberships(facts: FactIndex, event: Event, record: KafkaRecord) -> "Emptied | None":
    """Return the group or project whose memberships an event takes away, if it is one that does.

    To be asked before its `changes` are stored.
    """
    if not isinstance(event.data, model.GroupRemoved | model.ProjectRemoved):
        return None
    key, _ = state(event)
    record = _in_place(event, record)
    removes = _removes_memberships(event, record, facts.get(key))
    return Emptied(key, record.offset, record.timestamp) if removes else None


def _removes_memberships(event: Event, record: KafkaRecord, before: AnyFact | None) -> bool:
    """Return whether a removal took effect at its position, also if a later event undid it.

    Of a replay that is unknown if a later event has a higher sequence; it then counts as effective.
    """
    if before is None or event.sequence is None or before.sequence is None:
        return True
    is_unknown = event.replays is not None and record.offset < before.sequenced_at
    return is_unknown or _has_highest_sequence(event, record, before)


def _removed_at(fact: AnyFact, removal: int) -> AnyFact:
    unmarked = replace(fact, removal_offset=None)
    return unmarked if unmarked.last_removal == removal else replace(fact, removal_offset=removal)


class Emptied(NamedTuple):
    """A group or project without its memberships from before the removal at `offset`."""

    scope: Key
    offset: int
    timestamp: int

    def after(self, before: AnyFact) -> AnyFact | None:
        """Return what is left of a membership; None if it is from after the removal."""
        if before.offset >= self.offset:
            return None
        return _keep_sequence(self.offset, self.timestamp, None, before)


def _replace_member(
    facts: FactIndex, event: Event, record: KafkaRecord, key: Key, data: Entity | None
) -> Iterator[Change]:
    after = _applied(event, record, facts.get(key), data)
    scope = facts.get(fact_keys.membership_of(key)[0])
    removal = scope.last_removal if scope else NEVER
    if after and after.offset < removal:
        after = _keep_sequence(removal, record.timestamp, None, after)
    if after:
        yield Change(key, after)


# jobs: finished is final. Each digest belongs to one job, which has at most one. A start without a
# digest leaves the one that the job has.


def _start(
    facts: FactIndex, event: Event, record: KafkaRecord, started: model.JobStarted
) -> Iterator[Change]:
    key = fact_keys.job_key(event.root, started.id)
    job = job_of(event, record, started)
    before, known = facts.get(key), facts.job(key)
    if job.digest or not (known and known.digest):
        _refuse_shared_view(facts.job_of_view(view_id(key, job)), key, job)
    if job.digest and facts.ended_token(event.root, job.digest):
        return
    if before is None or known is None:
        first: AnyFact = Fact(record.offset, record.timestamp, event.sequence, job)
        yield Change(key, _finished(before, record, job) if before else first)
        return
    after = _restarted(event, record, before, known, job)
    if after != before:
        yield Change(key, after)
    digest = cast(Job, after.data).digest
    for ended in (known, job):
        if ended.digest and ended.digest != digest:
            yield _end_token(event.root, key, record, ended)


def _refuse_shared_view(owner: Key | None, key: Key, job: Job) -> None:
    if owner is None or owner == key:
        return
    if job.digest:
        raise BadEvent(
            f"`data.token_sha256` already belongs to job {fact_keys.id_of(owner)}; "
            "every job has a token of its own"
        )
    raise BadEvent(
        f"job {fact_keys.id_of(key)} already belongs to partitionkey "
        f"{fact_keys.root_of(owner)}; all events of a job have the same one"
    )


def _restarted(event: Event, record: KafkaRecord, before: AnyFact, known: Job, job: Job) -> AnyFact:
    """Return the fact of a known job after one more of its starts, perhaps an older one."""
    after = None if known.finished else _applied(event, record, before, job)
    if after is None or after.data is not job:
        return replace(after or before, data=_with_digest(event, record, known, job))
    if job.digest or not known.digest:
        return after
    start = known.digest_start or DigestStart(
        before.offset, before.sequence, before.sequence_offset
    )
    return replace(after, data=replace(job, digest=known.digest, digest_start=start))


def _with_digest(event: Event, record: KafkaRecord, known: Job, job: Job) -> Job:
    """Return the known job after an older start, of which only the digest may count."""
    if job.digest is None:
        return known
    start = DigestStart(record.offset, event.sequence)
    if known.digest:
        if known.finished or not known.digest_start:
            return known
        at = known.digest_start
        bearer: AnyFact = Fact(at.offset, record.timestamp, at.sequence, known, at.sequence_offset)
        after = _applied(event, record, bearer, job)
        if after is None:
            return known
        start = DigestStart(after.offset, after.sequence, after.sequence_offset)
        if after.data is not job:
            return replace(known, digest_start=start)
    return replace(known, digest=job.digest, digest_start=start)


def _end_token(root: fact_keys.Root, job_key: Key, record: KafkaRecord, job: Job) -> Change:
    """End the token of a superseded start; its job may continue with another token."""
    key = fact_keys.token_key(root, cast(str, job.digest))
    token = EndedToken(fact_keys.id_of(job_key), job.expires_at)
    return Change(key, Fact(record.offset, record.timestamp, None, token))


def _finish(facts: FactIndex, record: KafkaRecord, key: Key) -> Iterator[Change]:
    yield Change(key, _finished(facts.get(key), record, facts.job(key)))


def _finished(before: AnyFact | None, record: KafkaRecord, job: Job | None) -> AnyFact:
    """End a job, whether its other events came before or come after."""
    ended = replace(job, finished=True) if job else None
    offset = max(before.offset, record.offset) if before else record.offset
    return _keep_sequence(offset, record.timestamp, ended, before)


def job_of(event: Event, record: KafkaRecord, started: model.JobStarted) -> Job:
    """Return the event's job; its token expires after `MAX_TOKEN_LIFE_MS` at the latest."""
    started_at = (
        min(record.timestamp, event.replays.timestamp) if event.replays else record.timestamp
    )
    return Job(
        digest=started.token_sha256.lower() if started.token_sha256 else None,
        project=started.project_id,
        pipeline=started.pipeline_id,
        user=started.user.id,
        username=started.user.username,
        ref_protected=started.ref_protected,
        expires_at=min(int(started.expires_at), started_at + MAX_TOKEN_LIFE_MS),
        environment=started.environment,
    )
