"""Scans of all records: every one without its body, and nothing else."""

import fakeredis

from projector.domain.views import ViewId
from projector.store import record_scan, schema
from projector.store.schema import Version, ViewRecord
from tests.builders import digest


async def test_every_token_is_found_with_its_header_alone() -> None:
    async with fakeredis.FakeAsyncRedis() as redis:
        count = 3 * record_scan.KEYS_PER_PAGE
        record = ViewRecord(200, 3, Version(1, 2), b"{}")
        for number in range(count):
            await redis.set(schema.record_key(ViewId(f"{number:064x}")), record.encode())
        await redis.set(schema.record_key(digest("malformed")), b"x")
        await redis.rpush(schema.record_key(digest("other")), "x")
        found = {h.id: h.record async for page in record_scan.scan_headers(redis) for h in page}
    assert len(found) == count + 2
    assert (found.pop(digest("malformed")), found.pop(digest("other"))) == (None, None)
    assert set(found.values()) == {record._replace(body=b"")}


async def test_a_job_s_record_is_found_by_its_id_and_its_pointer_is_no_record() -> None:
    record = ViewRecord(200, 3, Version(1, 2), b'{"allowed_agents":[]}')
    async with fakeredis.FakeAsyncRedis() as redis:
        await redis.set(schema.job_key(9), record.encode())
        await redis.set(schema.job_key(10), digest("token-10"))
        await redis.set(schema.job_key(11), digest("token-11") + "0")
        await redis.rpush(schema.job_key(12), "x")
        await redis.set(schema.record_key(digest("token-10")), digest("token-10"))
        found = {h.id: h.record async for page in record_scan.scan_headers(redis) for h in page}
    assert found.pop(ViewId("9")) == record._replace(body=b"")
    others = [ViewId("10"), ViewId("11"), ViewId("12"), digest("token-10")]
    assert found == dict.fromkeys(others)


async def test_keys_that_no_lookup_reads_are_left_out() -> None:
    record = ViewRecord(200, 3, Version(1, 2), b"{}").encode()
    async with fakeredis.FakeAsyncRedis() as redis:
        for name in (b"9", b"A" * 64, b"\xff", b""):
            await redis.set(schema.TOKENS.encode() + name, record)
        for name in (b"", b"09", b"0", b"x", b"1" * 20, b"a" * 64):
            await redis.set(schema.JOBS.encode() + name, record)
        assert [page async for page in record_scan.scan_headers(redis) if page] == []
