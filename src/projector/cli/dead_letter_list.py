"""`projector dead-letters list`: the letters, or their groups, in columns.

Any producer may have written a letter, so all of its content is escaped for the terminal.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import typer

from projector.cli.display.columns import columns, known
from projector.cli.terminal import (
    as_json,
    load_settings,
    run_command,
    server_failure,
    warn,
    with_redis,
)
from projector.config.settings import Settings
from projector.events.model import Topic
from projector.log import escape_control_chars
from projector.operators.dead_letters.group_by import GroupBy
from projector.operators.dead_letters.groups import LetterGroup, read_groups
from projector.operators.dead_letters.letters import (
    LatestLetters,
    LetterFilter,
    LetterSummary,
)
from projector.operators.dead_letters.reader import read_latest
from projector.operators.diagnosis.words import many
from projector.store.replay_marks import read_marks

HEADER: Final = ("LETTER", "REFUSED", "TYPE", "SOURCE", "ORIGINAL", "REASON")
REPLAYED: Final = "REPLAYED"
GROUP_HEADER: Final = ("LETTERS", "FIRST", "LAST", "LATEST")
# Milliseconds of a worker's time: a line is long enough without.
_MILLISECONDS: Final = re.compile(r"\.\d{3}\+00:00$")


class Chosen(NamedTuple):
    """The letters to list."""

    topic: Topic | None
    partition: int | None
    reason: str
    everything: bool


def list_letters(last: int, chosen: Chosen, by: GroupBy | None, *, json: bool) -> None:
    """List the latest letters, or the groups of all."""
    settings = load_settings()
    selected = LetterFilter(
        chosen.topic, chosen.partition, chosen.reason, waiting=not chosen.everything
    )
    places = run_command(settings, _places(settings))
    if by is not None:
        groups = run_command(settings, read_groups(settings, by, selected, places))
        _show(groups, _group_rows(by, groups), json=json)
        return
    found = run_command(settings, read_latest(settings, last, selected, places))
    _show(found.letters, _rows(found.letters, chosen), json=json)
    typer.echo(_summary(found, chosen), err=json)


async def _places(settings: Settings) -> dict[str, str]:
    """Read the places of replays; warn and return none if Redis does not have them."""
    try:
        return await with_redis(settings, read_marks)
    except Exception as error:
        if (failure := server_failure(settings, error)) is None:
            raise
        warn(f"{failure[1]}; letters that were replayed are listed too")
        return {}


def _show(
    found: Iterable[LetterSummary | LetterGroup], rows: list[tuple[str, ...]], *, json: bool
) -> None:
    lines = map(as_json, found) if json else columns(rows) if len(rows) > 1 else ()
    for line in lines:
        typer.echo(line)


def _rows(letters: list[LetterSummary], chosen: Chosen) -> list[tuple[str, ...]]:
    more = (REPLAYED,) if chosen.everything else ()
    return [
        (*HEADER[:-1], *more, HEADER[-1]),
        *(_cells(letter, replayed=chosen.everything) for letter in letters),
    ]


def _cells(letter: LetterSummary, *, replayed: bool) -> tuple[str, ...]:
    position = f"{known(letter.topic)}/{known(letter.partition)}:{known(letter.offset)}"
    more = (letter.replayed or "-",) if replayed else ()
    cells = (
        letter.id, _time(letter.time), known(letter.type), known(letter.source), position,
        *more, known(letter.reason),
    )  # fmt: skip
    return tuple(map(escape_control_chars, cells))


def _group_rows(by: GroupBy, groups: list[LetterGroup]) -> list[tuple[str, ...]]:
    rows = [
        (str(g.letters), _time(g.first), _time(g.last), g.latest, known(g.value)) for g in groups
    ]
    return [(*GROUP_HEADER, by.upper()), *(tuple(map(escape_control_chars, r)) for r in rows)]


def _summary(found: LatestLetters, chosen: Chosen) -> str:
    left_out = 0 if chosen.everything else found.replayed
    replayed = f"; {left_out} replayed, listed with --all" if left_out else ""
    return (
        f"{len(found.letters)} shown of {found.matching} that match, "
        f"{many(found.total, 'dead letter')} in all{replayed}"
    )


def _time(text: str | None) -> str:
    return _MILLISECONDS.sub("Z", known(text))
