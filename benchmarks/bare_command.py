"""The limit of a command that reads Redis: settings, one GET and one line, by the same libraries.

python -m benchmarks.bare_command 1
"""

import asyncio
import sys

# redis-py imports it wherever it is installed.
sys.modules["opentelemetry.sdk"] = None  # type: ignore[assignment]

import msgspec  # noqa: E402
import typer  # noqa: E402
from pydantic_settings import BaseSettings, SettingsConfigDict  # noqa: E402
from redis.asyncio import Redis  # noqa: E402


class Settings(BaseSettings):
    """The one setting."""

    model_config = SettingsConfigDict(env_prefix="PROJECTOR_")
    redis_url: str


async def _read(key: int) -> bytes | str | None:
    async with Redis.from_url(Settings().redis_url) as redis:  # type: ignore[call-arg]
        found: bytes | str | None = await redis.get(str(key))
    return found


def main(key: int) -> None:
    """Print what is under the key."""
    typer.echo(msgspec.json.encode(asyncio.run(_read(key))))


if __name__ == "__main__":
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command()(main)
    app()
