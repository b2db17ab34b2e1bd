"""Two reports side by side: medians of every row that both have.

Compare the ratio if the limit is the same program in both, and else the CPU time for each piece of
work: a limit that became faster lowers the ratio of a product that did not change.
"""

from collections.abc import Callable, Iterator

from benchmarks.report import number
from benchmarks.rounds import Report, Round, spread_of
from benchmarks.table import FIGURES, GROWING, Figure


def lines(old: Report, new: Report) -> Iterator[str]:
    """Yield the rows as a table in Markdown, old → new."""
    yield f"{_run(old)} → {_run(new)}\n"
    yield "| figure | product | limit | ratio | product's CPU, us | product | ratio |"
    yield "|---|---|---|---|---|---|---|"
    for name, figure in FIGURES.items():
        before, now = old.figures.get(name), new.figures.get(name)
        if before and now:
            yield _row(figure, before, now)


def better(figure: Figure, before: float, now: float) -> float | None:
    """Return by how much it became better, as a share: negative if it became worse.

    None if that would be a division by zero.
    """
    larger, smaller = (now, before) if figure.bound in GROWING else (before, now)
    return larger / smaller - 1 if smaller else None


def _run(report: Report) -> str:
    return f"{report.machine.get('commit', '?')} of {report.machine.get('date', '?')}"


def _row(figure: Figure, before: list[Round], now: list[Round]) -> str:
    cells = [figure.title]
    picks: list[Callable[[Round], float | None]] = [
        lambda r: r.product.value,
        lambda r: r.limit.value,
        lambda r: r.ratio if r.limit.value else None,
        lambda r: r.product.cpu,
    ]
    pairs = [(spread_of(before, pick), spread_of(now, pick)) for pick in picks]
    cells += (
        f"{number(one.median)} → {number(other.median)}" if one and other else "-"
        for one, other in pairs
    )
    shares = (
        better(figure, one.median, other.median) if one and other else None
        for one, other in (pairs[0], pairs[2])
    )
    cells += ("-" if share is None else f"{share:+.0%}" for share in shares)
    return f"| {' | '.join(cells)} |"
