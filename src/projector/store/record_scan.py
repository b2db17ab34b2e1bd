"""Scans of all records in Redis: those of tokens and those of jobs."""

import re
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.domain.views import DIGEST_LENGTH, ViewId
from projector.store import schema
from projector.store.schema import ViewRecord

KEYS_PER_PAGE: Final = 500
# The keys of tokens and jobs, and perhaps others. Redis reads every key for each pattern.
_PATTERN: Final = f"{schema.PREFIX}:[tj]o[kb]*"
_KEY: Final = re.compile(
    rf"(?:{schema.TOKENS}([0-9a-f]{{64}})|{schema.JOBS}([1-9][0-9]{{0,18}}))".encode()
)
# Enough for a header, and to recognise a pointer.
_BYTES: Final = DIGEST_LENGTH + 1


class RecordHeader(NamedTuple):
    """A view's id, and its record without the body; None if that is malformed."""

    id: ViewId
    record: ViewRecord | None


async def scan_headers(redis: Redis) -> AsyncIterator[list[RecordHeader]]:
    """Yield the headers of all records, in pages too short to delay lookups.

    A job's key that names a digest is no record. Neither are keys that no lookup reads. Raises
    `RedisError`.
    """
    async for page in redis_batch.scan_pages(redis, _PATTERN, KEYS_PER_PAGE):
        yield await _headers(redis, [found for key in page if (found := _KEY.fullmatch(key))])


async def _headers(redis: Redis, keys: list[re.Match[bytes]]) -> list[RecordHeader]:
    if not keys:
        return []
    stored = await redis_batch.execute(redis, [("GETRANGE", k[0], 0, _BYTES - 1) for k in keys])
    pairs = ((key, found.value) for key, found in zip(keys, stored, strict=True))
    return [_header(key, raw) for key, raw in pairs if not _is_pointer(key, raw)]


def _is_pointer(key: re.Match[bytes], raw: Any) -> bool:
    is_text = key[2] is not None and isinstance(raw, bytes)
    return is_text and schema.POINTER.fullmatch(raw) is not None


def _header(key: re.Match[bytes], raw: Any) -> RecordHeader:
    id_ = ViewId((key[1] or key[2]).decode())
    try:
        return RecordHeader(id_, ViewRecord.decode(raw[: schema.HEADER_BYTES]))
    except (ValueError, TypeError):
        return RecordHeader(id_, None)
