"""One partition's projection: events in, views and facts out, without any I/O.

A view is a function of the facts and the time alone. Workers that have the same facts therefore
write the same views, and a repeated delivery changes nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

import structlog

from projector.domain import entities, fact_keys
from projector.domain.decision import ViewRules
from projector.domain.entities import EndedToken, Job
from projector.domain.evaluator import Evaluator
from projector.domain.fact_keys import Key
from projector.domain.facts import AnyFact, encode_fact
from projector.domain.index.dirty_views import DirtyBatch
from projector.domain.index.fact_index import FactIndex
from projector.domain.responses import encode_response
from projector.domain.timers import Timers
from projector.domain.transitions import Change, Emptied, changes, ended_memberships
from projector.domain.views import View, ViewId
from projector.events import cloudevents
from projector.events.late_events import refuse_late
from projector.events.model import MAX_VIEW_BYTES, BadEvent, Event, GroupSet, KafkaRecord
from projector.events.partitioning import partition_of

log = structlog.get_logger()


# Delay before a fact is examined again that only events not yet applied may still need.
RETRY_DROP_MS: Final = 1000
# Where events are rare, `applied_until` stays behind for long, and facts pile up.
MAX_RETRY_DROP_MS: Final = 3_600_000


class Policy(NamedTuple):
    """The settings that an owner works by.

    `sweep_interval` is how many seconds one comparison of all views with Redis may take.
    """

    partitions: int
    minimum_level: int
    tombstone_retention_ms: int
    sweep_interval: float = 600.0
    max_view_bytes: int = MAX_VIEW_BYTES

    @property
    def view_rules(self) -> ViewRules:
        """The settings that decide about views."""
        return ViewRules(self.minimum_level, self.max_view_bytes)

    @property
    def rules(self) -> dict[str, int]:
        """The settings that decide about views and facts; a claim stores them in Redis."""
        return self.view_rules.by_name | {"tombstone_retention": self.tombstone_retention_ms}


def needed_until(fact: AnyFact, tombstone_retention_ms: int) -> int:
    """Return when a removed or ended entity is no longer needed (milliseconds)."""
    expires_at = fact.data.expires_at if isinstance(fact.data, Job | EndedToken) else 0
    return max(expires_at, fact.timestamp + tombstone_retention_ms)


def compute_view(facts: FactIndex, id_: ViewId, rules: ViewRules, now: int) -> View:
    """Compute one view at `now` (milliseconds); KeyError if no job has or had it."""
    key = facts.job_of_view(id_)
    if key is None:
        raise KeyError(id_)
    return _view(facts, Evaluator(facts, rules, now), key, id_)


class Projection:
    """The facts of one partition, and the views that their changes outdate."""

    def __init__(self, partition: int, policy: Policy) -> None:
        self.facts = FactIndex()
        # The event of the record applied last; None if it was refused.
        self.latest: Event | None = None
        # What is wrong with the record applied last.
        self.fault: str | None = None
        self._partition = partition
        self._policy = policy
        self._timers: Timers[Key] = Timers()
        self._changed: set[Key] = set()
        self._is_settled = True
        self._evaluator = Evaluator(self.facts, policy.view_rules, 0)

    # the checkpoint

    def begin_history(self) -> None:
        """Begin to take in a checkpoint, and events of which no view is needed, until `settle`.

        Meanwhile no view is marked, and time does not advance. So an event costs half as much: only
        tokens and memberships are indexed at once, all else by `settle`.
        """
        self._is_settled = False

    def load(self, fields: Mapping[bytes, bytes]) -> Iterator[None]:
        """Load a part of a checkpoint, in steps between which the caller may do other work.

        Raises `ValueError` or `LookupError` for a field that is not a fact's.
        """
        self.begin_history()
        return self.facts.load(fields)

    def settle(self) -> Iterator[None]:
        """End a history: complete indexes and timers, in steps as well."""
        if not self._is_settled:
            for key, fact in self.facts.settle():
                self._timers.set(key, self._next_due(fact))
                yield
            self._is_settled = True

    def fields(self) -> dict[Key, bytes]:
        """Return every fact as a field of the checkpoint."""
        return {key: encode_fact(fact) for key, fact in self.facts.items()}

    @property
    def changed_facts(self) -> int:
        """The number of facts that changed since fields were last taken."""
        return len(self._changed)

    def take_fields(self) -> dict[Key, bytes | None]:
        """Return the checkpoint's fields that changed since the last call (None: delete)."""
        fields: dict[Key, bytes | None] = {}
        _take_all(self.take_fields_in_steps(fields))
        return fields

    def take_fields_in_steps(self, fields: dict[Key, bytes | None]) -> Iterator[None]:
        """Add the same to `fields`, in steps of one between which the caller may do other work."""
        changed, self._changed = self._changed, set()
        return self._add_fields(changed, fields)

    def take_all_fields_in_steps(self, fields: dict[Key, bytes | None]) -> Iterator[None]:
        """Add all fields, in steps; none of them counts as changed any more.

        Change no fact between them. The keys are not listed first: to make those of a
        million packed memberships would be one step of 0.2 s.
        """
        self._changed = set()
        return self._add_fields(self.facts.keys(), fields)

    def _add_fields(self, keys: Iterable[Key], fields: dict[Key, bytes | None]) -> Iterator[None]:
        for key in keys:
            fact = self.facts.get(key)
            fields[key] = None if fact is None else encode_fact(fact)
            yield

    # events

    def apply(self, record: KafkaRecord) -> str | None:
        """Apply one record at once; return its `fault`."""
        _take_all(self.apply_in_steps(record) or ())
        return self.fault

    def apply_in_steps(self, record: KafkaRecord) -> Iterator[None] | None:
        """Apply one record, in steps between which the caller may do other work; None if no step.

        Until the last step, no fact must be changed otherwise, and no view computed. Afterwards
        `fault` is what is wrong with the record. A revocation whose ids could be read is applied
        even if something else is wrong with it.
        """
        self.latest = self.fault = None
        if (effect := self._effect(record)) is None:
            return None
        event, new_states, emptied = effect
        if self._is_settled:
            return self._put_in_steps(event, new_states, emptied)
        for key, fact in new_states:
            self.facts.replace(key, fact)
            self._changed.add(key)
        self._conclude(event)
        return self._empty(emptied) if emptied else None

    def _put_in_steps(
        self, event: Event, new_states: list[Change], emptied: Emptied | None
    ) -> Iterator[None]:
        for key, fact in new_states:
            for _ in self.facts.put(key, fact):
                yield
            self._note_changed(key, fact)
        if emptied:
            yield from self._empty(emptied)
        self._conclude(event)

    def _conclude(self, event: Event) -> None:
        self.latest = event
        self.fault = event.warning or self._circle(event)

    def _effect(self, record: KafkaRecord) -> tuple[Event, list[Change], Emptied | None] | None:
        """Decode a record and find all that it changes; None if it has a fault."""
        try:
            event = cloudevents.decode_event(record)
            self._refuse_misplaced(event, record)
            event = refuse_late(event, record, self._policy.tombstone_retention_ms)
            new_states = list(changes(self.facts, event, record))
            return event, new_states, ended_memberships(self.facts, event, record)
        except BadEvent as error:
            self.fault = str(error)
        except Exception as error:
            # A defect of this program in one event must not stop all others, which revoke.
            log.exception(
                "an event that this program cannot handle; please report it",
                topic=record.topic, partition=record.partition, offset=record.offset,
            )  # fmt: skip
            self.fault = f"internal error: {type(error).__name__}"
        return None

    def _empty(self, emptied: Emptied) -> Iterator[None]:
        """End the memberships of a removed group or project, in steps of one."""
        is_marked = False
        for key in self.facts.membership_keys(emptied.scope):
            fact = emptied.after(self.facts.known_fact(key))
            if fact is None:
                continue
            if not is_marked:
                yield from self.facts.mark_scope(emptied.scope)
                is_marked = True
            self.facts.end_membership(key, fact)
            self._note_changed(key, fact)
            yield

    def _refuse_misplaced(self, event: Event, record: KafkaRecord) -> None:
        kind = event.kind
        if record.topic != kind.topic:
            raise BadEvent(f"{event.type} belongs in the topic {kind.topic}, not in {record.topic}")
        expected = partition_of(event.root, self._policy.partitions)
        if not kind.broadcast and expected != record.partition:
            raise BadEvent(
                f"partitionkey {event.root} belongs in partition {expected} of "
                f"{self._policy.partitions}, but the record is in partition {record.partition}; "
                "use the murmur2 partitioner on the partitionkey"
            )

    def _circle(self, event: Event) -> str | None:
        """Report a circle of groups; the group is stored, since later events may break the circle.

        Until then, all jobs below it are refused.
        """
        group = event.data
        if isinstance(group, GroupSet) and self.facts.is_in_circle(event.root, group.id):
            return f"group {group.id} is above itself; until that is fixed, jobs below it get 503"
        return None

    def _note_changed(self, key: Key, fact: AnyFact) -> None:
        self._changed.add(key)
        if self._is_settled:
            self._timers.set(key, self._next_due(fact))

    # views

    def take_dirty(self, most: int) -> DirtyBatch:
        """Remove and return some of the views that may be outdated."""
        return self.facts.dirty.take(most)

    def views(self, ids: Iterable[ViewId], now: int) -> Iterator[View]:
        """Compute the views at `now`, one at a time; skip those without a fact."""
        evaluator = self._evaluator.at(now)
        for id_ in ids:
            if key := self.facts.job_of_view(id_):
                yield _view(self.facts, evaluator, key, id_)

    def all_views(self, now: int) -> Iterator[View]:
        """Compute every view and tombstone that is not expired at `now`.

        One at a time: all at once would fill the memory.
        """
        views = self.views(list(self.facts.view_ids()), now)
        return (view for view in views if view.expires_at > now)

    def view(self, id_: ViewId, now: int) -> View:
        """Compute one view at `now` (milliseconds); KeyError if no job has or had it."""
        for view in self.views([id_], now):
            return view
        raise KeyError(id_)

    def take_too_large(self) -> tuple[int, int]:
        """Return how many views were refused as too large since the last call, and a project."""
        count, self._evaluator.too_large = self._evaluator.too_large, 0
        return count, self._evaluator.large_project

    # time

    def advance(self, now: int, applied_until: int | None = None) -> None:
        """Apply what time alone has made due at `now` (milliseconds).

        Every event up to `applied_until` has been applied (`now` unless given). No fact is dropped
        that an older event may still need: a rebuild reads all events before it reads the clock,
        and would decide otherwise.
        """
        _take_all(self.advance_in_steps(now, applied_until))

    def advance_in_steps(self, now: int, applied_until: int | None = None) -> Iterator[None]:
        """Do the same in steps between which the caller may do other work."""
        until = now if applied_until is None else applied_until
        yield from self._timers.sort_in_steps(now)
        for key in self._timers.take_due(now):
            fact = self.facts.get(key)
            if fact is not None:
                yield from self._fall_due(key, fact, now, until)
            yield

    def judge_again(self) -> Iterator[None]:
        """Undo, in steps of one fact, what `advance` did by a time that was wrong.

        Change no fact between them. Call `advance` with the right time after it. Marks no view as
        outdated.
        """
        for key, fact in self.facts.changing_items():
            self._timers.set(key, self._next_due(fact))
            self.facts.revive_job(key)
            yield

    def _next_due(self, fact: AnyFact) -> int | None:
        match fact.data:
            case None:
                return self._needed_until(fact)
            case entities.Member(expires_at=expires_at):
                return expires_at
            case Job(finished=False, expires_at=expires_at):
                return expires_at
            case Job() | EndedToken():
                return self._needed_until(fact)
        return None

    def _needed_until(self, fact: AnyFact) -> int:
        return needed_until(fact, self._policy.tombstone_retention_ms)

    def _fall_due(self, key: Key, fact: AnyFact, now: int, applied_until: int) -> Iterator[None]:
        if isinstance(fact.data, entities.Member):
            yield from self.facts.mark_affected(key)
        elif self.facts.is_needed(key):
            self._timers.set(key, now + self._policy.tombstone_retention_ms)
        elif self._needed_until(fact) <= applied_until:
            self.facts.drop(key)
            self._changed.add(key)
        else:
            self.facts.expire_job(key)
            needed_until = self._needed_until(fact)
            behind = min(max(RETRY_DROP_MS, needed_until - applied_until), MAX_RETRY_DROP_MS)
            self._timers.set(key, max(needed_until, now + behind))


def _take_all(steps: Iterable[None]) -> None:
    for _ in steps:
        pass


def _view(facts: FactIndex, evaluator: Evaluator, key: Key, id_: ViewId) -> View:
    (root, number), job = fact_keys.job_of(key), facts.job(key)
    if job is None or (job.digest or str(number)) != id_:
        ended = facts.ended_token(root, id_)
        assert ended is not None, key  # noqa: S101  the job had the token
        return View(id_, number, HTTPStatus.UNAUTHORIZED, b"", ended.expires_at, False)
    decision = evaluator.decide_job(root, job)
    body = encode_response(number, job, decision)
    # The key of a job without a digest is no other job's, which only a faulty producer has.
    is_shared = job.digest and facts.without_digest and facts.has_job_by_id(number)
    return View(id_, number, decision.status, body, job.expires_at, not is_shared)
