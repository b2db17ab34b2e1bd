"""Shared by all commands: settings, exit codes, input, and output that is safe on a terminal.

The clients of Kafka and Redis are imported where one is used: most commands need one of them alone.
"""

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NoReturn, TypeVar, cast

import msgspec
import typer
from rich.console import Console

from projector import log
from projector.config.env import variable_name
from projector.config.settings import Settings
from projector.errors import OperatorError, SettingsError, TemporaryError
from projector.log import escape_control_chars

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from rich.progress import Progress

T = TypeVar("T")

FINDING: Final = 1
WRONG: Final = 2
OUTAGE: Final = 3

MAX_BAD_LINES_SHOWN: Final = 50
# Standard input is read twice. A larger one is kept in a file, or it would fill the memory.
SPOOL_BYTES: Final = 64 * 1024 * 1024

stderr = Console(stderr=True, highlight=False)


def load_settings() -> Settings:
    """Load the settings and configure logs; end the command where a setting is wrong."""
    try:
        settings = Settings.load()
    except SettingsError as error:
        refuse_settings(error)
    log.configure(settings.log_level)
    if settings.kafka_security_protocol == "SASL_PLAINTEXT":
        import structlog

        structlog.get_logger().warning(
            "nothing is encrypted on the way to Kafka",
            setting=f"{variable_name('kafka_security_protocol')}=SASL_PLAINTEXT",
        )
    return settings


def refuse_settings(error: SettingsError) -> NoReturn:
    """End the command for these settings."""
    fail(WRONG, *(f"wrong setting: {line}" for line in str(error).splitlines()))


def run_command(settings: Settings, work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; an error ends the command with one sentence and an exit code."""
    try:
        return asyncio.run(work)
    except OperatorError as error:
        fail(WRONG, str(error))
    except BrokenPipeError:
        # Of the output: aiokafka wraps those of its sockets.
        raise
    except Exception as error:
        if found := server_failure(settings, error):
            fail(*found)
        raise


def server_failure(settings: Settings, error: Exception) -> tuple[int, str] | None:
    """Return exit code and sentence for an error of a server; None for a fault of this program."""
    # Only a client that was imported can have raised it.
    found = _redis_failure(settings, error) if "redis" in sys.modules else None
    if found is None and ("aiokafka" in sys.modules or isinstance(error, TemporaryError | OSError)):
        found = _kafka_failure(settings, error)
    return found


def _redis_failure(settings: Settings, error: Exception) -> tuple[int, str] | None:
    from redis.exceptions import RedisError

    from projector.clients.redis_access import redis_outage, redis_reason

    if not isinstance(error, RedisError):
        return None
    if reason := redis_reason(error):
        return WRONG, f"Redis at {settings.redis_place} {reason}"
    return OUTAGE, f"Redis at {settings.redis_place} cannot be reached: {redis_outage(error)}"


def _kafka_failure(settings: Settings, error: Exception) -> tuple[int, str] | None:
    from aiokafka import errors as kafka_errors

    from projector.clients.retry import outage_reason

    match error:
        case (
            kafka_errors.TopicAuthorizationFailedError()
            | kafka_errors.GroupAuthorizationFailedError()
            | kafka_errors.ClusterAuthorizationFailedError()
        ):
            sentence = f"Kafka at {settings.kafka} forbids this: {error}. See docs/security.md"
            return WRONG, sentence
        case kafka_errors.MessageSizeTooLargeError():
            return WRONG, f"Kafka at {settings.kafka} refuses an event as too large: {error}"
        # redis-py wraps every OSError in a RedisError, so this one is aiokafka's.
        case TemporaryError() | kafka_errors.KafkaError() | OSError():
            return OUTAGE, f"Kafka at {settings.kafka} cannot be reached: {outage_reason(error)}"
    return None


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator["Redis"]:
    """Open a Redis client and close it at the end."""
    from projector.clients import redis_client

    redis = redis_client.create_redis(settings)
    try:
        yield redis
    finally:
        await redis.aclose()


async def with_redis(settings: Settings, work: Callable[["Redis"], Awaitable[T]]) -> T:
    """Do `work` with a Redis client that is closed at the end."""
    async with connected(settings) as redis:
        return await work(redis)


def progress_bar(*, transient: bool = True) -> "Progress":
    """Make a progress bar on stderr, invisible unless stderr is a terminal.

    Lines of a terminal's stdout appear above the bar; those for a file or a pipe stay in stdout.
    """
    from rich.progress import Progress

    return Progress(
        console=stderr,
        disable=not stderr.is_terminal,
        transient=transient,
        redirect_stdout=sys.stdout.isatty(),
    )


def fail(code: int, *sentences: str) -> NoReturn:
    """End the command with these sentences on stderr."""
    for sentence in sentences:
        warn(sentence, style="red")
    raise typer.Exit(code)


def warn(sentence: str, style: str = "") -> None:
    """Print the sentence on stderr, as it is but for control characters."""
    text = escape_control_chars(sentence)
    stderr.print(text, style=style, markup=False, emoji=False, soft_wrap=True)


def as_json(found: object) -> str:
    """Encode as JSON in printable ASCII; everything else is escaped."""
    return json.dumps(msgspec.to_builtins(found), ensure_ascii=True)


@contextmanager
def open_input(file: str) -> Iterator[BinaryIO]:
    """Open the file, or standard input, so that it can be read twice."""
    try:
        source = sys.stdin.buffer if file == "-" else Path(file).open("rb")  # noqa: SIM115
    except OSError as error:
        fail(WRONG, f"{file}: {error.strerror}")
    with source:
        if file != "-" and source.seekable():
            yield source
            return
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
            shutil.copyfileobj(source, spool)
            spool.seek(0)
            yield cast(BinaryIO, spool)


def refuse_lines(
    file: str, bad: Sequence[tuple[int, str]], consequence: str = "nothing was sent"
) -> NoReturn:
    """End the command for these lines of the file; print the consequence last."""
    fail(WRONG, *_named_lines(file, bad, "bad lines"), consequence)


def warn_about_lines(file: str, doubtful: Sequence[tuple[int, str]]) -> None:
    """Print what is wrong with these lines of the file, which are used all the same."""
    lines = [(number, f"warning: {reason}") for number, reason in doubtful]
    for sentence in _named_lines(file, lines, "warnings"):
        warn(sentence)


def _named_lines(file: str, lines: Sequence[tuple[int, str]], kind: str) -> list[str]:
    shown = [f"{file}:{number}: {reason}" for number, reason in lines[:MAX_BAD_LINES_SHOWN]]
    if len(lines) > len(shown):
        shown.append(f"... and {len(lines) - len(shown)} more {kind}")
    return shown
