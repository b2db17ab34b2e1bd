"""Facts compared with an upstream export: missing, extra, different.

The export is as of one time, and events go on. A fact whose event is younger than the export counts
as newer and is left alone. `repair` makes the events that repair the other facts.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from projector.domain import entities, fact_keys
from projector.domain.entities import Configuration, Entity, Job, Member, SharedAgent, User
from projector.domain.fact_keys import Key
from projector.domain.facts import AnyFact
from projector.domain.transitions import MAX_TOKEN_LIFE_MS, job_of, state
from projector.events import model
from projector.events.model import BadEvent, Event, KafkaRecord, Topic
from projector.events.partitioning import partition_of
from projector.feed import event_file
from projector.feed.event_file import BadLine
from projector.operators.snapshot import Snapshot

# Later than any record.
_LAST: Final = 2**62


class FactMismatch(StrEnum):
    """The difference between a fact and the export."""

    MISSING = "missing"
    EXTRA = "extra"
    DIFFERENT = "different"
    NEWER = "newer"


class ExportEntry(NamedTuple):
    """An exported entity, with its line in the file and the position of that line's first byte."""

    line: int
    at: int
    event: Event
    entity: Entity


class AuditFinding(NamedTuple):
    """An entity of which the facts and the export differ.

    `fields` has the values in the fact and in the export, by the names of differing fields.
    """

    partition: int
    key: Key
    mismatch: FactMismatch
    entry: ExportEntry | None
    fact: AnyFact | None
    fields: dict[str, tuple[Any, Any]]


class AuditScope(NamedTuple):
    """The kinds and root namespaces of which the export lists everything.

    `roots` None: all root namespaces, those that occur in facts alone too.
    """

    kinds: frozenset[str]
    roots: frozenset[str] | None

    def covers(self, key: Key) -> bool:
        """Whether the export would list the entity."""
        return fact_keys.kind_of(key) in self.kinds and self.covers_root(fact_keys.root_of(key))

    def covers_root(self, root: str) -> bool:
        """Whether the export would list what there is in the root namespace; `*` is all."""
        return root == "*" or self.roots is None or root in self.roots


# A kind or a root namespace that has become empty is in no line of the export.
EVERYTHING: Final = AuditScope(frozenset(entities.AUDITED_KINDS), None)


