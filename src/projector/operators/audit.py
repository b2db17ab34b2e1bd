"""The facts held against an upstream export: what is missing, what is extra, what is different.

The export is as of one moment; events go on. A fact whose event is younger than the export counts
as newer and is left alone. `amends` makes the events that mend the rest.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from projector.domain import entities, fact_keys
from projector.domain.entities import Configuration, Entity, Job, Member
from projector.domain.fact_keys import Key
from projector.domain.facts import AnyFact
from projector.domain.transitions import MAX_TOKEN_LIFE_MS, job_of, state
from projector.events import model
from projector.events.model import BadEvent, Event, KafkaRecord, Topic
from projector.events.partitioning import partition_of
from projector.feed import event_file
from projector.feed.event_file import BadLine
from projector.operators.snapshot import Snapshot

# The kinds that an export can list: tokens that ended before their job are nobody's to export.
AUDITED_KINDS: Final = tuple(kind for kind in entities.ENTITY_KINDS if kind != "token")
# Later than any record.
_LAST: Final = 2**62


class FactMismatch(StrEnum):
    """How a fact and the export are not the same."""

    MISSING = "missing"
    EXTRA = "extra"
    DIFFERENT = "different"
    NEWER = "newer"


class ExportEntry(NamedTuple):
    """One exported thing: the line (and its first byte in the file) that says it."""

    line: int
    at: int
    event: Event
    thing: Entity


class AuditFinding(NamedTuple):
    """A thing of which the facts and the export do not say the same.

    `fields` are the names, with what the fact and what the export says.
    """

    partition: int
    key: Key
    what: FactMismatch
    entry: ExportEntry | None
    fact: AnyFact | None
    fields: dict[str, tuple[Any, Any]]


class AuditScope(NamedTuple):
    """Of which kinds and root namespaces the export is taken to list everything."""

    kinds: frozenset[str]
    roots: frozenset[str]

    def covers(self, key: Key) -> bool:
        """Whether the export would list the thing."""
        root = fact_keys.root_of(key)
        return fact_keys.kind_of(key) in self.kinds and (root == "*" or root in self.roots)


class Export:
    """What upstream says there is, by partition; instance-wide things are in all of them."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.kinds: set[str] = set()
        self.roots: set[str] = set()
        self.count = 0
        # The earliest `time` of an event, None while any has none.
        self.taken: int | None = None
        self._is_timed = True
        self._everywhere: dict[Key, ExportEntry] = {}
        self._things: dict[int, dict[Key, ExportEntry]] = {}

    def add(self, line: int, at: int, event: Event) -> None:
        """Take over one event; raises `BadEvent` where it has no place in an export."""
        key, thing = _exported(event)
        held = self._home(event)
        before = held.get(key)
        if before is not None and before.thing != thing:
            raise BadEvent(f"line {before.line} says something else about the same thing")
        held.setdefault(key, ExportEntry(line, at, event, thing))
        self.count += 1
        self.kinds.add(fact_keys.kind_of(key))
        if not event.kind.broadcast:
            self.roots.add(event.root)
        self._note_time(event.time)

    def of(self, partition: int) -> Mapping[Key, ExportEntry]:
        """What the facts of the partition should hold."""
        return self._everywhere | self._things.get(partition, {})

    def _home(self, event: Event) -> dict[Key, ExportEntry]:
        if event.kind.broadcast:
            return self._everywhere
        return self._things.setdefault(partition_of(event.root, self.partitions), {})

    def _note_time(self, moment: int | None) -> None:
        self._is_timed = self._is_timed and moment is not None
        earliest = [time for time in (self.taken, moment) if time is not None]
        self.taken = min(earliest) if self._is_timed else None


def read_export(source: BinaryIO, partitions: int) -> tuple[Export, list[BadLine]]:
    """The export in a file of events, one a line, and every line that has no place in one."""
    export, bad, at = Export(partitions), [], 0
    for number, line in enumerate(source, start=1):
        try:
            if line.strip():
                export.add(number, at, event_file.parse_line(line.strip()))
        except BadEvent as error:
            bad.append(BadLine(number, str(error)))
        at += len(line)
    return export, bad


