"""Usage of `projector dead-letters`."""

from typing import Annotated

import typer

from projector.cli.usage.options import AsJson
from projector.events.model import Topic
from projector.operators.dead_letters.group_by import GroupBy

app = typer.Typer(
    help="Events that were refused: list, show, replay.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_letters(  # noqa: PLR0913  one for each option
    *,
    last: Annotated[int, typer.Option(help="How many of the latest to show.", min=1)] = 50,
    topic: Annotated[Topic | None, typer.Option(help="Of this topic only.")] = None,
    partition: Annotated[
        int | None, typer.Option(help="Of this partition of the original's topic only.", min=0)
    ] = None,
    reason: Annotated[str, typer.Option(help="With this text in the reason, in any case.")] = "",
    all_: Annotated[
        bool, typer.Option("--all", help="With the letters that were replayed.")
    ] = False,
    group_by: Annotated[
        GroupBy | None,
        typer.Option(help="Count the letters with the same value instead; all that match."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the letters that were not replayed.

    A line has the letter, when it was refused, the event's type and source, the original's
    position, and the reason. With --all also the place of the letter's replay. Reasons that differ
    in numbers alone are one group. Redis keeps which letters were replayed; without Redis all are
    listed, with a warning.

    Exits with 0; with 2 when the topic is missing; with 3 when Kafka cannot be reached.

    \b
    projector dead-letters list --last 10
    projector dead-letters list --group-by reason
    projector dead-letters list --topic membership --reason 'belongs in partition'
    projector dead-letters list --json | jq -r .id
    """
    from projector.cli import dead_letter_list

    chosen = dead_letter_list.Chosen(topic, partition, reason, everything=all_)
    dead_letter_list.list_letters(last, chosen, group_by, json=as_json)


@app.command()
def show(
    letter: Annotated[
        str, typer.Argument(metavar="LETTER", help="The letter as `list` names it: 0:17, or 17.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show the whole content of a dead letter, with job tokens redacted.

    Exits with 0; with 2 when there is no such letter; with 3 when Kafka cannot be reached.

    \b
    projector dead-letters show 0:17
    projector dead-letters show 17 --json | jq -r .value > event.json
    """
    from projector.cli import dead_letter_commands

    dead_letter_commands.show(letter, json=as_json)


@app.command()
def replay(
    letter: Annotated[
        list[str], typer.Argument(metavar="LETTER", help="Letters as `list` names them.")
    ],
    event: Annotated[
        str | None,
        typer.Option(help="File with the corrected event, a CloudEvent in JSON; - for stdin."),
    ] = None,
    as_new: Annotated[
        bool,
        typer.Option("--as-new", help="Let it overwrite what came since."),
    ] = False,
) -> None:
    """Send refused events again, unchanged or corrected.

    A replay ranks at its original's position, so it never overwrites a later event. An original
    in the wrong topic or partition is sent to the right one as a new event, and only if it has a
    `sequence`. Replaying twice does no harm. Examples are in docs/dead-letters.md.

    With --as-new the event ranks as if `feed` sent it now: by its `sequence`, or without one behind
    all that came before. Use it only while upstream still has this state: it undoes
    a later revocation. With a `sequence` below the known one it has no effect; correct it by
    --event, or leave it out.

    Exits with 0 when Kafka has acknowledged everything; with 2 when any letter cannot be replayed
    (then nothing was sent); with 3 when Kafka cannot be reached.

    \b
    projector dead-letters replay 0:17 0:18
    projector dead-letters replay 0:17 --as-new
    projector dead-letters show 17 --json | jq -r .value | sed s/Developper/developer/ |
        projector dead-letters replay 17 --event -
    """
    from projector.cli import dead_letter_commands

    dead_letter_commands.replay(letter, event, as_new=as_new)
