"""Why Redis refuses writes, by its answers to INFO."""

from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

from projector.clients import redis_batch
from projector.operators.refused_writes import refused_writes

ROOMY = {"used_memory": 50, "maxmemory": 1000, "maxmemory_policy": "noeviction"}
NEARLY = ROOMY | {"used_memory": 995}
REFUSED = {"errorstat_OOM": {"count": 1}}
FULL = ROOMY | {"used_memory": 1000}
NO_DISK = ROOMY | {"rdb_last_bgsave_status": "err", "errorstat_MISCONF": {"count": 1}}


@pytest.mark.parametrize(
    ("servers", "reason"),
    [
        ([ROOMY], None),
        ([ROOMY | {"maxmemory": 0}], None),
        ([FULL | {"maxmemory_policy": "allkeys-lru"}], None),
        ([FULL], "its memory is full: 1000 of 1000 bytes"),
        ([NEARLY], None),
        ([NEARLY | REFUSED], "its memory is full: 995 of 1000 bytes"),
        ([ROOMY | REFUSED], None),
        ([NO_DISK], "it cannot save to its disk"),
        ([NO_DISK | {"rdb_last_bgsave_status": "ok"}], None),
        ([ROOMY, FULL], None),
        ([NO_DISK, FULL], "it cannot save to its disk"),
        (NoPermissionError("no right to INFO"), None),
        (RedisConnectionError("a server of the cluster is away"), None),
    ],
)
async def test_redis_refuses_writes_if_each_server_shows_a_sign_of_it(
    servers: list[dict[str, Any]] | Exception, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def info(_redis: object, _section: str) -> list[dict[str, Any]]:
        if isinstance(servers, Exception):
            raise servers
        return servers

    monkeypatch.setattr(redis_batch, "info", info)
    redis: Any = object()
    assert await refused_writes(redis) == reason
