"""Redis as several servers: a primary with a replica and a sentinel, and a cluster of three."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from projector.dev import redis_command
from projector.process import LOOPBACK, is_listening
from tests.integration import servers
from tests.integration.ports import free_port
from tests.integration.servers import Server, eventually, running

SERVICE = "allowed-agents"
SENTINEL = """\
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {service} 127.0.0.1 {primary} 1
sentinel down-after-milliseconds {service} 500
sentinel failover-timeout {service} 3000
"""


class SentinelRedis:
    """A primary, its replica, and the sentinel that lets the one take the other's place."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.ports = [free_port(), free_port()]
        # A replica gets its copy at once, not after five seconds.
        eager = ("--repl-diskless-sync-delay", "0")
        self.servers = [
            stack.enter_context(running_valkey(folder, port, *eager)) for port in self.ports
        ]
        client(self.ports[1]).replicaof(LOOPBACK, str(self.ports[0]))
        eventually(lambda: self._has_replica(self.ports[0]), "a replica")
        self.sentinel_port = free_port()
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            SENTINEL.format(
                port=self.sentinel_port, folder=folder, service=SERVICE, primary=self.ports[0]
            )
        )
        program = redis_command(0, "")[0]
        sentinel = Server([program, str(configuration), "--sentinel"], folder / "sentinel.log")
        self.sentinel = stack.enter_context(running(sentinel))
        eventually(lambda: is_listening(self.sentinel_port), "the sentinel")
        eventually(self._knows_the_replica, "the sentinel knows the replica")
        self.url = f"redis+sentinel://{LOOPBACK}:{self.sentinel_port}/{SERVICE}"

    def _has_replica(self, port: int) -> bool:
        told: Any = client(port).info("replication")
        return bool(told.get("slave0", {}).get("state") == "online")

    def _knows_the_replica(self) -> bool:
        told: Any = client(self.sentinel_port).execute_command("SENTINEL REPLICAS", SERVICE)
        return len(told) == 1

    def fail_over(self) -> None:
        """Let the replica take the place of the primary, which lives on."""

        def is_begun() -> bool:
            try:
                client(self.sentinel_port).execute_command("SENTINEL FAILOVER", SERVICE)
            except redis.ResponseError:
                return False
            return True

        eventually(is_begun, "the sentinel has heard that the replica is well")
        eventually(lambda: self.primary == self.ports[1], "failed over")
        eventually(lambda: client(self.ports[0]).role()[0] == "slave", "demoted")

    @property
    def primary(self) -> int:
        """The port of the server that the sentinel names."""
        told: Any = client(self.sentinel_port).sentinel_get_master_addr_by_name(SERVICE)
        return int(told[1])


@contextmanager
def running_valkey(folder: Path, port: int, *options: str) -> Iterator[Server]:
    (own := folder / f"redis-{port}").mkdir()
    with running(servers.valkey(own, port, *options)) as server:
        eventually(lambda: is_listening(port), f"listening: {server.log()}")
        yield server


def client(port: int) -> Any:
    return redis.Redis(port=port, decode_responses=True)


class RedisCluster:
    """A cluster of three servers without replicas."""

    _options = (
        "--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
        "--repl-diskless-sync-delay", "0",
    )  # fmt: skip

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.ports = [free_port() for _ in range(3)]
        self._buses = [free_port() for _ in range(3)]
        self.servers = [
            stack.enter_context(
                running_valkey(folder, port, *self._options, "--cluster-port", str(bus))
            )
            for port, bus in zip(self.ports, self._buses, strict=True)
        ]
        self.added: dict[int, Server] = {}
        self._meet()
        self.url = "redis+cluster://" + ",".join(f"{LOOPBACK}:{port}" for port in self.ports)

    def _meet(self) -> None:
        share = REDIS_CLUSTER_HASH_SLOTS // 3
        for number, port in enumerate(self.ports):
            first = number * share
            last = REDIS_CLUSTER_HASH_SLOTS - 1 if number == 2 else first + share - 1
            client(port).execute_command("CLUSTER ADDSLOTSRANGE", first, last)
            client(port).execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for port, bus in zip(self.ports[1:], self._buses[1:], strict=True):
            client(self.ports[0]).execute_command("CLUSTER MEET", LOOPBACK, port, bus)
        eventually(self.is_whole, "the cluster is whole")

    def is_whole(self) -> bool:
        try:
            told = [client(port).execute_command("CLUSTER INFO") for port in self.ports]
        except redis.ConnectionError:
            return False
        return all(
            info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3" for info in told
        )

    def holder(self, key: str) -> int:
        """Which of the servers holds the key."""
        share = REDIS_CLUSTER_HASH_SLOTS // 3
        return min(key_slot(key.encode()) // share, 2)

    def port_of(self, one: Any) -> int:
        """Where that client is connected."""
        return int(one.connection_pool.connection_kwargs["port"])

    def add_replica(self, number: int, folder: Path, stack: ExitStack) -> int:
        """The port of a replica of one of the three, once it has a copy."""
        port, bus = free_port(), free_port()
        options = (*self._options, "--cluster-port", str(bus))
        self.added[port] = stack.enter_context(running_valkey(folder, port, *options))
        client(self.ports[0]).execute_command("CLUSTER MEET", LOOPBACK, port, bus)
        primary = client(self.ports[number]).execute_command("CLUSTER MYID")
        eventually(lambda: primary in str(client(port).execute_command("CLUSTER NODES")), "met")
        client(port).execute_command("CLUSTER REPLICATE", primary)
        eventually(lambda: client(port).role()[3] == "connected", "a copy")
        return port
