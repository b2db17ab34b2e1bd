"""Scans of all records in Redis: those of tokens and those of jobs."""

import re
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.domain.views import ViewId
from projector.store import schema
from projector.store.schema import ViewRecord

KEYS_PER_PAGE: Final = 500
# The keys of tokens and jobs, and perhaps others. Redis reads every key for each pattern.
_PATTERN: Final = f"{schema.PREFIX}:[tj]o[kb]*"
_KEY: Final = re.compile(
    rf"(?:{schema.TOKENS}([0-9a-f]{{64}})|{schema.JOBS}([1-9][0-9]{{0,18}}))".encode()
)


class RecordHeader(NamedTuple):
    """A view's id, and its record without the body; None if it is malformed, or a pointer."""

    id: ViewId
    record: ViewRecord | None


async def scan_headers(redis: Redis) -> AsyncIterator[list[RecordHeader]]:
    """Yield the headers of all keys that lookups read, in pages too short to delay lookups.

    Raises `RedisError`.
    """
    async for page in redis_batch.scan_pages(redis, _PATTERN, KEYS_PER_PAGE):
        yield await _headers(redis, [found for key in page if (found := _KEY.fullmatch(key))])


async def _headers(redis: Redis, keys: list[re.Match[bytes]]) -> list[RecordHeader]:
    if not keys:
        return []
    last = schema.HEADER_BYTES - 1
    stored = await redis_batch.execute(redis, [("GETRANGE", key[0], 0, last) for key in keys])
    return [_header(key, raw.value) for key, raw in zip(keys, stored, strict=True)]


def _header(key: re.Match[bytes], raw: Any) -> RecordHeader:
    id_ = ViewId((key[1] or key[2]).decode())
    try:
        return RecordHeader(id_, ViewRecord.decode(raw))
    except (ValueError, TypeError):
        return RecordHeader(id_, None)
