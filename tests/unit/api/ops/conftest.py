"""A fake Redis with two partitions, which the applications read."""

import os
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from projector.store import schema
from tests.unit.api.ops.served import NOBODY_THERE


@pytest.fixture
async def redis(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeAsyncRedis]:
    """Yield the Redis that the applications read; each event loop has a client of its own."""
    for name in [name for name in os.environ if name.startswith("PROJECTOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PROJECTOR_KAFKA", NOBODY_THERE)
    monkeypatch.setattr("projector.log.configure", lambda level: None)
    server = FakeServer()
    monkeypatch.setattr(
        "projector.clients.redis_client.create_redis", lambda *_: FakeAsyncRedis(server=server)
    )
    redis = FakeAsyncRedis(server=server)
    await redis.set(schema.PARTITIONS_KEY, 2)
    now = round(time.time() * 1000)
    fields: dict[str, Any] = {
        "epoch": 7, "owner": "host-1", "revision": 3, "facts": 0, "stamp_epoch": 7, "stamp": now,
    }  # fmt: skip
    await redis.hset(schema.partition_key(0), mapping=cast(Any, fields))
    yield redis
    await redis.aclose()
