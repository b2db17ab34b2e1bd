"""What each event does to the facts: which things get which new state."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from projector import events, things
from projector.events import BadEvent, Event, Record
from projector.facts import AnyFact, Fact, Facts
from projector.grants import MAX_ENTRIES
from projector.things import EndedToken, Job, Key, Thing

# A token lives at most this long from its job.started record, whatever the event says: a rebuild
# then never needs older records of the job-lifecycle topic than its retention keeps.
MAX_TOKEN_LIFE_MS: Final = 60 * 24 * 3600 * 1000


class Change(NamedTuple):
    """A thing's new state."""

    key: Key
    fact: AnyFact


def changes(facts: Facts, event: Event, record: Record) -> Iterator[Change]:
    """The new states that the event brings, given the facts so far; none if it comes too late.

    Raises `BadEvent` where it contradicts a fact.
    """
    root = event.root
    match event.data:
        case events.JobStarted() as started:
            yield from _start(facts, event, record, started)
        case events.JobFinished(id=job):
            yield from _finish(facts, record, things.job_key(root, job))
        case events.JobCanceling():
            pass
        case _:
            yield from _replace(facts, event, record, *_state(event))


def _state(event: Event) -> tuple[Key, Thing | None]:
    """The thing that the event is about, and its whole new state; None where it was removed."""
    root = event.root
    match event.data:
        case events.GroupSet(id=group, parent_id=parent, path=path):
            return things.group_key(root, group), things.Group(parent, path)
        case events.GroupRemoved(id=group):
            return things.group_key(root, group), None
        case events.ProjectSet(id=project, group_id=group, path=path):
            return things.project_key(root, project), things.Project(group, path)
        case events.ProjectRemoved(id=project):
            return things.project_key(root, project), None
        case events.MemberSet(level=level, expires_at=expires_at) as member:
            return _member_key(root, member), things.Member(level, _milliseconds(expires_at))
        case events.MemberRemoved() as member:
            return _member_key(root, member), None
        case events.UserSet(id=user, username=username, state=state):
            return things.user_key(user), things.User(username, state)
        case events.AgentSet(id=agent, name=name, project_id=project):
            return things.agent_key(root, agent), things.Agent(name, project)
        case events.AgentRemoved(id=agent):
            return things.agent_key(root, agent), None
        case events.AgentConfigured(id=agent, config=config):
            return things.configuration_key(root, agent), _configuration(config)
        case events.InstanceAgentSet(id=agent, name=name, project_id=project) as shared:
            thing = things.InstanceAgent(name, project, shared.configuration)
            return things.instance_agent_key(agent), thing
        case events.InstanceAgentRemoved(id=agent):
            return things.instance_agent_key(agent), None
    raise TypeError(f"{event.type} has no state of its own")


def _member_key(root: str, member: events.MemberSet | events.MemberRemoved) -> Key:
    if member.group_id is not None:
        return things.member_key(
            things.group_key(root, member.group_id), member.user_id, member.via
        )
    assert member.project_id is not None  # noqa: S101  the event has one of the two
    return things.member_key(
        things.project_key(root, member.project_id), member.user_id, member.via
    )


def _milliseconds(moment: events.Instant | None) -> int | None:
    return None if moment is None else int(moment)


def _configuration(file: events.AgentFile) -> things.Configuration:
    access = file.ci_access or events.CiAccess()
    return things.Configuration(
        projects=(access.projects or [])[:MAX_ENTRIES],
        groups=(access.groups or [])[:MAX_ENTRIES],
    )


def _replace(
    facts: Facts, event: Event, record: Record, key: Key, thing: Thing | None
) -> Iterator[Change]:
    before = facts.get(key)
    if not _is_newer(event, record, before):
        return
    yield Change(key, _fact(record, thing, _sequence(event, before)))
    if thing is None:
        yield from _memberships_removed(facts, record, scope=key)


def _memberships_removed(facts: Facts, record: Record, scope: Key) -> Iterator[Change]:
    for key in facts.membership_keys(scope):
        before = facts.get(key)
        yield Change(key, _fact(record, None, before.sequence if before else None))


def _is_newer(event: Event, record: Record, before: AnyFact | None) -> bool:
    """Whether the event outranks the fact. Without sequences Kafka's order counts alone."""
    if before is None:
        return True
    if record.offset <= before.offset:
        return False
    if before.sequence is None or event.sequence is None:
        return True
    return event.sequence > before.sequence


def _sequence(event: Event, before: AnyFact | None) -> int | None:
    if event.sequence is not None:
        return event.sequence
    return before.sequence if before else None


def _fact(record: Record, thing: Thing | None, sequence: int | None) -> AnyFact:
    return Fact(record.offset, record.timestamp, sequence, thing)


# jobs: finished is final, and a token belongs to one job


def _start(
    facts: Facts, event: Event, record: Record, started: events.JobStarted
) -> Iterator[Change]:
    key = things.job_key(event.root, started.id)
    job = _job(started, record)
    _refuse_shared_token(facts.job_of_token(job.digest), key)
    before, known = facts.get(key), facts.job(key)
    goes_on = _is_newer(event, record, before) and not (known and known.finished)
    sequence = _sequence(event, before)
    if facts.ended_token(event.root, job.digest):
        return
    if before is not None and known is None:
        yield Change(key, _fact(record, _finished(job), sequence))
    elif known is None or known.digest == job.digest:
        if goes_on:
            yield Change(key, _fact(record, job, sequence))
    else:
        if goes_on:
            yield Change(key, _fact(record, job, sequence))
        yield _end_token(event.root, key, record, known if goes_on else job)


def _refuse_shared_token(owner: Key | None, key: Key) -> None:
    if owner not in (None, key):
        raise BadEvent(
            f"`data.token_sha256` already belongs to job {things.id_of(owner or key)}; "
            "every job has a token of its own"
        )


def _end_token(root: things.Root, job_key: Key, record: Record, job: Job) -> Change:
    """The token of an overtaken start ends, though its job may go on with another."""
    token = EndedToken(things.id_of(job_key), job.expires_at)
    return Change(things.token_key(root, job.digest), _fact(record, token, None))


def _finish(facts: Facts, record: Record, key: Key) -> Iterator[Change]:
    before, job = facts.get(key), facts.job(key)
    sequence = before.sequence if before else None
    yield Change(key, _fact(record, _finished(job) if job else None, sequence))


def _finished(job: Job) -> Job:
    return msgspec.structs.replace(job, finished=True)


def _job(started: events.JobStarted, record: Record) -> Job:
    return Job(
        digest=started.token_sha256.lower(),
        project=started.project_id,
        pipeline=started.pipeline_id,
        user=started.user.id,
        username=started.user.username,
        ref_protected=started.ref_protected,
        expires_at=min(int(started.expires_at), record.timestamp + MAX_TOKEN_LIFE_MS),
        environment=started.environment,
    )
