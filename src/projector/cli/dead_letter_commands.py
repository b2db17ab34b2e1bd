"""`projector dead-letters`: what was refused, why, and how to get it in after all.

What a letter holds was written by anybody: nothing of it reaches the terminal unescaped.
"""

import base64
import heapq
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import typer

from projector.cli.terminal import WRONG, fail, harmless, load_settings, run_command
from projector.cli.terminal import as_json as written
from projector.config.settings import Settings
from projector.events.model import MAX_EVENT_BYTES, BadEvent, Topic
from projector.events.timestamps import to_rfc3339
from projector.operators import dead_letter_replay as replaying
from projector.operators.dead_letter_reader import Letter, LetterId, open_dead_letters
from projector.operators.dead_letter_replay import Replay

app = typer.Typer(
    help="Events that were refused: list, show, replay.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead, one object a line.")]
UNKNOWN: Final = "?"


class Line(NamedTuple):
    """One line of the list; the latest letters compare highest."""

    timestamp: int
    id: LetterId
    what: dict[str, Any]


class Wanted(NamedTuple):
    """Which letters to list."""

    topic: Topic | None
    partition: int | None
    reason: str

    def matches(self, what: dict[str, Any]) -> bool:
        """Whether the letter of this summary is one of them."""
        return (
            self.topic in (None, what["topic"])
            and self.partition in (None, what["partition"])
            and self.reason.lower() in (what["reason"] or "").lower()
        )


