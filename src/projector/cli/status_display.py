"""The text of `projector status`: a table, sentences below it, a line for each change.

Owners' names come from Redis and are not trusted: control characters are escaped.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from projector.events.timestamps import to_rfc3339
from projector.log import escape_control_chars
from projector.operators.source_status import SourceHealth, SourceStatus
from projector.operators.status_model import PartitionHealth, PartitionStatus, Status, WorkerStatus
from projector.store.activity import ActivityRates

UNKNOWN: Final = "-"
HEADER: Final = (
    "partition", "state", "age s", "lag", "facts", "tokens", "events/s", "p99 s", "epoch",
    "revision", "owner",
)  # fmt: skip
SOURCES_HEADER: Final = ("source", "state", "age s", "partitions that wait for it")
# Left out on a terminal of 80 columns, and folded there if too long.
NOT_ON_TERMINAL: Final = ("epoch", "revision")
FOLDED: Final = ("lag", "owner")
COLOURS: Final = {
    PartitionHealth.FRESH: "green",
    PartitionHealth.LATE: "yellow",
    PartitionHealth.STALE: "red",
    PartitionHealth.UNCLAIMED: "red",
    SourceHealth.HEARD: "green",
    SourceHealth.UNKNOWN: "yellow",
    SourceHealth.LATE: "yellow",
    SourceHealth.SILENT: "red",
}
# Lines of the table's frame and of the sentences below it.
FRAME: Final = 10
MAX_WORKERS_NAMED: Final = 20
MAX_WAITING_NAMED: Final = 8
MAX_SOURCES_ON_TERMINAL: Final = 5


def lines(status: Status) -> Iterator[str]:
    """Write a header, a line a partition in columns, the same of sources, then the sentences."""
    yield from _columns([HEADER, *(_cells(partition) for partition in status.partitions)])
    if status.sources:
        yield ""
        yield from _columns([SOURCES_HEADER, *_source_rows(status)])
        yield ""
    yield from sentences(status)


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        columns = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(columns).rstrip()


def table(status: Status, height: int) -> Group:
    """Draw the same on a terminal of `height` lines; if these are too few, the worst first."""
    sources = _sources_table(status)
    room = max(1, height - FRAME - (sources.row_count + 2 if sources else 0))
    shown = status.partitions
    if len(shown) > room:
        shown = sorted(shown, key=lambda p: (p.state is PartitionHealth.FRESH, p.partition))[:room]
    found = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in _on_terminal(HEADER):
        found.add_column(name, no_wrap=name not in FOLDED, overflow="fold")
    for partition in shown:
        number, state, *cells = (Text(cell) for cell in _on_terminal(_cells(partition)))
        state.stylize(COLOURS[partition.state])
        found.add_row(number, state, *cells)
    hidden = len(status.partitions) - len(shown)
    more = [f"and {hidden} more partitions"] if hidden else []
    below = (Text(line) for line in sentences(status))
    return Group(found, *map(Text, more), *([sources] if sources else []), *below)


def _sources_table(status: Status) -> Table | None:
    """Draw the worst sources; None without any."""
    if not status.sources:
        return None
    found = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in SOURCES_HEADER:
        found.add_column(name, overflow="fold")
    rows = list(zip(status.sources, _source_rows(status), strict=True))
    for source, (name, state, *cells) in rows[:MAX_SOURCES_ON_TERMINAL]:
        found.add_row(name, Text(state, COLOURS[source.state]), *cells)
    return found


def changes(before: Status | None, now: Status) -> Iterator[str]:
    """Write a line for each partition or source that changed, and for Kafka's silence."""
    if now.kafka and not (before and before.kafka):
        yield escape_control_chars(f"{to_rfc3339(now.at)} no lag, no dead letters: {now.kafka}")
    if before and before.kafka and not now.kafka:
        yield f"{to_rfc3339(now.at)} lag and dead letters are known again"
    known = {p.partition: (p.state, p.owner) for p in before.partitions} if before else {}
    for partition in now.partitions:
        if known.get(partition.partition) != (partition.state, partition.owner):
            owner = escape_control_chars(partition.owner or "none")
            yield (
                f"{to_rfc3339(now.at)} partition {partition.partition}: {partition.state}, "
                f"age {_seconds(partition.age)} s, owner {owner}"
            )
    heard = {s.source: s.state for s in before.sources} if before else {}
    for source in now.sources:
        if heard.get(source.source) is not source.state:
            yield (
                f"{to_rfc3339(now.at)} source {source.source}: {source.state}, "
                f"age {_seconds(source.age)} s, partitions that wait: {_waiting(source, now)}"
            )


