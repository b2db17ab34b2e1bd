"""Scans of all token keys in Redis."""

from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.store import schema
from projector.store.schema import ViewRecord

KEYS_PER_PAGE: Final = 500
_KEY_PREFIX: Final = schema.token_record_key("")


class RecordHeader(NamedTuple):
    """A token's digest and its record without the body; None if that is malformed."""

    digest: str
    record: ViewRecord | None


async def scan_headers(redis: Redis) -> AsyncIterator[list[RecordHeader]]:
    """Yield the headers of all token keys, in pages too short to delay lookups.

    Raises `RedisError`.
    """
    async for page in redis_batch.scan_pages(redis, f"{_KEY_PREFIX}*", KEYS_PER_PAGE):
        yield await _headers(redis, page)


async def _headers(redis: Redis, keys: list[bytes]) -> list[RecordHeader]:
    last = schema.HEADER_BYTES - 1
    stored = await redis_batch.execute(redis, [("GETRANGE", key, 0, last) for key in keys])
    return [_header(key, raw.value) for key, raw in zip(keys, stored, strict=True)]


def _header(key: bytes, raw: Any) -> RecordHeader:
    digest = key.decode(errors="replace").removeprefix(_KEY_PREFIX)
    try:
        return RecordHeader(digest, ViewRecord.decode(raw))
    except (ValueError, TypeError):
        return RecordHeader(digest, None)
