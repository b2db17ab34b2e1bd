"""Pages over all token keys in Redis."""

from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.store import schema
from projector.store.schema import ViewRecord

KEYS_PER_PAGE: Final = 500


_KEY_PREFIX: Final = schema.token_record_key("")


class RecordHeader(NamedTuple):
    """A token key and its record without the body; None where that is no record."""

    digest: str
    record: ViewRecord | None


async def scan_headers(redis: Redis) -> AsyncIterator[list[RecordHeader]]:
    """The headers under all token keys, in pages that hold nobody up; raises `RedisError`."""
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
