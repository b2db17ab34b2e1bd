"""`python -m benchmarks`: the full run, the smoke run, and the report from saved numbers."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer
from tests.integration.gitlab.postgres import without_postgres

from benchmarks import (
    claim,
    commands,
    comparison,
    fan_out,
    gitlab_backlog,
    gitlab_reads,
    gitlab_visible,
    idle,
    ingest,
    jobs,
    live,
    lookups,
    machine,
    rebuild,
    report,
    visible,
)
from benchmarks.processes import Servers
from benchmarks.rounds import Report
from benchmarks.sizes import SMOKE, Sizes
from benchmarks.table import FIGURES

FOLDER: Final = Path(__file__).with_name("report")
GROUPS: Final[dict[str, Callable[[Servers, Sizes, Report], None]]] = {
    "lookups": lookups.measure,
    "live": live.measure,
    "visible": visible.measure,
    "jobs": jobs.measure,
    "ingest": ingest.measure,
    "rebuild": rebuild.measure,
    "fan-out": fan_out.measure,
    "claim": claim.measure,
    "idle": idle.measure,
    "commands": commands.measure,
    "gitlab-visible": gitlab_visible.measure,
    "gitlab-snapshot": gitlab_reads.snapshot,
    "gitlab-backlog": gitlab_backlog.measure,
    "gitlab-poll": gitlab_reads.poll,
}
# A poll reads as a snapshot does, and two more bridges take too long to start.
LEFT_OUT_OF_SMOKE: Final = ("gitlab-poll",)
DEFAULTS: Final = Sizes()

app = typer.Typer(
    help="Measure the product against the limits of its parts.", no_args_is_help=True,
    pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False,
)  # fmt: skip
Folder = Annotated[Path, typer.Option(help="Where the report is.", file_okay=False)]
Only = Annotated[
    list[str] | None, typer.Option("--only", help=f"One group: {', '.join(GROUPS)}. Repeatable.")
]


@app.command()
def run(  # noqa: PLR0913  one for each size
    *,
    only: Only = None,
    folder: Folder = FOLDER,
    rounds: Annotated[int, typer.Option(help="Rounds of each figure.", min=1)] = DEFAULTS.rounds,
    growth: Annotated[bool, typer.Option(help="Also with 1/8, 1/4 and 1/2 of it.")] = True,
    tokens: Annotated[int, typer.Option(help="Live tokens.", min=1000)] = DEFAULTS.tokens,
    many_tokens: Annotated[
        int, typer.Option(help="Live tokens where they are many.", min=8000)
    ] = DEFAULTS.many_tokens,
    live_events: Annotated[
        int, typer.Option(help="Events at once through Faust.", min=80)
    ] = DEFAULTS.live_events,
    rate: Annotated[int, typer.Option(help="Events/s while answers are watched.", min=8)] = (
        DEFAULTS.rate
    ),
    rebuilt_events: Annotated[
        int, typer.Option(help="Events to rebuild from.", min=80)
    ] = DEFAULTS.rebuilt_events,
    views: Annotated[int, typer.Option(help="Live views that one event touches.", min=80)] = (
        DEFAULTS.fan_out_views
    ),
    facts: Annotated[int, typer.Option(help="Facts to claim.", min=20_000)] = DEFAULTS.facts,
    fed_jobs: Annotated[
        int, typer.Option("--jobs", help="Jobs to feed at once.", min=2_000)
    ] = DEFAULTS.jobs,
    gitlab_rows: Annotated[
        int, typer.Option(help="Rows of GitLab's tables.", min=5_000)
    ] = DEFAULTS.gitlab_rows,
    gitlab_many_rows: Annotated[
        int, typer.Option(help="Rows of them where memory is measured.", min=5_000)
    ] = DEFAULTS.gitlab_many_rows,
) -> None:
    """Measure everything and write the report; some 25 minutes on two idle cores.

    Example: python -m benchmarks run --only live --only visible --rounds 3 --folder /tmp/report
    """
    sizes = Sizes(
        rounds=rounds, grows=growth, tokens=tokens, many_tokens=many_tokens,
        live_events=live_events, rate=rate, rebuilt_events=rebuilt_events, fan_out_views=views,
        facts=facts, jobs=fed_jobs, jobs_rounds=rounds, ingest_rounds=rounds, gitlab_rounds=rounds,
        gitlab_rows=gitlab_rows, gitlab_many_rows=gitlab_many_rows,
    )  # fmt: skip
    measured = _measured(sizes, only, lambda so_far: report.save(so_far, folder))
    report.write(measured, folder)
    _show(measured)


@app.command()
def smoke(only: Only = None) -> None:
    """Measure everything briefly; fail only if a figure is below half of the wanted one."""
    groups = only or [group for group in GROUPS if group not in LEFT_OUT_OF_SMOKE]
    measured = _measured(SMOKE, groups, lambda _: None)
    _show(measured)
    fallen = [name for name, rounds in measured.figures.items() if FIGURES[name].has_fallen(rounds)]
    for name in fallen:
        typer.echo(f"{FIGURES[name].title}: below half of what is wanted", err=True)
    raise typer.Exit(1 if fallen else 0)


@app.command("report")
def again(folder: Folder = FOLDER) -> None:
    """Write the report from its saved numbers."""
    report.write(report.load(folder), folder)


@app.command()
def compare(old: Path, new: Path) -> None:
    """Print every row that two reports have, the old and the new: folders, or files of JSON.

    Example: git show HEAD~1:benchmarks/report/report.json > /tmp/old.json
             python -m benchmarks compare /tmp/old.json benchmarks/report
    """
    typer.echo("\n".join(comparison.lines(report.load(old), report.load(new))))


def _measured(sizes: Sizes, only: list[str] | None, keep: Callable[[Report], None]) -> Report:
    began, quietness = time.monotonic(), machine.Quietness()
    if unknown := set(only or ()) - set(GROUPS):
        raise typer.BadParameter(f"{unknown.pop()} is none of {', '.join(GROUPS)}")
    with Servers() as servers:
        servers.start_kafka()
        found = Report(machine.describe(servers.broker), sizes.numbers())
        for name in only or GROUPS:
            typer.echo(f"{time.monotonic() - began:4.0f} s  {name}", err=True)
            if reason := _obstacle(name):
                found.notes.append(reason)
                continue
            GROUPS[name](servers, sizes, found)
            found.seconds = time.monotonic() - began
            found.machine |= quietness.lines()
            keep(found)
    return found


def _obstacle(group: str) -> str | None:
    """Return loudly why the group cannot be measured here; under REQUIRE_ALL that is an error."""
    reason = without_postgres() if group.startswith("gitlab") else None
    if reason:
        typer.echo(f"{group} IS NOT MEASURED: {reason}", err=True)
        if os.environ.get("REQUIRE_ALL"):
            raise typer.Exit(1)
    return reason


def _show(measured: Report) -> None:
    typer.echo("\n".join(report.figures_table(measured)).replace("**", ""))
    typer.echo(f"{measured.seconds:.0f} s")


if __name__ == "__main__":
    app()
