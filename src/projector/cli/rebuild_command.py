"""The command `projector rebuild`: its options, output and exit codes."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import msgspec
import typer

from projector.cli import verify_command
from projector.cli.terminal import FINDING, as_json, load_settings, progress_bar, run_command
from projector.config.settings import Settings
from projector.log import escape_control_chars
from projector.operators.rebuild import run as rebuild_run
from projector.operators.rebuild.run import (
    Counts,
    FactDifference,
    Finding,
    InPlace,
    Loss,
    NotCompared,
    Options,
    Output,
    ViewDifference,
)
from projector.operators.verify.run import DifferenceRow, Outcome
from projector.store.partition_count import choose_partitions


def rebuild_partitions(
    partitions: list[int] | None, *, dry_run: bool, accept_loss: bool, json: bool
) -> None:
    """Compute facts and views from the topics, and put them in place."""
    settings = load_settings()
    # The end of this command's own claim is no fault, and its partitions are printed.
    logging.getLogger("projector.worker").setLevel(logging.ERROR)
    options = Options(dry_run, accept_loss)
    counts = run_command(settings, _rebuild(settings, partitions, options, json))
    if dry_run:
        summary = (
            f"{counts.tokens} tokens and all facts compared with the topics: "
            f"{counts.facts} facts and {counts.views} views differ"
        )
        typer.echo(summary, err=json)
    if dry_run and (counts.facts or counts.views or counts.losses):
        raise typer.Exit(FINDING)


async def _rebuild(
    settings: Settings, partitions: list[int] | None, options: Options, json: bool
) -> Counts:
    show = _show_as_json if json else _show
    async with rebuild_run.connect_clients(settings) as clients:
        wanted = choose_partitions(partitions, clients.policy.partitions)
        with progress_bar() as bar:
            checked = bar.add_task("topics checked", total=len(wanted))
            done = bar.add_task("partitions", total=len(wanted))

            @contextmanager
            def reading(partition: int, events: int) -> Iterator[Callable[[int], object]]:
                task = bar.add_task(f"partition {partition}", total=events)
                yield partial(bar.advance, task)
                bar.remove_task(task)

            output = Output(
                show, reading, partial(bar.advance, done), partial(bar.advance, checked)
            )
            return await rebuild_run.rebuild_partitions(clients, wanted, options, output)


def _show_as_json(finding: Finding) -> None:
    typer.echo(as_json(_view_row(finding) if isinstance(finding, ViewDifference) else finding))


def _show(finding: Finding) -> None:
    typer.echo(escape_control_chars(as_text(finding)))


def as_text(finding: Finding) -> str:
    """Write a finding on one line."""
    match finding:
        case Loss():
            return finding.reason
        case NotCompared():
            return f"the checkpoint cannot be compared: {finding.reason}"
        case FactDifference():
            stored, rebuilt = (
                "nothing" if fact is None else msgspec.json.encode(fact).decode()
                for fact in (finding.stored, finding.rebuilt)
            )
            return (
                f"{finding.what}: partition {finding.partition}, {finding.key}: "
                f"the checkpoint has {stored}, the topics say {rebuilt}"
            )
        case ViewDifference():
            return verify_command.as_text(_view_row(finding))
        case InPlace():
            return f"partition {finding.partition}: {finding.facts} facts in place, " + (
                "and a worker has claimed it"
                if finding.claimed
                else "but no worker has claimed it: start one, or its lookups get 503"
            )


def _view_row(finding: ViewDifference) -> DifferenceRow:
    outcome = Outcome.CHANGES if finding.settled else Outcome.NOT_SETTLED
    return DifferenceRow.of(finding.difference, outcome)
