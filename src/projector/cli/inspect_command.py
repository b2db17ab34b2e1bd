"""`projector inspect`: a job, a token, a partition or an agent as Redis holds it."""

import getpass
import hashlib
import re
import sys
import time
from typing import Final

import typer
from msgspec import Struct, structs
from redis.asyncio import Redis

from projector.cli.display import inspect_display
from projector.cli.display.rows import Row, show_answer
from projector.cli.terminal import (
    FINDING,
    WRONG,
    as_json,
    fail,
    load_settings,
    run_command,
    with_redis,
)
from projector.clients import redis_batch
from projector.config.settings import Settings
from projector.domain.decision import ViewRules
from projector.domain.views import ViewId
from projector.events.timestamps import to_rfc3339
from projector.operators import inspect
from projector.operators.inspect import InspectedToken, SignedToken
from projector.store import schema

MAX_TOKEN: Final = 8192
_TOKEN: Final = re.compile(rf"[\x21-\x7e]{{1,{MAX_TOKEN}}}")
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")


def job(number: int, *, json: bool) -> None:
    """Show a job."""
    settings = load_settings()
    found = run_command(
        settings, with_redis(settings, lambda redis: inspect.inspect_job(redis, number))
    )
    known = found.token is not None or bool(found.facts)
    answer = f"Job {number}" if known else f"Nothing is known about job {number}"
    _show(found, answer, inspect_display.job(found), json=json, code=0 if known else WRONG)


def token(arguments: list[str], sha256: str | None, *, json: bool) -> None:
    """Show what a token gets."""
    if arguments:
        fail(
            WRONG,
            "a token is never an argument: other users see those, and shells keep them. "
            "Give it on standard input, or run the command without it and be asked",
        )
    given = None if sha256 is not None else _read_token()
    digest = _digest(sha256, given)
    settings = load_settings()

    async def inspect_it(redis: Redis) -> InspectedToken:
        if given is None:
            return await inspect.inspect_view(redis, digest)
        return await _inspect_given(redis, settings, given, digest)

    found = run_command(settings, with_redis(settings, inspect_it))
    code = FINDING if found.record is None else 0
    _show(found, inspect_display.answer_of_token(found), inspect_display.token(found),
          json=json, code=code)  # fmt: skip


async def _inspect_given(
    redis: Redis, settings: Settings, given: str, digest: ViewId
) -> InspectedToken:
    """Check a token as lookups do, and read the view that answers it."""
    # Imported here: other commands start without cryptography.
    from api.tokens.token_check import NOT_CHECKED, VERIFIED, check_token

    now = await redis_batch.server_time(redis, schema.PARTITIONS_KEY)
    check = check_token(given.encode(), settings, now)
    if check is None:
        return await inspect.inspect_view(redis, digest)
    expires = None if check.expires_s is None else to_rfc3339(int(check.expires_s * 1000))
    refused = None
    if check.result == VERIFIED and check.job:
        found = await inspect.inspect_token_of_job(redis, digest, check.job)
    elif check.result == NOT_CHECKED:
        found = await inspect.inspect_view(redis, digest)
    else:
        found, refused = InspectedToken(digest, None, []), 503 if check.in_doubt else 401
    signed = SignedToken(check.result, refused, check.job, check.kid, check.issuer, expires)
    return structs.replace(found, signed=signed)


def partition(number: int, *, json: bool) -> None:
    """Show a partition."""
    settings = load_settings()
    found = run_command(
        settings, with_redis(settings, lambda redis: inspect.inspect_partition(redis, number))
    )
    answer = f"Partition {number}"
    _show(found, answer, inspect_display.partition(found), json=json)


def agent(number: int, *, json: bool) -> None:
    """Show an agent."""
    settings = load_settings()
    rules = ViewRules(settings.minimum_level, settings.max_view_bytes)
    found = run_command(
        settings, with_redis(settings, lambda redis: inspect.inspect_agent(redis, rules, number))
    )
    known = bool(found.facts)
    answer = f"Agent {number}" if known else f"Nothing is known about agent {number}"
    _show(found, answer, inspect_display.agent(found), json=json, code=0 if known else WRONG)


def _digest(sha256: str | None, given: str | None) -> ViewId:
    if sha256 is not None:
        if not _DIGEST.fullmatch(sha256):
            fail(WRONG, "--sha256 must be 64 hexadecimal digits")
        return ViewId(sha256.lower())
    if given is None or not _TOKEN.fullmatch(given):
        fail(WRONG, f"a token is 1 to {MAX_TOKEN} visible ASCII characters, without spaces")
    return ViewId(hashlib.sha256(given.encode()).hexdigest())


def _read_token() -> str:
    if sys.stdin.isatty():
        return getpass.getpass("token: ").strip()
    return sys.stdin.readline(MAX_TOKEN + 2).strip()


def _show(found: Struct, answer: str, rows: list[Row], *, json: bool, code: int = 0) -> None:
    if json:
        typer.echo(as_json(found))
    else:
        show_answer(answer, "", rows, now_ms=round(time.time() * 1000))
    raise typer.Exit(code)
