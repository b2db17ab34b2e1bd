"""Partitions as the page shows them: the fresh folded by worker, and those that are not fresh."""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from projector.operators.diagnosis import number_runs
from projector.operators.status_model import (
    PartitionHealth,
    PartitionStatus,
    Status,
    WorkerHealth,
    WorkerStatus,
)

# More rows push the rest of the page off the screen.
MAX_LISTED: Final = 12


class WorkerRow(Struct, frozen=True):
    """A worker with its fresh partitions as ranges, and the sums over all its partitions."""

    owner: str
    state: WorkerHealth
    age: float | None
    fresh: str
    not_fresh: int
    facts: int
    live_tokens: int
    lag: int | None


def fold_workers(status: Status) -> list[WorkerRow]:
    """Fold each worker's partitions into a row; the worst worker first."""
    order = list(WorkerHealth)
    worst_first = sorted(
        status.workers, key=lambda worker: (-order.index(worker.state), -(worker.age or 0.0))
    )
    partitions = {each.partition: each for each in status.partitions}
    return [
        _row(worker, [partitions[number] for number in worker.partitions if number in partitions])
        for worker in worst_first
    ]


def listed_partitions(partitions: Sequence[PartitionStatus]) -> list[PartitionStatus]:
    """Return the worst partitions that are not fresh, at most `MAX_LISTED`, by number."""
    order = list(PartitionHealth)
    bad = [each for each in partitions if each.state is not PartitionHealth.FRESH]
    worst = sorted(bad, key=lambda each: (-order.index(each.state), -(each.age or 0.0)))
    return sorted(worst[:MAX_LISTED], key=lambda each: each.partition)


def _row(worker: WorkerStatus, owned: Sequence[PartitionStatus]) -> WorkerRow:
    fresh = [each.partition for each in owned if each.state is PartitionHealth.FRESH]
    lags = [sum(each.lag.values()) for each in owned if each.lag is not None]
    return WorkerRow(
        worker.owner,
        worker.state,
        worker.age,
        _ranges(fresh),
        len(owned) - len(fresh),
        sum(each.facts or 0 for each in owned),
        sum(each.live_tokens or 0 for each in owned),
        sum(lags) if lags else None,
    )


def _ranges(numbers: Iterable[int]) -> str:
    """Write `0-7, 9`."""
    return ", ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in number_runs(numbers))
