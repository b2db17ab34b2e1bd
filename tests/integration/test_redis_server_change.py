"""Changes of the Redis server: another server may lack acknowledged writes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as redis_sync
from structlog.testing import capture_logs

from projector.clients import redis_client, redis_servers
from projector.clients.redis_access import warn_of_open_server
from projector.clients.redis_servers import RedisServers
from projector.config.settings import Settings
from projector.errors import EvictionError, WriteRefusedError
from projector.events.model import Topic
from projector.ports import is_listening
from projector.store import schema
from projector.store.partition_store import PartitionStore
from tests.faults.background_loop import BackgroundLoop
from tests.faults.proxy import KeepingProxy
from tests.integration import servers
from tests.integration.ports import free_port

Restart = Callable[[], None]


async def test_a_restarted_server_counts_as_another(tmp_path: Path) -> None:
    port = free_port()
    valkey = servers.valkey(tmp_path, port)
    with servers.running(valkey):
        servers.eventually(lambda: is_listening(port), "Valkey listening")
        server = RedisServers()
        url = f"redis://127.0.0.1:{port}/0"
        async with redis_client.create_redis(Settings(redis_url=url), server) as redis:
            await redis.ping()
            await redis.connection_pool.disconnect()
            await redis.ping()
            assert server.changes == 0
            valkey.kill()
            valkey.start()
            servers.eventually(lambda: is_listening(port), "Valkey listening again")
            await redis.ping()
            assert server.changes == 1


class Failover:
    """Two Valkeys at one address; only new connections lead to a new `target`."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.target = ports[0]

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(1024):
        writer.write(part)
    writer.close()


@pytest.fixture
async def failover(tmp_path: Path) -> AsyncIterator[tuple[Failover, str]]:
    """Start two servers; yield them and a URL that leads to the first."""
    with ExitStack() as stack:
        ports = [free_port(), free_port()]
        for port in ports:
            (folder := tmp_path / str(port)).mkdir()
            stack.enter_context(servers.running(servers.valkey(folder, port)))
        servers.eventually(lambda: all(map(is_listening, ports)), "both listening")
        both = Failover(ports)
        async with await asyncio.start_server(both.pump, "127.0.0.1", 0) as proxy:
            yield both, f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}/0"
            proxy.close()


async def test_connections_to_a_former_server_are_given_up(
    failover: tuple[Failover, str],
) -> None:
    """An old connection would return old views under the new server's stamps."""
    both, url = failover
    server = RedisServers()
    async with redis_client.create_redis(Settings(redis_url=url), server) as redis:
        await asyncio.gather(redis.ping(), redis.ping())
        both.target = both.ports[1]
        await asyncio.gather(*(redis.blpop(["nothing"], timeout=1) for _ in range(3)))
        assert server.changes == 1
        found = await asyncio.gather(*(redis.info("server") for _ in range(3)))
        assert {info["tcp_port"] for info in found} == {both.ports[1]}


async def test_a_failover_behind_kept_connections_is_noticed(tmp_path: Path) -> None:
    """The proxy of a managed Redis may keep its clients' connections over a failover."""
    with ExitStack() as stack:
        ports = [free_port(), free_port()]
        for port in ports:
            (folder := tmp_path / str(port)).mkdir()
            stack.enter_context(servers.running(servers.valkey(folder, port)))
        servers.eventually(lambda: all(map(is_listening, ports)), "both listening")
        proxy = stack.enter_context(keeping_proxy(ports[0]))
        server = RedisServers()
        url = f"redis://127.0.0.1:{proxy.port}/0"
        async with redis_client.create_redis(Settings(redis_url=url), server) as redis:
            store = PartitionStore(redis, server, 0, "me")
            await store.claim(1)
            await store.checkpoint(dict.fromkeys(Topic, 0), {}, 0)
            await copy_hash(ports, schema.partition_key(0))
            await asyncio.to_thread(proxy.switch_keeping, ports[1])
            # In the script itself: this stamp belongs to a probe from before the failover.
            with pytest.raises(WriteRefusedError, match="server"):
                await store.stamp(1)
            assert server.changes == 0
            await store.now()
            assert server.changes == 1
            with pytest.raises(WriteRefusedError, match="failed over"):
                await store.stamp(2)


