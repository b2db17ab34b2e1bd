"""Usage of `projector rebuild`."""

from typing import Annotated

import typer

from projector.cli.usage.options import AsJson, Partitions


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
    as_json: AsJson = False,
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
    from projector.cli import rebuild_command

    rebuild_command.rebuild_partitions(
        partition, dry_run=dry_run, accept_loss=accept_loss, json=as_json
    )
