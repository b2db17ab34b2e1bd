"""`projector status`: all partitions as a table, as lines or as JSON, once or every second."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import typer
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from projector.cli import status_display
from projector.cli.terminal import FINDING, as_json, connected, load_settings, run_command
from projector.clients.redis_access import redis_reason
from projector.config.settings import Settings
from projector.errors import OperatorError
from projector.events.timestamps import to_rfc3339
from projector.log import escape_control_chars
from projector.operators.kafka_lag import EndOffsetPoller
from projector.operators.status import read_status
from projector.operators.status_model import Status
from projector.process import until_signalled

REFRESH_S: Final = 1.0
# A frozen broker would otherwise delay the end of the command.
STOP_S: Final = 2.0

# Shows a status, or the reason why there is none.
Show = Callable[[Status | str], None]


def status(*, watch: bool, json: bool) -> None:
    """Show the status, once or every second."""
    settings = load_settings()
    # The status itself has the reason of an outage of Kafka.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    show = _show_json if json else _show_plain
    work = _watch(settings, json) if watch else _once(settings, show)
    found = run_command(settings, work)
    raise typer.Exit(0 if found and found.is_fresh else FINDING)


async def _once(settings: Settings, show: Show) -> Status:
    async with _clients(settings) as (redis, kafka):
        await redis.ping()
        await kafka.first()
        found = await read_status(redis, settings, kafka.answer)
    show(found)
    return found


async def _watch(settings: Settings, json: bool) -> Status | None:
    """Show a status every second until a signal; return the last one, None after a failure."""
    latest: Status | None = None

    async def refresh() -> None:
        nonlocal latest
        answered = time.time()
        with _screen(json) as show:
            async with _clients(settings) as (redis, kafka):
                while True:
                    found = await _read_or_reason(settings, redis, kafka)
                    if isinstance(found, str):
                        latest = None
                        show(f"{found} (since {to_rfc3339(round(answered * 1000))})")
                    else:
                        latest, answered = found, time.time()
                        show(found)
                    await asyncio.sleep(REFRESH_S)

    await until_signalled(refresh())
    return latest


async def _read_or_reason(settings: Settings, redis: Redis, kafka: EndOffsetPoller) -> Status | str:
    try:
        return await read_status(redis, settings, kafka.answer)
    except (RedisError, OperatorError) as error:
        reason = redis_reason(error) or f"cannot be read: {error}"
        return f"Redis at {settings.redis_place} {reason}"


@contextlib.asynccontextmanager
async def _clients(settings: Settings) -> AsyncIterator[tuple[Redis, EndOffsetPoller]]:
    """Open a Redis client, and poll Kafka's end offsets, until the end of the block."""
    async with connected(settings) as redis:
        kafka = EndOffsetPoller(settings)
        polling = asyncio.create_task(kafka.run())
        try:
            yield redis, kafka
        finally:
            polling.cancel()
            await asyncio.wait({polling}, timeout=STOP_S)


# show


def _show_json(found: Status | str) -> None:
    document = {"trouble": found} if isinstance(found, str) else found
    typer.echo(as_json(document))


def _show_plain(found: Status | str) -> None:
    console = Console(highlight=False)
    if isinstance(found, str):
        console.print(Text(escape_control_chars(found)))
    elif console.is_terminal:
        console.print(status_display.table(found, len(found.partitions) + status_display.FRAME))
    else:
        for line in status_display.lines(found):
            typer.echo(line)


@contextlib.contextmanager
def _screen(json: bool) -> Iterator[Show]:
    """Choose the output of a watch: JSON lines, a screen, or a line for each change."""
    console = Console(highlight=False)
    if json:
        yield _show_json
    elif console.is_terminal:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            yield lambda found: live.update(_picture(found, console.height), refresh=True)
    else:
        yield _Changes().show


def _picture(found: Status | str, height: int) -> RenderableType:
    if isinstance(found, str):
        return Text(escape_control_chars(found))
    return status_display.table(found, height)


class _Changes:
    """Prints a line for each partition that has changed since the last status."""

    def __init__(self) -> None:
        self._before: Status | None = None
        self._trouble: str | None = None

    def show(self, found: Status | str) -> None:
        """Print the changes, if any."""
        if isinstance(found, str):
            if self._trouble is None:
                typer.echo(escape_control_chars(found))
            self._trouble = found
            return
        for line in status_display.changes(None if self._trouble else self._before, found):
            typer.echo(line)
        self._before, self._trouble = found, None
