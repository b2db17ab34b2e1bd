"""Partitions folded by worker, and those whose state is not their worker's."""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from projector.operators.number_ranges import number_ranges
from projector.operators.status_model import (
    PartitionHealth,
    PartitionStatus,
    Status,
    WorkerHealth,
)

# More rows push the rest of the page off the screen.
MAX_LISTED: Final = 12


class PartitionFold(Struct, frozen=True):
    """Partitions of one state: how many, and their numbers as ranges."""

    count: int
    numbers: str


class WorkerRow(Struct, frozen=True):
    """A worker, with its partitions folded by state, and sums over all its partitions.

    Partitions without a worker have a row whose `owner` and `state` are None. `age` is that of the
    freshest.
    """

    owner: str | None
    state: WorkerHealth | None
    age: float | None
    partitions: dict[PartitionHealth, PartitionFold]
    facts: int
    live_tokens: int
    lag: int | None


def fold_workers(status: Status) -> list[WorkerRow]:
    """Fold each worker's partitions into a row; first those without a worker, then the worst."""
    owned = _by_owner(status.partitions)
    rows = [_row(w.owner, w.state, w.age, owned.get(w.owner, [])) for w in status.workers]
    rows.sort(key=_badness, reverse=True)
    return [_row(None, None, None, owned[None]), *rows] if None in owned else rows


def _badness(row: WorkerRow) -> tuple[int, int, float]:
    states = [*list(WorkerHealth), None]
    not_fresh = sum(f.count for s, f in row.partitions.items() if s is not PartitionHealth.FRESH)
    return states.index(row.state), not_fresh, row.age or 0.0


def listed_partitions(partitions: Sequence[PartitionStatus]) -> list[PartitionStatus]:
    """Return partitions that are not fresh although their worker has fresh ones.

    At most `MAX_LISTED`, the worst, by number. The others are folded into their worker's row.
    """
    fresh_owners = {p.owner for p in partitions if p.state is PartitionHealth.FRESH}
    order = list(PartitionHealth)
    bad = [
        p for p in partitions if p.state is not PartitionHealth.FRESH and p.owner in fresh_owners
    ]
    worst = sorted(bad, key=lambda each: (-order.index(each.state), -(each.age or 0.0)))
    return sorted(worst[:MAX_LISTED], key=lambda each: each.partition)


def _by_owner(partitions: Iterable[PartitionStatus]) -> dict[str | None, list[PartitionStatus]]:
    found: dict[str | None, list[PartitionStatus]] = {}
    for each in partitions:
        found.setdefault(each.owner, []).append(each)
    return found


def _row(
    owner: str | None,
    state: WorkerHealth | None,
    age: float | None,
    owned: Sequence[PartitionStatus],
) -> WorkerRow:
    numbers = {
        health: [each.partition for each in owned if each.state is health]
        for health in PartitionHealth
    }
    lags = [sum(each.lag.values()) for each in owned if each.lag is not None]
    return WorkerRow(
        owner,
        state,
        age,
        {health: _fold(found) for health, found in numbers.items() if found},
        sum(each.facts or 0 for each in owned),
        sum(each.live_tokens or 0 for each in owned),
        sum(lags) if lags else None,
    )


def _fold(numbers: Sequence[int]) -> PartitionFold:
    """Write the numbers as `0-7, 9`."""
    return PartitionFold(len(numbers), ", ".join(number_ranges(numbers, "…")))
