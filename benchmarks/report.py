"""The report of a run: Markdown, with plots of the figures that grew."""

from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.rounds import Point, Report, Round, Spread, spread, spread_of
from benchmarks.table import FIGURES, GROWTH, OF_THE_PRODUCT, Figure, Verdict

RAW: Final = "report.json"
TEXT: Final = "report.md"
MILLION: Final = 1_000_000

INTRODUCTION: Final = """\
# What was measured

Written by `make bench`; `python -m benchmarks report` makes it again from `report.json`.
[How it is measured](../README.md) says what each row means.

Every number is least / **median** / most of its rounds. The product and its limit were measured in
turn. *Ratio* is the product's value in terms of the limit's, round by round. *By CPU* is the same
ratio with the CPU time of the measured process in place of the clock: a machine that others use as
well changes it far less.
"""


def save(report: Report, folder: Path) -> None:
    """Write the raw numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    encoded = msgspec.json.format(msgspec.json.encode(report), indent=1)
    (folder / RAW).write_bytes(encoded + b"\n")


def load(folder: Path) -> Report:
    """Read the raw numbers that `save` wrote to a folder; a file is read itself."""
    path = folder / RAW if folder.is_dir() else folder
    return msgspec.json.decode(path.read_bytes(), type=Report)


def write(report: Report, folder: Path) -> None:
    """Write the text and the plots."""
    for name, points in report.growth.items():
        _plot(name, points, folder / f"{name}.png")
    (folder / TEXT).write_text("\n".join(text(report)))


def figures_table(report: Report) -> Iterator[str]:
    """Return the measured rows as a table in Markdown."""
    yield "| figure | product | limit | ratio | by CPU | wanted | met |"
    yield "|---|---|---|---|---|---|---|"
    for name, figure in FIGURES.items():
        if rounds := report.figures.get(name):
            yield _row(figure, rounds)


def text(report: Report) -> Iterator[str]:
    """Yield the lines of the report."""
    yield INTRODUCTION
    yield from _pairs("Machine", report.machine)
    yield "## Figures\n"
    yield from figures_table(report)
    yield "\nThe limits:\n"
    for name, figure in FIGURES.items():
        if name in report.figures:
            yield f"- {figure.title}: {figure.limit}"
    yield from _reasons(report)
    yield ""
    yield from _memory(report.memory)
    yield from _cpu(report)
    yield "## Growth\n\nThe same with an eighth, a quarter, a half and all of the load or the data."
    for name, points in report.growth.items():
        yield from _growth(name, points)
    yield from _pairs("\n## Sizes", {k: f"{v:,.0f}" for k, v in report.sizes.items()})
    yield from (f"- {note}" for note in report.notes)
    yield f"\nThe whole run took {report.seconds / 60:.0f} minutes.\n"


def _row(figure: Figure, rounds: list[Round]) -> str:
    cells = [
        figure.title,
        f"{_of(rounds, lambda r: r.product.value)} {figure.unit}",
        f"{_of(rounds, lambda r: r.limit.value)} {figure.unit}",
        _of(rounds, lambda r: r.ratio),
        _of(rounds, figure.ratio_by_cpu),
        _wanted(figure),
        figure.verdict(rounds),
    ]
    return f"| {' | '.join(cells)} |"


def _reasons(report: Report) -> Iterator[str]:
    """Yield why rows are not met, each reason once, and which rows were not judged."""
    judged = {
        name: (figure, figure.verdict(rounds))
        for name, figure in FIGURES.items()
        if (rounds := report.figures.get(name))
    }
    missed = [figure for figure, verdict in judged.values() if verdict is Verdict.MISSED]
    for why in dict.fromkeys(figure.why_not for figure in missed):
        titles = "; ".join(figure.title for figure in missed if figure.why_not == why)
        yield f"\n**Not met: {titles}.** {why or 'The reason is not known yet.'}"
    for name, (figure, verdict) in judged.items():
        if verdict is Verdict.BUSY:
            found = spread([r.limit.value for r in report.figures[name]]).median
            yield (
                f"\n**Not judged: {figure.title}.** The machine was busy: the limit itself took "
                f"{number(found)} {figure.unit}, where {number(figure.limit_on_idle)} at most "
                "show a machine with little else to do."
            )


def _wanted(figure: Figure) -> str:
    unit = f" {figure.unit}" if figure.bound in OF_THE_PRODUCT else ""
    if figure.ratio_at_most < inf:
        unit += f", and {figure.ratio_at_most:g} times the limit"
    return (
        figure.bound.format(f"{figure.wanted:,g}")
        .replace(" of the limit", "")
        .replace(" times the limit", "")
        + unit
    )


def _of(rounds: list[Round], pick: Callable[[Round], float | None]) -> str:
    found = spread_of(rounds, pick)
    return (
        f"{number(found.least)} / **{number(found.median)}** / {number(found.most)}"
        if (found)
        else "-"
    )


def number(value: float) -> str:
    """Return the number with three digits, or in whole thousands."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _pairs(title: str, pairs: dict[str, str]) -> Iterator[str]:
    yield f"{title if title.startswith(chr(10)) else '## ' + title}\n\n| | |\n|---|---|"
    yield from (f"| {name} | {value} |" for name, value in pairs.items())
    yield ""


