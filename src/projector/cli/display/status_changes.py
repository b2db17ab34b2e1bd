"""The lines of a watch whose output is not a terminal: one for each change."""

from collections.abc import Iterator

from projector.cli.display.status_display import ranges, waiting_for
from projector.events.timestamps import to_rfc3339
from projector.log import escape_control_chars
from projector.operators.status_model import Cause, PartitionHealth, PartitionStatus, Status


def changes(before: Status | None, now: Status) -> Iterator[str]:
    """Write a line for each cause, partition and source that changed, and for Kafka's silence."""
    for line in _changes(before, now):
        yield escape_control_chars(f"{to_rfc3339(now.at)} {line}")


def _changes(before: Status | None, now: Status) -> Iterator[str]:
    if now.kafka and not (before and before.kafka):
        yield f"no lag, no dead letters: {now.kafka}"
    if before and before.kafka and not now.kafka:
        yield "lag and dead letters are known again"
    yield from _partitions(before, now)
    yield from _sources(before, now)
    known = {(c.name, c.severity, c.what) for c in before.causes} if before else set()
    for cause in now.causes:
        if (cause.name, cause.severity, cause.what) not in known:
            yield cause_line(cause)
    if before and before.causes and not now.causes:
        yield "all is well"


def cause_line(cause: Cause) -> str:
    """Write what is wrong, what lookups get and what to do in one line."""
    return f"{cause.severity}: {cause.what} {cause.lookups} {cause.advice} See docs/{cause.runbook}"


def _partitions(before: Status | None, now: Status) -> Iterator[str]:
    """Write a line for the partitions that have come into the same state, under one owner."""
    known = {p.partition: (p.state, p.owner) for p in before.partitions} if before else {}
    changed: dict[tuple[PartitionHealth, str | None], list[PartitionStatus]] = {}
    for each in now.partitions:
        if known.get(each.partition) != (each.state, each.owner):
            changed.setdefault((each.state, each.owner), []).append(each)
    for (state, owner), partitions in changed.items():
        some = "" if len(partitions) == 1 else "s"
        ages = [p.age for p in partitions if p.age is not None]
        age = f"{max(ages):.1f} s" if ages else "-"
        numbers = ranges(p.partition for p in partitions)
        yield f"partition{some} {numbers}: {state}, age {age}, owner {owner or 'none'}"


def _sources(before: Status | None, now: Status) -> Iterator[str]:
    heard = {s.source: s.state for s in before.sources} if before else {}
    for source in now.sources:
        if heard.get(source.source) is not source.state:
            age = "-" if source.age is None else f"{source.age:.1f} s"
            yield (
                f"source {source.source}: {source.state}, age {age}, partitions that wait: "
                f"{waiting_for(source, now)}"
            )
