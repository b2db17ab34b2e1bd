"""The table that a run prints at its end."""

from typing import NamedTuple, Protocol

HEADERS = (
    "fault", "events", "lookups", "over-grants", "false 401s", "wrong at the end",
    "short", "fresh again (s)", "proof",
)  # fmt: skip


class Row(NamedTuple):
    """One scenario.

    `wrong` counts tokens whose final answer differs from the oracle's, `short` answers that lack
    an agent from before the job's start.
    """

    fault: str
    events: int
    lookups: int
    over_grants: int
    false_401s: int
    wrong: int
    short: int
    fresh_again: float
    proof: str

    def cells(self) -> list[str]:
        """Format the columns."""
        *numbers, proof = self[1:]
        return [self.fault, *(f"{n:.1f}" if isinstance(n, float) else f"{n:,}" for n in numbers),
                str(proof)]  # fmt: skip


class Latency(NamedTuple):
    """Seconds from Kafka's acknowledgement of revocations to the answers without the agent."""

    when: str
    samples: list[float]

    def line(self) -> str:
        """Format the figures."""
        ordered = sorted(self.samples)
        p50, p99 = (ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99))
        return (
            f"revocation latency, {self.when}: {len(ordered)} samples, "
            f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, max {ordered[-1] * 1000:.0f} ms"
        )


class Figures(Protocol):
    """Measured values of a scenario, as a line of the report."""

    def line(self) -> str: ...


class HandedOver(NamedTuple):
    """The report of one process: its rows, and the lines of its latencies."""

    rows: list[Row]
    lines: list[str]


class Report:
    """Rows that the scenarios add, for the summary of pytest."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.latencies: list[Figures] = []
        self._lines: list[str] = []

    def handed_over(self) -> HandedOver:
        """Return all of it for another process."""
        return HandedOver(self.rows, self._latency_lines())

    def add(self, other: HandedOver) -> None:
        """Add the report of another process."""
        self.rows += other.rows
        self._lines += other.lines

    def _latency_lines(self) -> list[str]:
        return [*self._lines, *(latency.line() for latency in self.latencies)]

    def lines(self) -> list[str]:
        """Format the table and the latencies."""
        cells = [list(HEADERS), *(row.cells() for row in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(HEADERS))]
        table = ["  ".join(_padded(row, widths)).rstrip() for row in cells]
        return [*table, "", *self._latency_lines()]


def _padded(row: list[str], widths: list[int]) -> list[str]:
    first, *numbers, last = zip(row, widths, strict=True)
    return [
        first[0].ljust(first[1]), *(text.rjust(width) for text, width in numbers), last[0],
    ]  # fmt: skip