def sentences(status: Status) -> Iterator[str]:
    """Write the totals, the workers, and the reason for the lack of Kafka's numbers."""
    totals = status.totals
    counts = {state: getattr(totals, state) for state in PartitionHealth}
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    yield f"{_many(totals.partitions, 'partition')}: {states or 'no worker has ever run'}"
    yield ", ".join(
        [
            _many(totals.live_tokens, "live token"),
            _many(totals.facts, "fact"),
            f"lag {_number(totals.lag)}",
            f"dead letters {_number(status.dead_letters)}",
        ]
    )
    yield f"last 5 minutes: {_rates(totals.rates)}"
    yield f"{_many(len(status.workers), 'worker')}{_named(status.workers)}"
    for source in status.sources:
        if some := source.ignored_by:
            yield (
                f"{_many(len(some), 'partition')} {'does' if len(some) == 1 else 'do'} not wait "
                f"for {source.source} ({_some(some)}): set PROJECTOR_SOURCES alike for all workers"
            )
    if status.kafka:
        yield escape_control_chars(f"no lag, no dead letters: {status.kafka}")


def _cells(partition: PartitionStatus) -> tuple[str, ...]:
    rates = partition.rates
    return (
        str(partition.partition),
        partition.state,
        _seconds(partition.age),
        _lag(partition),
        _number(partition.facts),
        _number(partition.live_tokens),
        f"{rates.events:.1f}" if rates else UNKNOWN,
        f"{rates.revocation_p99:.3f}" if rates and rates.revocation_p99 is not None else UNKNOWN,
        _number(partition.epoch),
        _number(partition.revision),
        escape_control_chars(partition.owner or UNKNOWN),
    )


def _source_rows(status: Status) -> list[tuple[str, ...]]:
    return [(s.source, s.state, _seconds(s.age), _waiting(s, status)) for s in status.sources]


def _waiting(source: SourceStatus, status: Status) -> str:
    count = len(source.waiting)
    if not count:
        return "none"
    if count == len(status.partitions):
        return f"all {count}"
    return f"{count}: {_some(source.waiting)}"


def _some(partitions: Sequence[int]) -> str:
    named = ", ".join(map(str, partitions[:MAX_WAITING_NAMED]))
    return f"{named}{', ...' if len(partitions) > MAX_WAITING_NAMED else ''}"


def _on_terminal(cells: Iterable[str]) -> list[str]:
    named = zip(HEADER, cells, strict=True)
    return [cell for name, cell in named if name not in NOT_ON_TERMINAL]


def _lag(partition: PartitionStatus) -> str:
    if partition.lag is None:
        return UNKNOWN
    return ", ".join(f"{topic} {lag}" for topic, lag in partition.lag.items() if lag) or "0"


def _rates(rates: ActivityRates) -> str:
    text = f"{rates.events:.1f} events/s, {rates.refused:.1f} refused/s, {rates.views:.1f} views/s"
    if rates.revocation_p50 is None:
        return f"{text}, no revocation"
    return (
        f"{text}, {_many(rates.revocations, 'revocation')}: half within {rates.revocation_p50:.3f} "
        f"s, 99% within {rates.revocation_p99:.3f} s, the slowest {rates.revocation_max:.3f} s"
    )


def _named(workers: Iterable[WorkerStatus]) -> str:
    named = [f"{w.owner} ({_many(len(w.partitions), 'partition')})" for w in workers]
    if len(named) > MAX_WORKERS_NAMED:
        named[MAX_WORKERS_NAMED:] = ["..."]
    return escape_control_chars(f": {', '.join(named)}") if named else ""


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def _seconds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f}"
