"""`projector status`: the partitions on a terminal, as lines, or as JSON."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Final

import msgspec
import typer
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from projector.cli import status_display
from projector.cli.terminal import as_json as written
from projector.cli.terminal import harmless, load_settings, run_command
from projector.clients import redis_client as connections
from projector.clients.access_errors import redis_reason
from projector.config.settings import Settings
from projector.errors import OperatorError
from projector.operators import status as statuses
from projector.operators.kafka_lag import EndOffsetPoller
from projector.operators.status import Status
from projector.process import until_signalled

NOT_FRESH: Final = 1
REFRESH_S: Final = 1.0
# A frozen broker can hold its client up, and everything is said by then.
LEAVE_S: Final = 2.0

# Takes a status, or why there is none.
Show = Callable[[Status | str], None]


def status(
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on every second, until Ctrl-C.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON instead; with --watch one object a line.")
    ] = False,
) -> None:
    """Show how fresh every partition is, who owns it, how far behind it is, and what it does.

    A partition is fresh; late: for more than 2 seconds nobody has known it to be fresh, something
    is wrong, but lookups are still answered; stale: for more than PROJECTOR_MAX_STALENESS, lookups
    get 503; or unclaimed: no worker has ever owned it. Rates and revocations are those of the last
    five minutes. A worker without partitions is not seen.

    Without Kafka it shows all but the lag and the number of dead letters. Every field of the JSON
    is in docs/monitoring.md.

    Exits with 0 when all are fresh; with 1 when any is not; with 3 when Redis cannot be reached.

    \b
    projector status
    projector status --watch
    projector status --json | jq -r '.partitions[] | select(.state != "fresh") | .partition'
    """
    settings = load_settings()
    # What it says about an outage stands in the status itself.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    show = _json if as_json else _plain
    work = _watch(settings, as_json) if watch else _once(settings, show)
    found = run_command(settings, work)
    raise typer.Exit(0 if found and found.is_fresh else NOT_FRESH)


async def _once(settings: Settings, show: Show) -> Status:
    async with _opened(settings) as (redis, kafka):
        await redis.ping()
        await kafka.first()
        found = await _read(settings, redis, kafka)
    show(found)
    return found


async def _watch(settings: Settings, as_json: bool) -> Status | None:
    """The last status before the signal that ended it; None if there was none then."""
    latest: list[Status | None] = [None]

    async def go_on() -> None:
        with _screen(as_json) as show:
            async with _opened(settings) as (redis, kafka):
                while True:
                    latest[:] = [await _shown(settings, redis, kafka, show)]
                    await asyncio.sleep(REFRESH_S)

    await until_signalled(go_on())
    return latest[0]


async def _shown(
    settings: Settings, redis: Redis, kafka: EndOffsetPoller, show: Show
) -> Status | None:
    try:
        found = await _read(settings, redis, kafka)
    except (RedisError, OperatorError) as error:
        reason = redis_reason(error) or f"cannot be read: {error}"
        show(f"Redis at {settings.redis_place} {reason}")
        return None
    show(found)
    return found


async def _read(settings: Settings, redis: Redis, kafka: EndOffsetPoller) -> Status:
    found = await statuses.read_status(redis, settings.max_staleness, kafka.ends)
    return msgspec.structs.replace(found, kafka=kafka.trouble)


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Redis, EndOffsetPoller]]:
    redis, kafka = connections.create_redis(settings), EndOffsetPoller(settings)
    following = asyncio.create_task(kafka.run())
    try:
        yield redis, kafka
    finally:
        following.cancel()
        await asyncio.wait({following}, timeout=LEAVE_S)
        await redis.aclose()


# what is shown


def _json(found: Status | str) -> None:
    document = {"trouble": found} if isinstance(found, str) else found
    typer.echo(written(document))


def _plain(found: Status | str) -> None:
    console = Console(highlight=False)
    if isinstance(found, str):
        console.print(Text(harmless(found)))
    elif console.is_terminal:
        console.print(status_display.table(found, len(found.partitions) + status_display.FRAME))
    else:
        for line in status_display.lines(found):
            typer.echo(line)


@contextlib.contextmanager
def _screen(as_json: bool) -> Iterator[Show]:
    """Where a watch shows each status: JSON lines, a screen, or lines about what changed."""
    console = Console(highlight=False)
    if as_json:
        yield _json
    elif console.is_terminal:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            yield lambda found: live.update(_drawn(found, console.height), refresh=True)
    else:
        yield _Changes().show


def _drawn(found: Status | str, height: int) -> RenderableType:
    return Text(harmless(found)) if isinstance(found, str) else status_display.table(found, height)


class _Changes:
    """Says what changed since the last time, a line each."""

    def __init__(self) -> None:
        self._before: Status | None = None
        self._trouble: str | None = None

    def show(self, found: Status | str) -> None:
        """Say it, if anything."""
        if isinstance(found, str):
            if self._trouble is None:
                typer.echo(harmless(found))
            self._trouble = found
            return
        for line in status_display.changes(None if self._trouble else self._before, found):
            typer.echo(line)
        self._before, self._trouble = found, None
