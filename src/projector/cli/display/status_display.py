"""The picture of `projector status`: a header, the causes of what is wrong, the worst rows first.

Names come from Redis and Kafka and are not trusted: control characters are escaped.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from projector.cli.display.local_time import duration, local_time
from projector.log import escape_control_chars
from projector.operators.diagnosis.words import many
from projector.operators.number_ranges import number_ranges
from projector.operators.source_status import SourceHealth, SourceStatus
from projector.operators.status_model import (
    Cause,
    Deployment,
    PartitionHealth,
    PartitionStatus,
    Severity,
    Status,
    WorkerHealth,
    WorkerStatus,
)
from projector.store.activity import ActivityRates

UNKNOWN: Final = "-"
HEADER: Final = (
    "partition", "state", "age s", "lag", "facts", "tokens", "events/s", "p99 s", "owner",
)  # fmt: skip
SOURCES_HEADER: Final = ("source", "state", "age s", "partitions that wait for it")
COLOURS: Final = {
    PartitionHealth.FRESH: "green",
    PartitionHealth.LATE: "yellow",
    PartitionHealth.STALE: "red",
    PartitionHealth.UNCLAIMED: "red",
    SourceHealth.HEARD: "green",
    SourceHealth.UNKNOWN: "yellow",
    SourceHealth.LATE: "yellow",
    SourceHealth.SILENT: "red",
    Severity.OUTAGE: "bold red",
    Severity.DEGRADED: "bold yellow",
    Severity.NOTICE: "bold cyan",
}
MAX_WORKERS_NAMED: Final = 20
MAX_SOURCES_ON_TERMINAL: Final = 5

Rows = list[tuple[PartitionHealth, tuple[str, ...]]]


def picture(status: Status, *, unfolded: bool, most_rows: int | None = None) -> Group:
    """Draw the status; of more than `most_rows` partitions the worst."""
    rows = _rows(status, unfolded)
    hidden = len(rows) - (len(rows) if most_rows is None else most_rows)
    more = [Text(f"and {many(hidden, 'more row')}, less urgent")] if hidden > 0 else []
    tables: list[RenderableType] = [_partitions(rows[:most_rows]), *more] if rows else []
    if status.sources:
        tables.append(_sources(status, None if most_rows is None else MAX_SOURCES_ON_TERMINAL))
    return Group(
        header(status.deployment, status.at),
        _causes(status.causes, status.at),
        *tables,
        *(Text(line) for line in sentences(status)),
    )


def fitting_picture(console: Console, status: Status, *, unfolded: bool) -> Group:
    """Draw the status so that it fits the terminal's height; the causes come before the rows."""
    rows = len(_rows(status, unfolded))
    found = picture(status, unfolded=unfolded)
    while (excess := len(console.render_lines(found, pad=False)) - console.height) > 0 and rows > 1:
        rows = max(1, rows - excess)
        found = picture(status, unfolded=unfolded, most_rows=rows)
    return found


def trouble_picture(deployment: Deployment, cause: Cause, at: int) -> Group:
    """Draw why there is no status, as of `at` (ms of this machine)."""
    return Group(header(deployment, at), _causes([cause], at))


def header(deployment: Deployment | None, at: int) -> Text:
    """Write time, Redis, Kafka, prefix and version."""
    parts = [local_time(at, at)]
    if deployment:
        prefix = f"prefix {deployment.topic_prefix}" if deployment.topic_prefix else "no prefix"
        parts += [f"Redis {deployment.redis}", f"Kafka {deployment.kafka}", prefix,
                  f"version {deployment.version}"]  # fmt: skip
    return Text(escape_control_chars("  ".join(parts)), style="dim")


def cause_lines(cause: Cause, now: int) -> Iterator[str]:
    """Write what is wrong and since when, what lookups get, what to do, and where to read on."""
    since = ""
    if cause.since is not None:
        ago = duration(max(0, now - cause.since) / 1000)
        since = f" Since {local_time(cause.since, now)} ({ago})."
    yield escape_control_chars(f"{cause.what}{since}")
    yield escape_control_chars(cause.lookups)
    yield escape_control_chars(cause.advice)
    if cause.detail:
        yield escape_control_chars(f"({cause.detail})")
    yield f"docs/{cause.runbook}"


def _causes(causes: Sequence[Cause], now: int) -> RenderableType:
    if not causes:
        return Text("All is well.", style="bold green")
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for cause in causes:
        what, *more = cause_lines(cause, now)
        table.add_row(Text(cause.severity, COLOURS[cause.severity]), Text(what, "bold"))
        for line in more:
            table.add_row("", Text(line))
    return table