@app.command("list")
def list_letters(
    last: Annotated[int, typer.Option(help="How many of the latest to show.", min=1)] = 50,
    topic: Annotated[Topic | None, typer.Option(help="Of this topic only.")] = None,
    partition: Annotated[
        int | None, typer.Option(help="Of this partition of the original's topic only.", min=0)
    ] = None,
    reason: Annotated[str, typer.Option(help="With this text in the reason, in any case.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the latest dead letters: letter, when, where the original stood, and the reason.

    Exits with 0; with 2 when the topic is missing; with 3 when Kafka cannot be reached.

    \b
    projector dead-letters list --last 10
    projector dead-letters list --topic membership --reason 'belongs in partition'
    projector dead-letters list --json | jq -r .id
    """
    settings = load_settings()
    wanted = Wanted(topic, partition, reason)
    lines, matching, total = run_command(settings, _latest(settings, wanted, last))
    for line in lines:
        typer.echo(written(line.what) if as_json else _listed(line.what))
    count = f"{len(lines)} shown of {matching} that match, {total} dead letters in all"
    typer.echo(count, err=as_json)


async def _latest(settings: Settings, wanted: Wanted, most: int) -> tuple[list[Line], int, int]:
    """The latest lines in order, how many match, how many there are; holds no more than `most`."""
    lines: list[Line] = []
    matching = total = 0
    async with open_dead_letters(settings) as mailbox:
        async for letter in mailbox.read():
            total += 1
            what = letter.summary()
            if wanted.matches(what):
                matching += 1
                keep = heapq.heappush if len(lines) < most else heapq.heappushpop
                keep(lines, Line(letter.timestamp, letter.id, what))
    return sorted(lines), matching, total


@app.command()
def show(
    letter: Annotated[
        str, typer.Argument(metavar="LETTER", help="The letter as `list` names it: 0:17, or 17.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show everything that a dead letter holds. Job tokens are not in it.

    Exits with 0; with 2 when there is no such letter; with 3 when Kafka cannot be reached.

    \b
    projector dead-letters show 0:17
    projector dead-letters show 17 --json | jq -r .value > event.json
    """
    settings = load_settings()
    (found,), _ = run_command(settings, _fetch(settings, [letter]))
    if as_json:
        typer.echo(written(_everything(found)))
        return
    for line in _shown(found):
        typer.echo(harmless(line))


@app.command()
def replay(
    letter: Annotated[
        list[str], typer.Argument(metavar="LETTER", help="Letters as `list` names them.")
    ],
    event: Annotated[
        str | None,
        typer.Option(help="File with the mended event, a CloudEvent in JSON; - for stdin."),
    ] = None,
) -> None:
    """Send refused events again, as they were or mended.

    A replay ranks where its original stood, so it never overwrites what came later. An original
    in the wrong topic or partition is sent to the right one as a new event, and only if it has a
    `sequence`. Replaying twice does no harm. Examples are in docs/dead-letters.md.

    Exits with 0 when Kafka has acknowledged everything; with 2 when any letter cannot be replayed
    (then nothing was sent); with 3 when Kafka cannot be reached.

    \b
    projector dead-letters replay 0:17 0:18
    projector dead-letters show 17 --json | jq -r .value | sed s/Developper/developer/ |
        projector dead-letters replay 17 --event -
    """
    settings = load_settings()
    mended = None if event is None else _read(event)
    found, partitions = run_command(settings, _fetch(settings, letter))
    prepared = _prepared(settings, found, mended, partitions)
    offsets = run_command(settings, replaying.send_replays(prepared, settings))
    for each, offset in zip(prepared, offsets, strict=True):
        typer.echo(harmless(f"{each.letter}: {_sent(each, offset)}"))


async def _fetch(settings: Settings, names: list[str]) -> tuple[list[Letter], int]:
    """The letters of these names, and how many partitions each of the three topics has."""
    ids = dict.fromkeys(LetterId.parse(name) for name in names)
    async with open_dead_letters(settings) as mailbox:
        return [await mailbox.letter(id_) for id_ in ids], mailbox.partitions[Topic.MEMBERSHIP]


def _read(file: str) -> bytes:
    """The event in the file or in standard input; one byte more than may be is enough."""
    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as source:
            return source.read(MAX_EVENT_BYTES + 1).strip()
    except OSError as error:
        fail(WRONG, f"{file}: {error.strerror}")


def _prepared(
    settings: Settings, found: list[Letter], mended: bytes | None, partitions: int
) -> list[Replay]:
    """What to send for the letters; ends the command if one of them must not be replayed."""
    retention, now = settings.tombstone_retention_ms, time.time_ns() // 1_000_000
    prepared, refused = [], []
    for letter in found:
        try:
            prepared.append(replaying.prepare_replay(letter, mended, partitions, retention, now))
        except BadEvent as error:
            refused.append(f"{letter.id}: {error}")
    if mended and len(prepared) > 1 and not all(one.event.kind.broadcast for one in prepared):
        refused.append("one event mends one letter; name one letter with --event")
    if refused:
        fail(WRONG, *refused, "nothing was sent")
    return prepared


def _sent(each: Replay, offset: int) -> str:
    place = f"{each.event.type} sent to {each.topic} partition {each.partition}, offset {offset}"
    if each.rank is None:
        return f"{place}, as a new event with sequence {each.event.sequence}"
    return f"{place}; it ranks at offset {each.rank.offset}"


# what is said of a letter


def _everything(letter: Letter) -> dict[str, Any]:
    headers = [[name, _text(content)] for name, content in letter.original_headers]
    found = {"key": _text(letter.key), "headers": headers, "value": _text(letter.value)}
    if letter.value is not None and _text(letter.value) is None:
        found["value_base64"] = base64.b64encode(letter.value).decode()
    return letter.summary() | found


def _text(content: bytes | None) -> str | None:
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError:
        return None


def _listed(what: dict[str, Any]) -> str:
    partition, offset = (_known(what[name]) for name in ("partition", "offset"))
    place = f"{_known(what['topic'])}/{partition}:{offset}"
    return harmless(
        f"{what['id']:<8} {_known(what['time']):<29} {place:<22} {_known(what['reason'])}"
    )


def _known(value: object) -> str:
    return UNKNOWN if value is None else str(value)


def _shown(letter: Letter) -> Iterator[str]:
    what = letter.summary()
    partition, offset = (_known(what[name]) for name in ("partition", "offset"))
    moment = UNKNOWN if what["timestamp"] is None else to_rfc3339(what["timestamp"])
    yield f"letter     {letter.id}"
    yield f"refused    {_known(what['time'])}"
    yield f"reason     {_known(letter.finding('reason'))}"
    yield f"original   {_known(what['topic'])} partition {partition}, offset {offset}, of {moment}"
    yield f"key        {_raw(letter.key)}"
    for name, content in letter.original_headers:
        yield f"header     {name}: {_raw(content)}"
    yield "value      none" if letter.value is None else "value"
    yield from _pretty(letter.value or b"").splitlines()


def _raw(content: bytes | None) -> str:
    return "none" if content is None else content.decode(errors="backslashreplace")


def _pretty(value: bytes) -> str:
    try:
        return _raw(msgspec.json.format(value, indent=2))
    except (msgspec.DecodeError, RecursionError):
        return _raw(value)
