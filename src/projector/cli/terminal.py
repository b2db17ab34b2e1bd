"""What all commands share: settings, exit codes, and text that is safe on a terminal."""

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, TypeVar, cast

import msgspec
import structlog
import typer
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
)
from redis.exceptions import RedisError
from rich.console import Console

from projector import log as logs
from projector.clients.access_errors import redis_reason
from projector.config.env import variable_name
from projector.config.settings import Settings
from projector.errors import OperatorError, SettingsError, TemporaryError

T = TypeVar("T")
log = structlog.get_logger()

NOT_ALLOWED: Final = (
    TopicAuthorizationFailedError,
    GroupAuthorizationFailedError,
    ClusterAuthorizationFailedError,
)
FINDING: Final = 1
WRONG: Final = 2
OUTAGE: Final = 3

MAX_BAD_LINES_SHOWN: Final = 50
# Events from standard input are read twice; what does not fit into memory goes to a file.
SPOOL_BYTES: Final = 64 * 1024 * 1024

errors = Console(stderr=True, highlight=False)


def load_settings() -> Settings:
    """The settings, and logs as they say; ends the command where one is wrong."""
    try:
        settings = Settings.load()
    except SettingsError as error:
        fail(WRONG, *(f"wrong setting: {line}" for line in str(error).splitlines()))
    logs.configure(settings.log_level)
    if settings.kafka_security_protocol == "SASL_PLAINTEXT":
        log.warning(
            "nothing is encrypted on the way to Kafka",
            setting=f"{variable_name('kafka_security_protocol')}=SASL_PLAINTEXT",
        )
    return settings


def run_command(settings: Settings, work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; what a person can mend is one sentence and an exit code."""
    try:
        return asyncio.run(work)
    except OperatorError as error:
        fail(WRONG, str(error))
    except NOT_ALLOWED as error:
        fail(WRONG, f"Kafka at {settings.kafka} forbids this: {error}. See docs/security.md")
    except RedisError as error:
        if reason := redis_reason(error):
            fail(WRONG, f"Redis at {settings.redis_place} {reason}")
        fail(OUTAGE, f"Redis at {settings.redis_place} cannot be reached: {error}")
    # redis-py makes every OSError a RedisError: what is left is aiokafka's.
    except (TemporaryError, KafkaError, OSError) as error:
        fail(OUTAGE, f"Kafka at {settings.kafka} cannot be reached: {error}")


def fail(code: int, *sentences: str) -> NoReturn:
    """End the command with these sentences on stderr."""
    for sentence in sentences:
        errors.print(harmless(sentence), style="red", markup=False, emoji=False, soft_wrap=True)
    raise typer.Exit(code)


def as_json(found: object) -> str:
    """Printable ASCII alone: everything else is escaped."""
    return json.dumps(msgspec.to_builtins(found), ensure_ascii=True)


# Logs and commands alike write to terminals.
harmless: Final = logs.escape_control_chars


@contextmanager
def open_input(file: str) -> Iterator[BinaryIO]:
    """The file or standard input, such that it can be read twice."""
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
    file: str, bad: Sequence[tuple[int, str]], so: str = "nothing was sent"
) -> NoReturn:
    """End the command for these lines of the file, and say what was `so` not done."""
    shown = [f"{file}:{number}: {reason}" for number, reason in bad[:MAX_BAD_LINES_SHOWN]]
    if len(bad) > len(shown):
        shown.append(f"... and {len(bad) - len(shown)} more bad lines")
    fail(WRONG, *shown, so)
