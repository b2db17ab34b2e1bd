"""An answer and its reasons: colours and columns on a terminal, the same text elsewhere.

The texts come from Kafka and Redis and are not trusted: control characters are escaped.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from projector.cli.display.local_time import local_time_of
from projector.explain.model import EventRef
from projector.log import escape_control_chars

LABEL: Final = 12


class Row(NamedTuple):
    """One line: a label, a text, and the event that it comes from."""

    label: str
    text: str
    event: EventRef | None = None
    style: str = ""


def show_answer(
    answer: str, style: str, rows: Iterable[Row], *, now_ms: int, events: bool = True
) -> None:
    """Print the answer, then a line for each row, with its event if `events` are wanted."""
    console = Console(highlight=False)
    shown = [row if events else row._replace(event=None) for row in rows]
    if not console.is_terminal:
        typer.echo(escape_control_chars(answer))
        for row in shown:
            typer.echo(f"{row.label:<{LABEL}}{_text(row, now_ms)}".rstrip())
        return
    console.print(Text(escape_control_chars(answer), style=f"bold {style}"))
    table = Table.grid(padding=(0, 1))
    table.add_column(min_width=LABEL - 1, no_wrap=True)
    table.add_column(overflow="fold")
    for row in shown:
        table.add_row(Text(row.label, style="bold"), _text(row, now_ms))
    console.print(table)


def _text(row: Row, now_ms: int) -> Text:
    text = Text(escape_control_chars(row.text), style=row.style)
    if row.event:
        text.append(f"{' ' if row.text else ''}[{_reference(row.event, now_ms)}]", style="dim")
    return text


def _reference(event: EventRef, now_ms: int) -> str:
    """Write `membership/15:21 of 08:00:00`, with the date unless it is today."""
    time = local_time_of(event.time, now_ms)
    return escape_control_chars(f"{event.topic}/{event.partition}:{event.offset} of {time}")
