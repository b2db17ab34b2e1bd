"""The command `projector rebuild`: its options, output and exit codes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated

import msgspec
import typer

from projector.cli import verify_command
from projector.cli.options import AsJson, Partitions, chosen
from projector.cli.terminal import FINDING, as_json, load_settings, progress_bar, run_command
from projector.config.settings import Settings
from projector.log import escape_control_chars
from projector.operators import rebuild_run
from projector.operators.rebuild_run import (
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
from projector.operators.verify_run import DifferenceRow, Outcome


def rebuild_partitions(
    partition: Partitions = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and compare; put nothing in place.")
    ] = False,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="Go on with the events that the topics have, where they lost some.",
        ),
    ] = False,
    as_json_: AsJson = False,
) -> None:
    """Compute facts and views from the beginning of the topics, and put them in place.

    The command reads partitions while their workers go on, and compares them with the checkpoint
    and the views, up to eight at once. Then, one after the other, it claims a partition, writes
    it, and serves it until a worker claims it again. Lookups are answered all the time. Use the
    settings that the workers have.

    Where Kafka has lost events (the alarm `history lost`), grants of these events may be missing,
    and users who were blocked count as active. The command refuses that without --accept-loss.
    Feed upstream's present state afterwards.

    Exits with 0 when everything is in place (with --dry-run: when nothing differs), with 1 when
    --dry-run finds differences, with 2 when events are lost, with 3 when Kafka or Redis cannot be
    reached.

    \b
    projector rebuild --dry-run
    projector rebuild --partition 15
    projector rebuild --accept-loss --json
    """
    settings = load_settings()
    options = Options(dry_run, accept_loss)
    counts = run_command(settings, _rebuild(settings, partition, options, as_json_))
    if dry_run:
        summary = (
            f"{counts.tokens} tokens and all facts compared with the topics: "
            f"{counts.facts} facts and {counts.views} views differ"
        )
        typer.echo(summary, err=as_json_)
    if dry_run and (counts.facts or counts.views or counts.losses):
        raise typer.Exit(FINDING)


async def _rebuild(
    settings: Settings, partitions: list[int] | None, options: Options, json: bool
) -> Counts:
    show = _show_as_json if json else _show
    async with rebuild_run.connect_clients(settings) as clients:
        wanted = chosen(partitions, clients.policy.partitions)
        with progress_bar() as bar:
            done = bar.add_task("partitions", total=len(wanted))

            @contextmanager
            def reading(partition: int, events: int) -> Iterator[Callable[[int], object]]:
                task = bar.add_task(f"partition {partition}", total=events)
                yield partial(bar.advance, task)
                bar.remove_task(task)

            output = Output(show, reading, partial(bar.advance, done))
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
