"""Meetings with Redis servers: the first answer, another server in a place, a new primary."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from projector.clients.redis_servers import RedisServers


class Connection:
    """A connection to a server with this `run_id`."""

    def __init__(self, run_id: str, host: str = "a", port: int = 1) -> None:
        self.host = host
        self.port = port
        self.left = False
        self._run_id = run_id

    async def on_connect(self) -> None: ...

    async def send_command(self, *_command: str) -> None: ...

    async def read_response(self) -> bytes:
        return b"# Server\r\n" + (f"run_id:{self._run_id}\r\n".encode() if self._run_id else b"")

    def mark_for_reconnect(self) -> None:
        self.left = True


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 10.0
        monkeypatch.setattr("projector.clients.redis_servers.elapsed", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def connect(servers: RedisServers, connection: Any) -> Any:
    await servers.on_connect(connection)
    return connection


def primaries(*names: str) -> Any:
    nodes = [SimpleNamespace(name=name) for name in names]
    return SimpleNamespace(get_primaries=lambda: nodes)


async def test_a_server_is_met_at_its_first_answer_and_after_each_restart(clock: Clock) -> None:
    servers = RedisServers()
    assert servers.met("") == -math.inf
    for now, run_id, met in ((11.0, "x", 11.0), (12.0, "x", 11.0), (13.0, "y", 13.0)):
        clock.now = now
        await connect(servers, Connection(run_id))
        assert servers.met("") == servers.met_at == met


async def test_a_server_that_hides_its_run_id_is_met_at_each_connection(clock: Clock) -> None:
    servers = RedisServers()
    for now in (11.0, 12.0):
        clock.now = now
        await connect(servers, Connection(""))
        assert servers.met("") == now
        assert servers.identity("") == "", "no script compares a half"


async def test_each_server_of_a_cluster_is_met_by_itself(clock: Clock) -> None:
    servers = RedisServers()
    servers.cluster = True
    await connect(servers, Connection("x", "a", 1))
    clock.now = 11.0
    await connect(servers, Connection("y", "b", 2))
    assert (servers.met("a:1"), servers.met("b:2"), servers.met_at) == (10.0, 11.0, 11.0)
    assert servers.met("c:3") == math.inf


async def test_a_replica_that_takes_over_is_met_although_it_was_known(clock: Clock) -> None:
    """Its slots may be read from it without any new connection."""
    servers = RedisServers()
    servers.cluster = True
    servers.on_slots_refreshed(primaries("a:1"))
    await connect(servers, Connection("x", "a", 1))
    await connect(servers, Connection("y", "b", 2))
    clock.now = 11.0
    servers.on_slots_refreshed(primaries("a:1"))
    assert (servers.met("a:1"), servers.met("b:2")) == (10.0, 10.0)
    servers.on_slots_refreshed(primaries("a:1", "b:2"))
    assert (servers.met("a:1"), servers.met("b:2")) == (10.0, 11.0)
    assert servers.changes == 1


async def test_connections_to_the_former_server_are_left_and_those_to_the_new_one_kept(
    clock: Clock,
) -> None:
    servers = RedisServers()
    old, new, another = Connection("x"), Connection("y"), Connection("y")
    for each in (old, new, another):
        await connect(servers, each)
    assert [each.left for each in (old, new, another)] == [True, False, False]
    assert servers.changes == 1
