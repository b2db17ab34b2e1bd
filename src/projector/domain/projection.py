"""Events in, view writes out: the pure heart of the product, without any I/O.

A view is a function of the facts and the time alone, so any worker that holds the same facts
writes the same views, and repeating a delivery changes nothing.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import structlog

from projector.domain import entities
from projector.domain.dirty_tokens import DirtyBatch
from projector.domain.entities import EndedToken, Job
from projector.domain.evaluator import Evaluator
from projector.domain.fact_index import FactIndex
from projector.domain.fact_keys import Key
from projector.domain.facts import AnyFact, encode_fact
from projector.domain.timers import Timers
from projector.domain.transitions import changes
from projector.domain.views import View
from projector.events import cloudevents
from projector.events.late_events import refuse_late
from projector.events.model import BadEvent, Event, GroupSet, KafkaRecord
from projector.events.partitioning import partition_of

log = structlog.get_logger()


# When to look again at what would be forgotten but for events that are not applied yet.
FORGET_LATER_MS: Final = 1000


class Changes(NamedTuple):
    """What a batch changed: views to write first, then fields of the checkpoint (None: delete)."""

    views: list[View]
    facts: dict[Key, bytes | None]


class Policy(NamedTuple):
    """The settings that an owner works by.

    `sweep_interval` is how many seconds one comparison of all views with Redis may take.
    """

    partitions: int
    minimum_level: int
    tombstone_retention_ms: int
    sweep_interval: float = 600.0

    @property
    def rules(self) -> dict[str, int]:
        """What decides about views and facts; claims keep it in Redis, by these fields."""
        return {
            "minimum_level": self.minimum_level,
            "tombstone_retention": self.tombstone_retention_ms,
        }


def forget_at(fact: AnyFact, tombstone_retention_ms: int) -> int:
    """When nothing can need a removed or ended thing any more (milliseconds)."""
    expires_at = fact.data.expires_at if isinstance(fact.data, Job | EndedToken) else 0
    return max(expires_at, fact.timestamp + tombstone_retention_ms)


def compute_view(facts: FactIndex, digest: str, minimum_level: int, now: int) -> View:
    """What the record of a token is to say at `now` (milliseconds); KeyError if no job had it."""
    key = facts.job_of_token(digest)
    if key is None:
        raise KeyError(digest)
    return Evaluator(facts, minimum_level, now).view(key, digest)


class Projection:
    """One partition's facts, and what their changes mean for the views."""

    def __init__(self, partition: int, policy: Policy) -> None:
        self.facts = FactIndex()
        # The event of the record applied last; None where it was refused.
        self.latest: Event | None = None
        self._partition = partition
        self._policy = policy
        self._timers: Timers[Key] = Timers()
        self._changed: set[Key] = set()
        self._judge = Evaluator(self.facts, policy.minimum_level, 0)

    def load(self, fields: Mapping[Key, bytes]) -> Iterator[None]:
        """Take over a part of a checkpoint, in steps between which others may do something else.

        Changes no view. `settle` must follow the last part.
        """
        for key, fact in self.facts.load(fields):
            self._timers.set(key, self._next_due(fact))
            yield

    def settle(self) -> Iterator[None]:
        """Work out what only all parts together tell, in steps as well."""
        return self.facts.settle()

    def apply(self, record: KafkaRecord) -> str | None:
        """Apply one record.

        Returns what is wrong with it, where something is. It was applied all the same if it is a
        revocation whose ids could be read.
        """
        self.latest = None
        try:
            event = cloudevents.decode_event(record)
            self._check_place(event, record)
            event = refuse_late(event, record, self._policy.tombstone_retention_ms)
            new_states = list(changes(self.facts, event, record))
        except BadEvent as error:
            return str(error)
        except Exception as error:
            # No event may stop everybody else's, not even by a mistake of this program.
            log.exception(
                "an event that this program cannot handle; please report it",
                topic=record.topic, partition=record.partition, offset=record.offset,
            )  # fmt: skip
            return f"internal error: {type(error).__name__}"
        for change in new_states:
            self._put(*change)
        self.latest = event
        return event.warning or self._circle(event)

    def advance(self, now: int, applied_until: int | None = None) -> None:
        """Do what time alone has made due at `now` (milliseconds).

        `applied_until` is the moment up to which every event has been applied, `now` if not given.
        Nothing is forgotten that an event of before may still need, or a rebuild, which reads all
        events before it looks at the clock, would decide otherwise.
        """
        for key in self._timers.take_due(now):
            fact = self.facts.get(key)
            if fact is not None:
                self._fall_due(key, fact, now, now if applied_until is None else applied_until)

    def take_dirty(self, most: int) -> DirtyBatch:
        """Take out some of the tokens whose view may be another since it was last written."""
        return self.facts.dirty.take(most)

    def take_fields(self) -> dict[Key, bytes | None]:
        """The fields of the checkpoint that have changed since the last call (None: delete)."""
        fields = {key: self._encoded(key) for key in self._changed}
        self._changed.clear()
        return fields

    def take_changes(self, now: int) -> Changes:
        """What has changed since the last call, as of `now` (milliseconds), all at once."""
        tokens = self.take_dirty(sys.maxsize).tokens
        return Changes(list(self.views(tokens, now)), self.take_fields())

    def views(self, tokens: Iterable[str], now: int) -> Iterator[View]:
        """Their views at `now`, as each is asked for; none for those that no fact knows."""
        judge = self._judge.at(now)
        for token in tokens:
            if key := self.facts.job_of_token(token):
                yield judge.view(key, token)

    def fields(self) -> dict[Key, bytes]:
        """Every fact as it stands in the checkpoint."""
        return {key: encode_fact(fact) for key, fact in self.facts.items()}

    def all_views(self, now: int) -> Iterator[View]:
        """Every view and tombstone of the partition that is not expired at `now`.

        Each is computed when it is asked for: all at once would fill the memory.
        """
        views = self.views(list(self.facts.tokens()), now)
        return (view for view in views if view.expires_at > now)

    def view(self, digest: str, now: int) -> View:
        """What the token's record is to say at `now` (milliseconds); KeyError if no job had it."""
        for view in self.views([digest], now):
            return view
        raise KeyError(digest)

    def _circle(self, event: Event) -> str | None:
        """Later events may mend it, so the group is taken as it is."""
        group = event.data
        if isinstance(group, GroupSet) and self.facts.is_in_circle(event.root, group.id):
            return f"group {group.id} is above itself; until that is mended, jobs below it get 503"
        return None

    def _put(self, key: Key, fact: AnyFact) -> None:
        self.facts.put(key, fact)
        self._changed.add(key)
        self._timers.set(key, self._next_due(fact))

    def _check_place(self, event: Event, record: KafkaRecord) -> None:
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

    def _encoded(self, key: Key) -> bytes | None:
        fact = self.facts.get(key)
        return None if fact is None else encode_fact(fact)

    # time

    def _next_due(self, fact: AnyFact) -> int | None:
        match fact.data:
            case None:
                return self._forget_at(fact)
            case entities.Member(expires_at=expires_at):
                return expires_at
            case Job(finished=False, expires_at=expires_at):
                return expires_at
            case Job() | EndedToken():
                return self._forget_at(fact)
        return None

    def _forget_at(self, fact: AnyFact) -> int:
        return forget_at(fact, self._policy.tombstone_retention_ms)

    def _fall_due(self, key: Key, fact: AnyFact, now: int, applied_until: int) -> None:
        if isinstance(fact.data, entities.Member):
            self.facts.mark_dependents(key)
        elif self.facts.is_needed(key):
            self._timers.set(key, now + self._policy.tombstone_retention_ms)
        elif self._forget_at(fact) <= applied_until:
            self.facts.forget(key)
            self._changed.add(key)
        else:
            self.facts.expire_job(key)
            self._timers.set(key, max(self._forget_at(fact), now + FORGET_LATER_MS))
