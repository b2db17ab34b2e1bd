"""Options that several commands share, and what they stand for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer
from redis.asyncio import Redis
from rich.progress import Progress

from projector.cli.terminal import errors
from projector.clients import redis_client as connections
from projector.config.settings import Settings
from projector.errors import NoSuchPartitionError

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead, one object a line.")]


Partitions = Annotated[
    list[int] | None,
    typer.Option("--partition", help="This partition only; may be repeated.", min=0),
]


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Redis]:
    """A Redis client that is closed in the end."""
    redis = connections.create_redis(settings)
    try:
        yield redis
    finally:
        await redis.aclose()


def chosen(partitions: list[int] | None, count: int) -> list[int]:
    """The partitions that were named, or all; raises `NoSuchPartitionError`."""
    wanted = sorted(set(partitions or range(count)))
    if wanted[-1] >= count:
        raise NoSuchPartitionError(f"there is no partition {wanted[-1]}; there are {count}")
    return wanted


def progress_bar() -> Progress:
    """A bar on stderr; nothing where that is no terminal."""
    return Progress(console=errors, disable=not errors.is_terminal, transient=True)