class Export:
    """Upstream's entities by partition; those of the whole instance are in all partitions."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.kinds: set[str] = set()
        self.roots: set[str] = set()
        self.count = 0
        # The earliest `time` of an event, None if any event is without a `time`.
        self.taken: int | None = None
        self._is_timed = True
        self._broadcast: dict[Key, ExportEntry] = {}
        self._by_partition: dict[int, dict[Key, ExportEntry]] = {}

    def add(self, line: int, at: int, event: Event) -> None:
        """Add one event; raises `BadEvent` if it has no place in an export."""
        key, entity = _exported(event)
        entries = self._entries_for(event)
        before = entries.get(key)
        if before is not None and before.entity != entity:
            raise BadEvent(f"line {before.line} has another value of the same entity")
        entries.setdefault(key, ExportEntry(line, at, event, entity))
        self.count += 1
        self.kinds.add(fact_keys.kind_of(key))
        if not event.kind.broadcast:
            self.roots.add(event.root)
        self._note_time(event.time)

    def of(self, partition: int) -> Mapping[Key, ExportEntry]:
        """Return the entries that the facts of the partition should match."""
        return self._broadcast | self._by_partition.get(partition, {})

    def _entries_for(self, event: Event) -> dict[Key, ExportEntry]:
        if event.kind.broadcast:
            return self._broadcast
        return self._by_partition.setdefault(partition_of(event.root, self.partitions), {})

    def _note_time(self, time: int | None) -> None:
        self._is_timed = self._is_timed and time is not None
        times = [each for each in (self.taken, time) if each is not None]
        self.taken = min(times) if self._is_timed else None


def read_export(source: BinaryIO, partitions: int) -> tuple[Export, list[BadLine]]:
    """Read a file of events, one a line; return the export and the lines that it cannot hold."""
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
        # The record's time is not known. It caps the expiry, which `_differing` allows for.
        record = KafkaRecord(Topic.JOB_LIFECYCLE, 0, 0, _LAST, None, None)
        return fact_keys.job_key(event.root, event.data.id), job_of(event, record, event.data)
    key, entity = (None, None) if isinstance(event.data, _NO_STATE) else state(event)
    if key is None or entity is None:
        raise BadEvent(f"an export says what there is; {event.type} has no place in one")
    return key, entity


_NO_STATE: Final = (model.JobFinished, model.JobCanceling)


# comparing


def compare_facts(
    export: Export, scope: AuditScope, look: Snapshot, cutoff: int | None
) -> Iterator[AuditFinding]:
    """Find where the partition's facts and the export differ, in the order of keys.

    Facts of after `cutoff` (ms, by the broker's clock) are newer; without it none are.
    """
    entries = {key: entry for key, entry in export.of(look.partition).items() if scope.covers(key)}
    facts = {key: fact for key, fact in look.facts.items() if scope.covers(key)}
    for key in sorted(entries.keys() | facts.keys()):
        entry, fact = entries.get(key), facts.get(key)
        mismatch, fields = compare_fact(entry, fact, look.now)
        if mismatch and fact and cutoff is not None and fact.timestamp > cutoff:
            mismatch = FactMismatch.NEWER
        if mismatch:
            yield AuditFinding(look.partition, key, mismatch, entry, fact, fields)


def compare_fact(
    entry: ExportEntry | None, fact: AnyFact | None, now: int
) -> tuple[FactMismatch | None, dict[str, tuple[Any, Any]]]:
    """Return the mismatch at `now` (ms), None if there is none, and the differing fields."""
    data = fact.data if fact else None
    if entry is None:
        return (FactMismatch.EXTRA if data is not None and not _is_over(data, now) else None), {}
    if data is None:
        return (None if _is_over(entry.entity, now) else FactMismatch.MISSING), {}
    assert fact is not None  # noqa: S101  it has data
    if _is_over(data, now) and _is_over(entry.entity, now):
        return None, {}
    fields = _differing(fact, entry.entity)
    return (FactMismatch.DIFFERENT if fields else None), fields


# Fields that no rule reads.
_WITHOUT_EFFECT: Final = ("path", "name", "username", "pipeline")
# Kinds of which each entity grants something by itself.
_GRANTING: Final = ("member", "agent", "configuration", "shared-agent", "instance-agent", "job")


def may_grant_more(finding: AuditFinding) -> bool:
    """Whether the facts may grant what the export does not."""
    if finding.mismatch is FactMismatch.EXTRA:
        return fact_keys.kind_of(finding.key) in _GRANTING
    if finding.mismatch is FactMismatch.MISSING:
        return _takes_away(finding.entry)
    return any(_is_wider(name, *values) for name, values in finding.fields.items())


def _takes_away(entry: ExportEntry | None) -> bool:
    """Whether facts without this entity grant more: a user without a fact is active."""
    return entry is not None and isinstance(entry.entity, User) and entry.entity.state != "active"


def _is_wider(name: str, fact: Any, exported: Any) -> bool:
    """Whether the field of a fact may grant more than the exported one: yes, if in doubt."""
    match name:
        case "level":
            return bool(fact > exported)
        case "expires_at":
            return fact is None or (exported is not None and fact > exported)
        case "finished":
            return not fact
        case "state":
            return bool(fact == "active")
        case "group" | "parent" | "digest":
            return fact is not None
    return name not in _WITHOUT_EFFECT


def _is_over(entity: Entity, now: int) -> bool:
    """Whether the entity grants nothing any more, so that either side may lack it."""
    match entity:
        case Member():
            return not entity.is_in_force(now)
        case Job():
            return entity.finished or entity.expires_at <= now
        case Configuration() | SharedAgent():
            return not entity.projects and not entity.groups
    return False


def _differing(fact: AnyFact, wanted: Entity) -> dict[str, tuple[Any, Any]]:
    assert fact.data is not None  # noqa: S101  the caller has checked
    if isinstance(wanted, Job) and isinstance(fact.data, Job):
        wanted = _as_known(fact, fact.data, wanted)
    ours, theirs = entities.fields_of(fact.data), entities.fields_of(wanted)
    # Positions in Kafka are in facts alone.
    both = ours.keys() & theirs.keys()
    return {
        name: (ours[name], theirs[name])
        for name in ours
        if name in both and not _same(ours[name], theirs[name])
    }


def _as_known(fact: AnyFact, known: Job, wanted: Job) -> Job:
    """Return the exported job with what an export need not have, or cannot.

    A start without a digest leaves the digest that the job has. A token lives no longer than the
    limit that starts at its record's time.
    """
    wanted = replace(wanted, digest=wanted.digest or known.digest)
    if wanted.expires_at > fact.timestamp + MAX_TOKEN_LIFE_MS:
        wanted = replace(wanted, expires_at=known.expires_at)
    return wanted


def _same(one: object, other: object) -> bool:
    """Whether both are the same JSON; in Python 0 equals False."""
    return one == other and msgspec.json.encode(one) == msgspec.json.encode(other)


def line_at(source: BinaryIO, entry: ExportEntry | None) -> bytes | None:
    """Read the exported event from the file."""
    if entry is None:
        return None
    source.seek(entry.at)
    return source.readline().strip()


def kinds_named(names: Iterable[str]) -> frozenset[str]:
    """Return the kinds of these names; raises `ValueError` for a name that is not a kind."""
    for name in names:
        if name not in entities.AUDITED_KINDS:
            raise ValueError(f"{name} is no kind; give one of {', '.join(entities.AUDITED_KINDS)}")
    return frozenset(names)
