"""`projector status`: a picture, lines or JSON; once, every second, or once all is fresh."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, NamedTuple

import typer
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console, Group
from rich.live import Live

from projector.cli.display import status_changes, status_display
from projector.cli.terminal import (
    FINDING,
    OUTAGE,
    WRONG,
    as_json,
    connected,
    fail,
    load_settings,
    run_command,
    warn,
)
from projector.config.settings import Settings
from projector.errors import PartitionCountError
from projector.events.timestamps import to_rfc3339
from projector.log import escape_control_chars
from projector.operators.diagnosis.no_status import missing_status
from projector.operators.kafka_lag import EndOffsetPoller
from projector.operators.status import deployment_of, read_status
from projector.operators.status_model import Cause, Status
from projector.process import until_signalled
from projector.store.partition_count import read_partition_count

REFRESH_S: Final = 1.0
WAIT_INTERVAL_S: Final = 0.5
# A frozen broker would otherwise delay the end of the command.
STOP_S: Final = 2.0
UNSTAMPED: Final = (
    "Not every partition was stamped since the command began: its worker may have ended. Wait "
    "longer."
)
# Wide enough for a line of a file or a pipe.
WIDTH: Final = 200


class Trouble(NamedTuple):
    """The cause of a missing status; its `since` is the time of the last one (ms, this machine)."""

    cause: Cause

    @property
    def exit_code(self) -> int:
        """The exit code: 3 for an outage, 2 for what a person must correct."""
        return OUTAGE if self.cause.name == "redis-unreachable" else WRONG

    @property
    def sentence(self) -> str:
        """The technical reason, and since when."""
        since = self.cause.since
        return f"{self.cause.detail}{'' if since is None else f' (since {to_rfc3339(since)})'}"


# Shows a status, or why there is none.
Show = Callable[[Status | Trouble], None]


def status(*, watch: bool, unfolded: bool, wait: float | None, json: bool) -> None:
    """Show the status once, every second, or once all is fresh."""
    if watch and wait is not None:
        fail(WRONG, "--watch and --wait exclude each other: leave one out")
    settings = load_settings()
    # The status itself has the reason of an outage of Kafka.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    if wait is not None:
        code = _wait(settings, wait, json)
    elif watch:
        latest = run_command(settings, _watch(settings, unfolded, json))
        code = 0 if latest is not None and latest.is_fresh else FINDING
    else:
        found = run_command(settings, _once(settings))
        (_show_json if json else _plain(settings, unfolded))(found)
        code = _exit_code(found)
    raise typer.Exit(code)


def _exit_code(found: Status | Trouble) -> int:
    if isinstance(found, Trouble):
        return found.exit_code
    return 0 if found.is_fresh else FINDING


async def _once(settings: Settings) -> Status | Trouble:
    async with _clients(settings) as (redis, kafka):
        try:
            # Before the wait for Kafka. A Redis without a disk answers PING with an error.
            await read_partition_count(redis)
        except (RedisError, PartitionCountError) as error:
            return _trouble(settings, error, None)
        await kafka.first()
        return await _read_or_trouble(settings, redis, kafka, None)


def _trouble(settings: Settings, error: Exception, since: int | None) -> Trouble:
    return Trouble(missing_status(settings.redis_place, error, since))


async def _watch(settings: Settings, unfolded: bool, json: bool) -> Status | None:
    """Show a status every second until a signal; return the last one, None after a failure."""
    latest: Status | None = None

    async def refresh() -> None:
        nonlocal latest
        answered: int | None = None
        with _screen(settings, unfolded, json) as show:
            async with _clients(settings) as (redis, kafka):
                await kafka.first()
                while True:
                    found = await _read_or_trouble(settings, redis, kafka, answered)
                    if isinstance(found, Trouble):
                        latest = None
                    else:
                        latest, answered = found, round(time.time() * 1000)
                    show(found)
                    await asyncio.sleep(REFRESH_S)

    await until_signalled(refresh())
    return latest


async def _read_or_trouble(
    settings: Settings, redis: Redis, kafka: EndOffsetPoller, answered: int | None
) -> Status | Trouble:
    try:
        return await read_status(redis, settings, kafka.answer)
    except (RedisError, PartitionCountError) as error:
        return _trouble(settings, error, answered)


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


# wait


def _wait(settings: Settings, seconds: float, json: bool) -> int:
    found, done = run_command(settings, _until_fresh(settings, seconds))
    if json:
        _show_json(found)
    elif isinstance(found, Trouble):
        for line in status_display.cause_lines(found.cause, round(time.time() * 1000)):
            warn(line)
    elif done:
        typer.echo(f"all {len(found.partitions)} partitions are fresh")
    else:
        if found.is_fresh:
            warn(UNSTAMPED)
        for cause in found.causes:
            warn(status_changes.cause_line(cause))
    return (0 if done else FINDING) if isinstance(found, Status) else found.exit_code


async def _until_fresh(settings: Settings, seconds: float) -> tuple[Status | Trouble, bool]:
    """Read until all is fresh; return the last status, and whether it is.

    A stamp from before the command may be of a worker that has ended since. So each partition must
    have been stamped after the command began. A refusal by Redis ends the wait. A damaged number of
    partitions does not: a running worker writes it again.
    """
    deadline = time.monotonic() + seconds
    began: int | None = None
    shown = ""
    async with _clients(settings) as (redis, kafka):
        await kafka.first()
        while True:
            left = deadline - time.monotonic()
            found = await _read_or_trouble(settings, redis, kafka, None)
            if isinstance(found, Trouble):
                if left <= 0 or found.cause.name == "redis-refused":
                    return found, False
                shown = _note(found.cause, shown)
            else:
                began = found.at if began is None else began
                done = found.is_fresh and stamped_since(found, began)
                if left <= 0 or done:
                    return found, done
                if not found.is_fresh:
                    shown = _note(found.causes[0], shown)
            await asyncio.sleep(min(WAIT_INTERVAL_S, max(0.0, left)))


def stamped_since(status: Status, began: int) -> bool:
    """Whether each partition was stamped for a time after `began` (ms of Redis TIME)."""
    return all(p.age is not None and status.at - p.age * 1000 > began for p in status.partitions)


def _note(cause: Cause, shown: str) -> str:
    """Print what the command waits for, if that has changed."""
    if cause.what != shown:
        warn(f"waiting: {cause.what}")
    return cause.what


# show


def _show_json(found: Status | Trouble) -> None:
    if isinstance(found, Trouble):
        typer.echo(as_json({"trouble": found.sentence, "causes": [found.cause]}))
    else:
        typer.echo(as_json(found))


def _plain(settings: Settings, unfolded: bool) -> Show:
    def show(found: Status | Trouble) -> None:
        console = Console(highlight=False)
        picture = _picture(settings, found, unfolded)
        if console.is_terminal:
            console.print(picture)
            return
        plain = Console(width=WIDTH, no_color=True, highlight=False)
        with plain.capture() as captured:
            plain.print(picture)
        for line in captured.get().splitlines():
            typer.echo(line.rstrip())

    return show


def _picture(
    settings: Settings, found: Status | Trouble, unfolded: bool, console: Console | None = None
) -> Group:
    if isinstance(found, Trouble):
        now = round(time.time() * 1000)
        return status_display.trouble_picture(deployment_of(settings), found.cause, now)
    if console is None:
        return status_display.picture(found, unfolded=unfolded)
    return status_display.fitting_picture(console, found, unfolded=unfolded)


@contextlib.contextmanager
def _screen(settings: Settings, unfolded: bool, json: bool) -> Iterator[Show]:
    """Choose the output of a watch: JSON lines, a screen, or a line for each change."""
    console = Console(highlight=False)
    if json:
        yield _show_json
    elif console.is_terminal:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            yield lambda found: live.update(
                _picture(settings, found, unfolded, console), refresh=True
            )
    else:
        yield _Changes().show


class _Changes:
    """Prints a line for everything that has changed since the last status."""

    def __init__(self) -> None:
        self._before: Status | None = None
        self._trouble: str | None = None

    def show(self, found: Status | Trouble) -> None:
        """Print the changes, if any."""
        if isinstance(found, Trouble):
            if self._trouble is None:
                typer.echo(escape_control_chars(found.sentence))
            self._trouble = found.sentence
            return
        for line in status_changes.changes(None if self._trouble else self._before, found):
            typer.echo(line)
        self._before, self._trouble = found, None
