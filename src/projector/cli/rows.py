"""An answer and its reasons: colours and columns on a terminal, the same text elsewhere.

The texts come from Kafka and Redis and are not trusted: control characters are escaped.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from projector.explain.model import EventRef
from projector.log import escape_control_chars

LABEL: Final = 12


class Row(NamedTuple):
    """One line: a label, a text, and the event that it comes from."""

    label: str
    text: str
    event: EventRef | None = None
    style: str = ""


def show_answer(answer: str, style: str, rows: Iterable[Row]) -> None:
    """Print the answer, then a line for each row."""
    console = Console(highlight=False)
    if not console.is_terminal:
        typer.echo(escape_control_chars(answer))
        for row in rows:
            typer.echo(_line(row))
        return
    console.print(Text(escape_control_chars(answer), style=f"bold {style}"))
    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(
            Text(row.label, style="bold"),
            Text(escape_control_chars(row.text), style=row.style),
            Text(_reference(row.event) if row.event else "", style="dim"),
        )
    console.print(table)


def _reference(event: EventRef) -> str:
    """Write `membership/15:21 of 2027-01-15T08:00:00.000+00:00`, as `dead-letters list` does."""
    return f"{event.topic}/{event.partition}:{event.offset} of {event.time}"


def _line(row: Row) -> str:
    event = f" [{_reference(row.event)}]" if row.event else ""
    return escape_control_chars(f"{row.label:<{LABEL}}{row.text}{event}")
