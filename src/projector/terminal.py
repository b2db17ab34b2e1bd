"""What all commands share: settings, exit codes, and text that is safe on a terminal."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, NoReturn, TypeVar

import typer
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError
from rich.console import Console

from projector import log
from projector.errors import SetupError
from projector.settings import Settings, SettingsError

T = TypeVar("T")

FINDING: Final = 1
WRONG: Final = 2
OUTAGE: Final = 3

errors = Console(stderr=True, highlight=False)


def load_settings() -> Settings:
    """The settings, and logs as they say; ends the command where one is wrong."""
    try:
        settings = Settings.load()
    except SettingsError as error:
        fail(WRONG, *(f"wrong setting: {line}" for line in str(error).splitlines()))
    log.configure(settings.log_level)
    return settings


def run(settings: Settings, work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; what a person can mend is one sentence and an exit code."""
    try:
        return asyncio.run(work)
    except SetupError as error:
        fail(WRONG, str(error))
    except RedisError as error:
        fail(OUTAGE, f"Redis at {settings.redis_place} cannot be reached: {error}")
    except (KafkaError, OSError) as error:
        fail(OUTAGE, f"Kafka at {settings.kafka} cannot be reached: {error}")


def fail(code: int, *sentences: str) -> NoReturn:
    """End the command with these sentences on stderr."""
    for sentence in sentences:
        errors.print(harmless(sentence), style="red", markup=False, emoji=False, soft_wrap=True)
    raise typer.Exit(code)


def harmless(text: str) -> str:
    """One line of text without anything that moves a cursor, colours, rings or hides."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
