"""Why Redis refuses writes, by its INFO."""

from typing import Any

import pytest
from redis.exceptions import NoPermissionError

from projector.clients import redis_batch
from projector.operators.refused_writes import refused_writes

ROOMY = {"used_memory": 50, "maxmemory": 1000, "maxmemory_policy": "noeviction"}
FULL = ROOMY | {"used_memory": 995}
WELL = {"rdb_last_bgsave_status": "ok", "aof_last_write_status": "ok"}


@pytest.mark.parametrize(
    ("memory", "persistence", "reason"),
    [
        (ROOMY, WELL, None),
        (ROOMY | {"maxmemory": 0}, {}, None),
        (FULL | {"maxmemory_policy": "allkeys-lru"}, WELL, None),
        (FULL, WELL, "its memory is full: 995 of 1000 bytes are used"),
        (ROOMY, WELL | {"rdb_last_bgsave_status": "err"}, "it cannot save to its disk"),
        (ROOMY, WELL | {"aof_last_write_status": "err"}, "it cannot save to its disk"),
    ],
)
async def test_one_server_of_a_cluster_is_enough(
    memory: dict[str, Any], persistence: dict[str, Any], reason: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    async def info(_redis: object, section: str) -> list[dict[str, Any]]:
        return [ROOMY, memory] if section == "memory" else [WELL, persistence]

    monkeypatch.setattr(redis_batch, "info", info)
    redis: Any = object()
    assert await refused_writes(redis) == reason


async def test_without_the_right_to_ask_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def info(_redis: object, _section: str) -> list[dict[str, Any]]:
        raise NoPermissionError

    monkeypatch.setattr(redis_batch, "info", info)
    redis: Any = object()
    assert await refused_writes(redis) is None
