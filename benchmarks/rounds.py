"""Rounds that measure the product and its limit in turn, and their figures in the report."""

import statistics
from collections.abc import Callable
from math import inf
from typing import Any, Final

from msgspec import Struct, field

# A ratio below half of the wanted one is a fall that noise does not explain.
FALL: Final = 0.5


class Sample(Struct):
    """One measurement: `value` in the figure's unit, `cpu` in microseconds per piece of work.

    `cpu` is what the measured process itself spent, None where no single process did the work.
    """

    value: float
    cpu: float | None = None
    more: dict[str, float] = field(default_factory=dict)


class Round(Struct):
    """One measurement of the product, directly followed by one of its limit."""

    product: Sample
    limit: Sample

    @property
    def ratio(self) -> float:
        """The product's value divided by the limit's; infinite if the limit's is zero."""
        return self.product.value / self.limit.value if self.limit.value else inf

    @property
    def cpu_ratio(self) -> float | None:
        """The product's CPU time per piece of work divided by the limit's."""
        if self.product.cpu is None or not self.limit.cpu:
            return None
        return self.product.cpu / self.limit.cpu


class Point(Struct):
    """The rounds at one size of the figure that grows."""

    size: float
    rounds: list[Round]


class Spread(Struct):
    """The least, the median and the largest of several rounds."""

    least: float
    median: float
    most: float


class Report(Struct):
    """All measurements: rounds by figure, and points by figure if it grew.

    `memory` has bytes, `sizes` the options of the run.
    """

    machine: dict[str, str]
    sizes: dict[str, float]
    figures: dict[str, list[Round]] = field(default_factory=dict)
    growth: dict[str, list[Point]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def interleaved(
    rounds: int, product: Callable[[], Sample], limit: Callable[[], Sample]
) -> list[Round]:
    """Measure both in turn, so that other load on the machine affects both alike."""
    return [Round(product(), limit()) for _ in range(rounds)]


def spread(values: list[float]) -> Spread:
    """Return the spread of the values; raises ValueError without any."""
    return Spread(min(values), statistics.median(values), max(values))


def spread_of(rounds: list[Round], pick: Callable[[Round], Any]) -> Spread | None:
    """Return the spread of what `pick` returns for each round; None without any value."""
    values = [value for value in map(pick, rounds) if value is not None]
    return spread(values) if values else None
