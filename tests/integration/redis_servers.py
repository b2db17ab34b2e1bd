"""Redis as several servers: a primary with a replica and a sentinel, and a cluster of three."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from projector.dev.embedded import redis_command
from projector.ports import LOOPBACK, is_listening
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
    """A primary, its replica, and the sentinel that fails over between them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.ports = [free_port(), free_port()]
        # Replicas get their copy at once: the default waits five seconds for further replicas.
        diskless = ("--repl-diskless-sync-delay", "0")
        self.servers = [
            stack.enter_context(running_valkey(folder, port, *diskless)) for port in self.ports
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
        eventually(self._has_found_replica, "the sentinel has found the replica")
        self.url = f"redis+sentinel://{LOOPBACK}:{self.sentinel_port}/{SERVICE}"

    def _has_replica(self, port: int) -> bool:
        info: Any = client(port).info("replication")
        return bool(info.get("slave0", {}).get("state") == "online")

    def _has_found_replica(self) -> bool:
        replicas: Any = client(self.sentinel_port).execute_command("SENTINEL REPLICAS", SERVICE)
        return len(replicas) == 1

    def fail_over(self) -> None:
        """Promote the replica; the former primary goes on as its replica."""

        def is_begun() -> bool:
            try:
                client(self.sentinel_port).execute_command("SENTINEL FAILOVER", SERVICE)
            except redis.ResponseError:
                return False
            return True

        eventually(is_begun, "the sentinel has accepted the failover")
        eventually(lambda: self.primary == self.ports[1], "failed over")
        eventually(lambda: client(self.ports[0]).role()[0] == "slave", "demoted")

    @property
    def primary(self) -> int:
        """Return the port of the primary that the sentinel names."""
        address: Any = client(self.sentinel_port).sentinel_get_master_addr_by_name(SERVICE)
        return int(address[1])


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
        "--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes",
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
            infos = [client(port).execute_command("CLUSTER INFO") for port in self.ports]
        except redis.ConnectionError:
            return False
        return all(
            info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3" for info in infos
        )

    def holder(self, key: str) -> int:
        """Return the number of the server that holds the key."""
        share = REDIS_CLUSTER_HASH_SLOTS // 3
        return min(key_slot(key.encode()) // share, 2)

    def port_of(self, client: Any) -> int:
        """Return the port that the client connects to."""
        return int(client.connection_pool.connection_kwargs["port"])

    def add_replica(self, number: int, folder: Path, stack: ExitStack) -> int:
        """Start a replica of one of the three; return its port once it has a copy."""
        port, bus = free_port(), free_port()
        options = (*self._options, "--cluster-port", str(bus))
        self.added[port] = stack.enter_context(running_valkey(folder, port, *options))
        client(self.ports[0]).execute_command("CLUSTER MEET", LOOPBACK, port, bus)
        primary = client(self.ports[number]).execute_command("CLUSTER MYID")
        eventually(lambda: primary in str(client(port).execute_command("CLUSTER NODES")), "met")
        client(port).execute_command("CLUSTER REPLICATE", primary)
        eventually(lambda: client(port).role()[3] == "connected", "a copy")
        return port