def _memory(memory: dict[str, float]) -> Iterator[str]:
    yield "## Memory\n\n| | bytes each | of which payload | 1 million | 10 million |"
    yield "|---|---|---|---|---|"
    for title, name, payload in (
        ("Redis, a live token", "redis_bytes_per_token", "payload_bytes_per_token"),
        ("Redis, a fact", "redis_bytes_per_fact", "payload_bytes_per_fact"),
        ("worker, a fact", "worker_bytes_per_fact", "payload_bytes_per_fact"),
        ("worker, a live job", "worker_bytes_per_job", "payload_bytes_per_job"),
    ):
        if name in memory:
            each = memory[name]
            sizes = " | ".join(f"{each * n / 2**30:.2f} GiB" for n in (MILLION, 10 * MILLION))
            yield f"| {title} | {each:,.0f} | {memory[payload]:,.0f} | {sizes} |"
    yield ""


def _cpu(report: Report) -> Iterator[str]:
    yield "## CPU time\n\nMicroseconds of the measured process for each lookup, event, job, view"
    yield "or fact; medians. [Estimates](../../docs/scaling.md) begin with these.\n"
    yield "| figure | product | limit |\n|---|---|---|"
    for name, figure in FIGURES.items():
        rounds = report.figures.get(name, [])
        if product := spread_of(rounds, lambda r: r.product.cpu):
            limit = spread_of(rounds, lambda r: r.limit.cpu)
            beside = number(limit.median) if limit else "-"
            yield f"| {figure.title} | {number(product.median)} | {beside} |"
    yield ""


def _growth(name: str, points: list[Point]) -> Iterator[str]:
    figure, along = FIGURES[GROWTH[name][0]], GROWTH[name][1]
    yield f"\n### {figure.title}, by {along}\n\n![{figure.title}, by {along}]({name}.png)\n"
    yield f"| {along} | product, {figure.unit} | limit, {figure.unit} | ratio | by CPU |"
    yield "|---|---|---|---|---|"
    for point in points:
        picks: list[Callable[[Round], float | None]] = [
            lambda r: r.product.value, lambda r: r.limit.value, lambda r: r.ratio,
            figure.ratio_by_cpu,
        ]  # fmt: skip
        cells = " | ".join(_of(point.rounds, pick) for pick in picks)
        yield f"| {point.size:,.0f} | {cells} |"


def _plot(name: str, points: list[Point], path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415  an extra, and a second to import

    mpl.use("agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, along = FIGURES[GROWTH[name][0]], GROWTH[name][1]
    plot, (values, ratios) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    _curve(values, points, lambda r: r.product.value, "product")
    _curve(values, points, lambda r: r.limit.value, "limit")
    values.set(yscale="log", ylabel=figure.unit, title=figure.title)
    _curve(ratios, points, lambda r: r.ratio, "by the clock")
    if points[0].rounds[0].cpu_ratio is not None:
        _curve(ratios, points, figure.ratio_by_cpu, "by CPU time")
    if figure.bound not in OF_THE_PRODUCT:
        ratios.axhline(figure.wanted, color="grey", linestyle=":", label="wanted")
    ratios.set(ylabel="product / limit", ylim=(0, None))
    for axes in (values, ratios):
        axes.set_xscale("log", base=2)
        axes.set_xticks([p.size for p in points], [f"{p.size:,.0f}" for p in points])
        axes.set_xlabel(along)
        axes.legend()
    values.title.set_fontsize(9)
    plot.savefig(path, dpi=110)
    pyplot.close(plot)


def _curve(axes: Any, points: list[Point], pick: Callable[[Round], Any], label: str) -> None:
    spreads: list[Spread] = [spread([pick(r) for r in point.rounds]) for point in points]
    middle = [s.median for s in spreads]
    errors = [[s.median - s.least for s in spreads], [s.most - s.median for s in spreads]]
    axes.errorbar([p.size for p in points], middle, errors, marker="o", capsize=3, label=label)