def sentences(status: Status) -> Iterator[str]:
    """Write the totals, the rates and the workers, the one that was silent longest first."""
    totals = status.totals
    counts = {state: getattr(totals, state) for state in PartitionHealth}
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    yield f"{many(totals.partitions, 'partition')}{f': {states}' if states else ''}"
    replayed = f" ({status.replayed} replayed)" if status.replayed else ""
    yield ", ".join(
        [
            many(totals.live_tokens, "live token"),
            many(totals.facts, "fact"),
            f"lag {_number(totals.lag)}",
            f"dead letters {_number(status.dead_letters)}{replayed}",
        ]
    )
    yield f"last 5 minutes: {_rates(totals.rates)}"
    yield f"{many(len(status.workers), 'worker')}{_named(status.workers)}"


# rows


def _rows(status: Status, unfolded: bool) -> Rows:
    """List the partitions, the worst first; those of one worker and state in one row."""
    rows: dict[object, list[PartitionStatus]] = {}
    for each in sorted(status.partitions, key=_badness):
        alike = each.partition if unfolded else (each.state, each.owner)
        rows.setdefault(alike, []).append(each)
    return [(found[0].state, _cells(found)) for found in rows.values()]


def _badness(partition: PartitionStatus) -> tuple[int, float, int]:
    order = list(PartitionHealth)
    age = 0.0 if partition.state is PartitionHealth.FRESH else _age(partition.age)
    return -order.index(partition.state), -age, partition.partition


def _age(age: float | None) -> float:
    return math.inf if age is None else age


def _cells(partitions: Sequence[PartitionStatus]) -> tuple[str, ...]:
    """Write one row for partitions of one owner and state: sums, and the greatest age."""
    rates = [p.rates for p in partitions if p.rates]
    slowest = [r.revocation_p99 for r in rates if r.revocation_p99 is not None]
    return (
        ranges(p.partition for p in partitions),
        partitions[0].state,
        _seconds(max((p.age for p in partitions if p.age is not None), default=None)),
        _number(_sum(sum(p.lag.values()) for p in partitions if p.lag is not None)),
        _number(_sum(p.facts for p in partitions)),
        _number(_sum(p.live_tokens for p in partitions)),
        f"{sum(r.events for r in rates):.1f}" if rates else UNKNOWN,
        f"{max(slowest):.3f}" if slowest else UNKNOWN,
        escape_control_chars(partitions[0].owner or UNKNOWN),
    )


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def ranges(numbers: Iterable[int]) -> str:
    """Write `0-7, 9`."""
    return ", ".join(number_ranges(numbers, "..."))


# tables


def _partitions(rows: Rows) -> Table:
    table = _table(HEADER)
    for state, (number, name, *cells) in rows:
        table.add_row(Text(number), Text(name, COLOURS[state]), *map(Text, cells))
    return table


def _sources(status: Status, most: int | None) -> Table:
    table = _table(SOURCES_HEADER)
    for source in status.sources[:most]:
        state = Text(source.state, COLOURS[source.state])
        age, waiting = _seconds(source.age), waiting_for(source, status)
        table.add_row(Text(source.source), state, Text(age), Text(waiting))
    return table


def _table(names: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name in ("state", "age s"))
    return table


def waiting_for(source: SourceStatus, status: Status) -> str:
    """Write which partitions wait for the source: `none`, `all 16` or `2: 3, 5`."""
    count = len(source.waiting)
    if not count:
        return "none"
    if count == len(status.partitions):
        return f"all {count}"
    return f"{count}: {ranges(source.waiting)}"


# sentences


def _rates(rates: ActivityRates) -> str:
    text = f"{rates.events:.1f} events/s, {rates.refused:.1f} refused/s, {rates.views:.1f} views/s"
    if rates.revocation_p50 is None:
        return f"{text}, no revocation"
    return (
        f"{text}, {many(rates.revocations, 'revocation')}: half within {rates.revocation_p50:.3f} "
        f"s, 99% within {rates.revocation_p99:.3f} s, the slowest {rates.revocation_max:.3f} s"
    )


def _named(workers: Iterable[WorkerStatus]) -> str:
    oldest = sorted(workers, key=lambda worker: (-_age(worker.age), worker.owner))
    named = [_worker(each) for each in oldest]
    if len(named) > MAX_WORKERS_NAMED:
        named[MAX_WORKERS_NAMED:] = ["..."]
    return escape_control_chars(f": {', '.join(named)}") if named else ""


def _worker(worker: WorkerStatus) -> str:
    parts = [many(len(worker.partitions), "partition")]
    if worker.state is WorkerHealth.SILENT:
        silent = "never fresh" if worker.age is None else f"silent for {duration(worker.age)}"
        parts.append(silent)
    elif worker.state is WorkerHealth.WAITING:
        parts.append("waits for a source")
    elif worker.state is WorkerHealth.BEHIND:
        parts.append("behind")
    return f"{worker.owner} ({', '.join(parts)})"


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def _seconds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f}"