def _exported(event: Event) -> tuple[Key, Entity]:
    if isinstance(event.data, model.JobStarted):
        # Whatever the record's time will be: `_differing` knows what it does to the expiry.
        record = KafkaRecord(Topic.JOB_LIFECYCLE, 0, 0, _LAST, None, None)
        return fact_keys.job_key(event.root, event.data.id), job_of(event, record, event.data)
    key, thing = (None, None) if isinstance(event.data, _NO_STATE) else state(event)
    if key is None or thing is None:
        raise BadEvent(f"an export says what there is; {event.type} has no place in one")
    return key, thing


_NO_STATE: Final = (model.JobFinished, model.JobCanceling)


# comparing


def compare_facts(
    export: Export, scope: AuditScope, look: Snapshot, cutoff: int | None
) -> Iterator[AuditFinding]:
    """Where the partition's facts and the export differ, by key.

    Facts of after `cutoff` (ms, by the broker's clock; None: there is no telling) are newer.
    """
    entries = {key: entry for key, entry in export.of(look.partition).items() if scope.covers(key)}
    facts = {key: fact for key, fact in look.facts.items() if scope.covers(key)}
    for key in sorted(entries.keys() | facts.keys()):
        entry, fact = entries.get(key), facts.get(key)
        what, fields = difference(entry, fact, look.now)
        if what and fact and cutoff is not None and fact.timestamp > cutoff:
            what = FactMismatch.NEWER
        if what:
            yield AuditFinding(look.partition, key, what, entry, fact, fields)


def difference(
    entry: ExportEntry | None, fact: AnyFact | None, now: int
) -> tuple[FactMismatch | None, dict[str, tuple[Any, Any]]]:
    """How the fact and the export differ at `now` (ms), if they do, and in which fields."""
    data = fact.data if fact else None
    if entry is None:
        return (FactMismatch.EXTRA if data is not None and not _is_over(data, now) else None), {}
    if data is None:
        return (None if _is_over(entry.thing, now) else FactMismatch.MISSING), {}
    assert fact is not None  # noqa: S101  it has data
    if _is_over(data, now) and _is_over(entry.thing, now):
        return None, {}
    fields = _differing(fact, entry.thing)
    return (FactMismatch.DIFFERENT if fields else None), fields


def _is_over(thing: Entity, now: int) -> bool:
    """Whether the thing says nothing any more, so that it need not be there."""
    match thing:
        case Member():
            return not thing.is_in_force(now)
        case Job():
            return thing.finished or thing.expires_at <= now
        case Configuration():
            return not thing.projects and not thing.groups
    return False


def _differing(fact: AnyFact, wanted: Entity) -> dict[str, tuple[Any, Any]]:
    assert fact.data is not None  # noqa: S101  only what is there is compared
    if isinstance(wanted, Job) and isinstance(fact.data, Job) and _is_capped(fact, wanted):
        wanted = replace(wanted, expires_at=fact.data.expires_at)
    ours, theirs = msgspec.to_builtins(fact.data), msgspec.to_builtins(wanted)
    return {
        name: (ours[name], theirs[name]) for name in ours if not _same(ours[name], theirs[name])
    }


def _is_capped(fact: AnyFact, wanted: Job) -> bool:
    """Whether the token would live longer than its record allows any."""
    return wanted.expires_at > fact.timestamp + MAX_TOKEN_LIFE_MS


def _same(one: object, other: object) -> bool:
    """Whether both are the same JSON: to Python 0 equals false."""
    return one == other and msgspec.json.encode(one) == msgspec.json.encode(other)


def line_at(source: BinaryIO, entry: ExportEntry | None) -> bytes | None:
    """The exported event as it stands in the file."""
    if entry is None:
        return None
    source.seek(entry.at)
    return source.readline().strip()


def kinds_named(names: Iterable[str]) -> frozenset[str]:
    """The kinds of these names; raises `ValueError` naming one that is none."""
    for name in names:
        if name not in AUDITED_KINDS:
            raise ValueError(f"{name} is no kind; known are {', '.join(AUDITED_KINDS)}")
    return frozenset(names)
