"""Pages over all token keys in Redis."""

from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.store import schema
from projector.store.schema import Record

KEYS_PER_PAGE: Final = 500


_KEY_PREFIX: Final = schema.token_key("")


class Header(NamedTuple):
    """A token key and its record without the body; None where that is no record."""

    digest: str
    record: Record | None


async def headers(redis: Redis) -> AsyncIterator[list[Header]]:
    """The headers under all token keys, in pages that hold nobody up; raises `RedisError`."""
    async for page in redis_batch.pages(redis, f"{_KEY_PREFIX}*", KEYS_PER_PAGE):
        yield await _headers(redis, page)


async def _headers(redis: Redis, keys: list[bytes]) -> list[Header]:
    last = schema.HEADER_BYTES - 1
    stored = await redis_batch.ask(redis, [("GETRANGE", key, 0, last) for key in keys])
    return [_header(key, raw.value) for key, raw in zip(keys, stored, strict=True)]


def _header(key: bytes, raw: Any) -> Header:
    digest = key.decode(errors="replace").removeprefix(_KEY_PREFIX)
    try:
        return Header(digest, Record.decode(raw))
    except (ValueError, TypeError):
        return Header(digest, None)
