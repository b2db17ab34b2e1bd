"""Scans of all token keys: every record without its body."""

import fakeredis

from projector.store import schema, token_scan
from projector.store.schema import Version, ViewRecord


async def test_every_token_is_found_with_its_header_alone() -> None:
    async with fakeredis.FakeAsyncRedis() as redis:
        count = 3 * token_scan.KEYS_PER_PAGE
        record = ViewRecord(200, 3, Version(1, 2), b"{}")
        for number in range(count):
            await redis.set(schema.token_record_key(f"{number:064x}"), record.encode())
        await redis.set(schema.token_record_key("malformed"), b"x")
        await redis.rpush(schema.token_record_key("other"), b"x")
        await redis.set(schema.job_token_key(9), b"x")
        found = {h.digest: h.record async for page in token_scan.scan_headers(redis) for h in page}
    assert len(found) == count + 2
    assert (found.pop("malformed"), found.pop("other")) == (None, None)
    assert set(found.values()) == {record._replace(body=b"")}
