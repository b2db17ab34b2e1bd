"""`projector dead-letters show` and `replay`: one refused event, and its second sending.

Any producer may have written a letter, so all of its content is escaped for the terminal.
"""

import base64
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import typer
from redis.asyncio import Redis

from projector.cli.display.columns import UNKNOWN, known
from projector.cli.terminal import (
    WRONG,
    as_json,
    fail,
    load_settings,
    run_command,
    server_failure,
    warn,
    with_redis,
)
from projector.config.settings import Settings
from projector.events.model import MAX_EVENT_BYTES, BadEvent, Topic
from projector.events.timestamps import to_rfc3339
from projector.log import escape_control_chars
from projector.operators.dead_letters.letters import Letter, LetterId
from projector.operators.dead_letters.reader import open_dead_letters
from projector.operators.dead_letters.replay import Replay, prepare_replay, send_replays
from projector.store.replay_marks import FirstLetters, remove_marks, write_marks


def show(letter: str, *, json: bool) -> None:
    """Show a dead letter."""
    settings = load_settings()
    (found,), *_ = run_command(settings, _fetch(settings, [letter]))
    if json:
        typer.echo(as_json(_everything(found)))
        return
    for line in _shown(found):
        typer.echo(escape_control_chars(line))


def replay(letters: list[str], event: str | None, *, as_new: bool) -> None:
    """Send refused events again."""
    settings = load_settings()
    corrected = None if event is None else _read(event)
    found, partitions, first = run_command(settings, _fetch(settings, letters))
    prepared = _prepared(settings, found, corrected, partitions, as_new=as_new)
    offsets = run_command(settings, send_replays(prepared, settings))
    for each, offset in zip(prepared, offsets, strict=True):
        typer.echo(escape_control_chars(f"{each.letter}: {_sent(each, offset)}"))
    places = {
        letter.mark: f"{each.topic} {each.partition}:{offset}"
        for letter, each, offset in zip(found, prepared, offsets, strict=True)
    }
    run_command(settings, _mark(settings, places, first))


async def _mark(settings: Settings, places: dict[str, str], first: FirstLetters) -> None:
    """Mark the letters as replayed; warn if Redis does not take it, as all is sent by then.

    Old marks are removed, so that there are no more than letters.
    """

    async def write(redis: Redis) -> None:
        await write_marks(redis, places)
        await remove_marks(redis, first)

    try:
        await with_redis(settings, write)
    except Exception as error:
        if (failure := server_failure(settings, error)) is None:
            raise
        warn(f"{failure[1]}; `list` shows the replayed letters again")


async def _fetch(settings: Settings, names: list[str]) -> tuple[list[Letter], int, FirstLetters]:
    """Read the named letters, the number of partitions of the three topics, the first letters."""
    ids = dict.fromkeys(LetterId.parse(name) for name in names)
    async with open_dead_letters(settings) as reader:
        found = [await reader.letter(id_) for id_ in ids]
        return found, reader.partitions[Topic.MEMBERSHIP], await reader.first()


def _read(file: str) -> bytes:
    """Read the event, up to one byte more than is allowed."""
    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as source:
            return source.read(MAX_EVENT_BYTES + 1).strip()
    except OSError as error:
        fail(WRONG, f"{file}: {error.strerror}")


def _prepared(
    settings: Settings,
    found: list[Letter],
    corrected: bytes | None,
    partitions: int,
    *,
    as_new: bool,
) -> list[Replay]:
    """Prepare all replays; end the command if one of the letters must not be replayed."""
    retention, now = settings.tombstone_retention_ms, time.time_ns() // 1_000_000
    prepared, refused = [], []
    for letter in found:
        try:
            prepared.append(
                prepare_replay(letter, corrected, partitions, retention, now, as_new=as_new)
            )
        except BadEvent as error:
            refused.append(f"{letter.id}: {error}")
    if corrected and len(prepared) > 1 and not all(one.event.kind.broadcast for one in prepared):
        refused.append("--event replaces one event; name one letter with it")
    if refused:
        fail(WRONG, *refused, "nothing was sent")
    return prepared


def _sent(each: Replay, offset: int) -> str:
    sent = f"{each.event.type} sent to {each.topic} partition {each.partition}, offset {offset}"
    if each.position is None and each.event.sequence is None:
        return f"{sent}, as a new event"
    if each.position is None:
        return f"{sent}, as a new event with sequence {each.event.sequence}"
    return f"{sent}; it ranks at offset {each.position.offset}"


# output


def _everything(letter: Letter) -> dict[str, Any]:
    headers = [[name, _text(content)] for name, content in letter.original_headers]
    found = {"key": _text(letter.key), "headers": headers, "value": _text(letter.value)}
    if letter.value is not None and _text(letter.value) is None:
        found["value_base64"] = base64.b64encode(letter.value).decode()
    return dict(msgspec.to_builtins(letter.summary())) | found


def _text(content: bytes | None) -> str | None:
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError:
        return None


def _shown(letter: Letter) -> Iterator[str]:
    found = letter.summary()
    topic, partition, offset = map(known, (found.topic, found.partition, found.offset))
    original_time = UNKNOWN if found.timestamp is None else to_rfc3339(found.timestamp)
    yield f"letter     {letter.id}"
    yield f"refused    {known(found.time)}"
    yield f"reason     {known(letter.finding('reason'))}"
    yield f"original   {topic} partition {partition}, offset {offset}, of {original_time}"
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
