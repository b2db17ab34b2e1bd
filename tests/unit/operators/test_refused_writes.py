"""Why Redis refuses writes, by its answers to PING and INFO."""

from typing import Any

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from projector.clients import redis_batch
from projector.operators.refused_writes import refused_writes

ROOMY = {"used_memory": 50, "maxmemory": 1000, "maxmemory_policy": "noeviction"}
FULL = ROOMY | {"used_memory": 995}
NO_DISK = ResponseError("MISCONF Redis is configured to save RDB snapshots, but it cannot")


@pytest.mark.parametrize(
    ("memory", "error", "reason"),
    [
        (ROOMY, None, None),
        (ROOMY | {"maxmemory": 0}, None, None),
        (FULL | {"maxmemory_policy": "allkeys-lru"}, None, None),
        (FULL, None, "its memory is full: 995 of 1000 bytes"),
        (ROOMY, NO_DISK, "it cannot save to its disk"),
        (FULL, NoPermissionError("no right to PING"), None),
    ],
)
async def test_one_server_of_a_cluster_is_enough(
    memory: dict[str, Any], error: Exception | None, reason: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    async def info(_redis: object, section: str) -> list[dict[str, Any]]:
        assert section == "memory"
        return [ROOMY, memory]

    async def ping(_redis: object) -> None:
        if error:
            raise error

    monkeypatch.setattr(redis_batch, "info", info)
    monkeypatch.setattr(redis_batch, "ping", ping)
    redis: Any = object()
    assert await refused_writes(redis) == reason
