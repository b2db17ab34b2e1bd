"""A worker must know when another Redis answers: what the former acknowledged may be gone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from projector import connections
from projector.connections import EvictionError, Server
from projector.ports import free_port, is_listening
from projector.settings import Settings
from tests.integration import servers

Restart = Callable[[], None]


@pytest.mark.parametrize("protocol", ["", "?protocol=3"])
async def test_a_restarted_server_counts_as_another(tmp_path: Path, protocol: str) -> None:
    port = free_port()
    valkey = servers.valkey(tmp_path, port)
    with servers.running(valkey):
        servers.eventually(lambda: is_listening(port), "Valkey listening")
        server = Server()
        url = f"redis://127.0.0.1:{port}/0{protocol}"
        async with connections.redis(Settings(redis_url=url), server) as redis:
            await redis.ping()
            await redis.connection_pool.disconnect()
            await redis.ping()
            assert server.changes == 0
            valkey.kill()
            valkey.start()
            servers.eventually(lambda: is_listening(port), "Valkey listening again")
            await redis.ping()
            assert server.changes == 1


async def test_a_server_that_may_evict_is_refused(tmp_path: Path) -> None:
    port = free_port()
    with servers.running(servers.valkey(tmp_path, port)):
        servers.eventually(lambda: is_listening(port), "Valkey listening")
        async with connections.redis(Settings(redis_url=f"redis://127.0.0.1:{port}/0")) as redis:
            await redis.config_set("maxmemory-policy", "allkeys-lru")
            await connections.refuse_eviction(redis, "here")
            await redis.config_set("maxmemory", "100mb")
            with pytest.raises(EvictionError, match="Redis at here has maxmemory-policy allkeys-l"):
                await connections.refuse_eviction(redis, "here")