async def test_a_server_that_was_a_replica_meanwhile_counts_as_another(
    failover: tuple[Failover, str],
) -> None:
    """It has the writes of the other server since, not its own; its `run_id` is the same."""
    both, url = failover
    server = RedisServers()
    async with redis_client.create_redis(Settings(redis_url=url), server) as redis:
        store = PartitionStore(redis, server, 0, "me")
        await store.now()
        await redis.replicaof("127.0.0.1", both.ports[1])
        await asyncio.to_thread(servers.eventually, lambda: is_synced(both.ports[0]), "a copy")
        await redis.replicaof("NO", "ONE")
        await store.now()
        assert server.changes == 1


def is_synced(port: int) -> bool:
    with redis_sync.Redis(port=port) as client:
        found: Any = client.info("replication")
        return bool(found.get("master_link_status") == "up")


async def copy_hash(ports: list[int], key: str) -> None:
    """Copy a hash from the first server to the second, as replication does."""
    with redis_sync.Redis(port=ports[0]) as old, redis_sync.Redis(port=ports[1]) as new:
        new.hset(key, mapping=old.hgetall(key))


@contextmanager
def keeping_proxy(target: int) -> Iterator[KeepingProxy]:
    with BackgroundLoop() as background:
        proxy = KeepingProxy(background, free_port(), target)
        yield proxy
        proxy.close()


async def test_a_primary_that_became_a_replica_is_left(failover: tuple[Failover, str]) -> None:
    both, url = failover
    server = RedisServers()
    async with redis_client.create_redis(Settings(redis_url=url), server) as redis:
        await redis.set("a", "1")
        await redis.replicaof("127.0.0.1", both.ports[1])
        both.target = both.ports[1]
        await redis.set("a", "2")
        assert (await redis.info("server"))["tcp_port"] == both.ports[1]
        assert server.changes == 1


async def test_a_server_that_may_evict_is_refused(tmp_path: Path) -> None:
    port = free_port()
    with servers.running(servers.valkey(tmp_path, port)):
        servers.eventually(lambda: is_listening(port), "Valkey listening")
        async with redis_client.create_redis(
            Settings(redis_url=f"redis://127.0.0.1:{port}/0")
        ) as redis:
            await redis.config_set("maxmemory-policy", "allkeys-lru")
            await redis_servers.refuse_eviction(redis, "here")
            await redis.config_set("maxmemory", "100mb")
            with pytest.raises(EvictionError, match="Redis at here has maxmemory-policy allkeys-l"):
                await redis_servers.refuse_eviction(redis, "here")


@pytest.mark.parametrize(("beside", "warned"), [("", True), ("user", False)])
async def test_a_password_that_the_server_does_not_need_is_warned_of(
    tmp_path: Path, beside: str, warned: bool
) -> None:
    port = free_port()
    with servers.running(servers.valkey(tmp_path, port)):
        servers.eventually(lambda: is_listening(port), "Valkey listening")
        settings = Settings(redis_url=f"redis://{beside}:secret@127.0.0.1:{port}/0")
        open_settings = Settings(redis_url=f"redis://127.0.0.1:{port}/0")
        with capture_logs() as logs:
            async with redis_client.create_redis(open_settings) as redis:
                await warn_of_open_server(redis, settings)
                await warn_of_open_server(redis, open_settings)
                await redis.acl_setuser("default", reset_passwords=True, passwords=["+secret"])
                await warn_of_open_server(redis, settings)
        expected = [{"event": "Redis needs no password", "log_level": "warning",
                     "redis": f"redis://127.0.0.1:{port}/0"}]  # fmt: skip
        assert logs == (expected if warned else [])
