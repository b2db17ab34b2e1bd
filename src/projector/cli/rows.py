"""An answer and its reasons on a terminal: colours and columns there, the same text elsewhere.

The texts come from Kafka and Redis and were written by anybody: they leave through `harmless`.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from projector.cli.terminal import harmless
from projector.explain.model import EventRef

LABEL: Final = 12


class Row(NamedTuple):
    """One line: what it is about, what there is to say, and the event behind it."""

    label: str
    text: str
    event: EventRef | None = None
    style: str = ""


def show(answer: str, style: str, rows: Iterable[Row]) -> None:
    """The answer first, then a line for each row."""
    console = Console(highlight=False)
    if not console.is_terminal:
        typer.echo(harmless(answer))
        for row in rows:
            typer.echo(_line(row))
        return
    console.print(Text(harmless(answer), style=f"bold {style}"))
    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(
            Text(row.label, style="bold"),
            Text(harmless(row.text), style=row.style),
            Text(place(row.event) if row.event else "", style="dim"),
        )
    console.print(table)


def place(event: EventRef) -> str:
    """`membership/15:21 of 2027-01-15T08:00:00.000+00:00`, as `dead-letters list` has it."""
    return f"{event.topic}/{event.partition}:{event.offset} of {event.time}"


def _line(row: Row) -> str:
    behind = f" [{place(row.event)}]" if row.event else ""
    return harmless(f"{row.label:<{LABEL}}{row.text}{behind}")
