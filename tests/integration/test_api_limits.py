"""Limits of the API: one client cannot exhaust it for other clients."""

import asyncio
import hashlib
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from api import bounded_protocol
from projector.errors import OperatorError
from projector.ports import is_listening
from projector.store import schema
from tests.integration import servers
from tests.integration.deployment import PATH, Deployment
from tests.integration.ports import free_port

WAITING, CONNECTIONS = 20, 60
KNOWN = "token-9"
EPOCH = 1


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """Start only the API, with one known token and a stamp that never changes."""
    port = free_port()
    with servers.running(servers.valkey(tmp_path, port)):
        servers.eventually(lambda: is_listening(port), "Valkey listening")
        with Deployment("127.0.0.1:1", port, "limits.", tmp_path) as deployment:
            store_one_view(deployment.redis)
            deployment.start_api(
                PROJECTOR_MAX_WAITING=str(WAITING),
                PROJECTOR_MAX_CONNECTIONS=str(CONNECTIONS),
                PROJECTOR_MISS_GRACE="300",
                PROJECTOR_MAX_STALENESS="300",
            )
            servers.eventually(lambda: deployment.look_up(KNOWN).status == 200, "the known token")
            deployment.client.close()
            yield deployment


def store_one_view(server: Any) -> None:
    seconds, _ = server.time()
    version = schema.Version(EPOCH, 1)
    record = schema.ViewRecord(200, 0, version, b'{"allowed_agents":[]}')
    server.set(schema.TOKENS + hashlib.sha256(KNOWN.encode()).hexdigest(), record.encode())
    stamp = {"stamp": seconds * 1000, "stamp_epoch": EPOCH}
    server.hset(schema.partition_key(0), mapping=stamp)
    server.set(schema.PARTITIONS_KEY, 1)


class Clients:
    """Any number of raw connections to the API."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Clients":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def send(self, data: bytes, *, everything: bool = False) -> asyncio.StreamReader:
        """Send data; with `everything` also that no more will come."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._stack.callback(writer.close)
        writer.write(data)
        await writer.drain()
        if everything:
            writer.write_eof()
        return reader

    async def status(self, data: bytes) -> bytes:
        """Send data; return the status of the first answer, empty if the API closed first."""
        try:
            async with asyncio.timeout(30):
                return (await (await self.send(data)).readline())[9:12]
        except ConnectionError:
            return b""

    async def until_waiting(self, count: int) -> None:
        """Wait until `count` tokens wait for their proof; parallel reads may overtake."""
        wanted = f"projector_api_misses_waiting {float(count)}".encode()
        async with asyncio.timeout(30):
            request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            while wanted not in await (await self.send(request)).read():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def until(self, wanted: bytes, data: bytes) -> None:
        """Repeat the request until the answer has this status."""
        async with asyncio.timeout(30):
            while await self.status(data) != wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def lookup(token: str, *headers: str, query: str = "") -> bytes:
    lines = [f"GET {PATH}{query} HTTP/1.1", "Host: x", f"Job-Token: {token}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def answered(readers: list[asyncio.StreamReader]) -> bool:
    """Return whether any connection has received a byte or was closed."""
    tasks = [asyncio.create_task(reader.read(1)) for reader in readers]
    done, pending = await asyncio.wait(tasks, timeout=0)
    for task in pending:
        task.cancel()
    return bool(done)


LARGE = [
    lookup(KNOWN, query="?" + "&" * 60_000),
    lookup(KNOWN, query="?" + "a=%41&" * 10_000),
    lookup(KNOWN, query="?" + "job_token=&" * 5_000),
    lookup(KNOWN, *["a:b"] * 10_000),
    lookup(KNOWN, *["cache-control: max-age=9999999999"] * 1_500),
    lookup(KNOWN, "cache-control: " + "max-age" * 8_000),
    lookup(KNOWN, "cookie: " + "x" * 60_000),
]


@pytest.fixture
async def clients(deployment: Deployment) -> AsyncIterator[Clients]:
    async with Clients(int(deployment.api.rpartition(":")[2])) as clients:
        yield clients


async def test_a_flood_of_unknown_tokens_waits_in_a_bounded_room(clients: Clients) -> None:
    waiting = [await clients.send(lookup(f"unknown-{n}")) for n in range(WAITING)]
    await clients.until_waiting(WAITING)
    await clients.until(b"503", lookup("one-more"))
    assert await clients.status(lookup(KNOWN)) == b"200"
    assert not await answered(waiting)


async def test_pipelined_requests_wait_for_each_other_and_nobody_for_them(clients: Clients) -> None:
    many = b"".join(lookup(f"unknown-{n}") for n in range(500))
    reader = await clients.send(many)
    for _ in range(WAITING - 1):
        assert await clients.status(lookup(KNOWN)) == b"200"
    others = [await clients.send(lookup(f"other-{n}")) for n in range(WAITING - 1)]
    await clients.until_waiting(WAITING)
    await clients.until(b"503", lookup("one-more"))
    # Only one of the 500 waits; otherwise the others would not have found room.
    assert not await answered([reader, *others])


async def test_a_client_that_has_sent_everything_gets_its_answers(
    deployment: Deployment, clients: Clients
) -> None:
    (log,) = deployment.folder.glob("api-*.log")
    before = log.read_text()
    health = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    for sent in (lookup(KNOWN), lookup(KNOWN) * 3, lookup(KNOWN) * 1000, health + lookup(KNOWN)):
        requests = sent.count(b"HTTP/1.1")
        reader = await clients.send(sent, everything=True)
        async with asyncio.timeout(30):
            assert (await reader.read()).count(b"HTTP/1.1 200 OK") == requests
    assert log.read_text() == before


async def test_connections_beyond_the_bound_are_closed_and_those_within_are_served(
    clients: Clients,
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", clients.port)
    slow = [await clients.send(b"GET / HTTP/1.1\r\nslow: ") for _ in range(CONNECTIONS - 1)]
    await clients.until(b"", lookup(KNOWN))
    writer.write(lookup(KNOWN))
    assert (await reader.readline())[9:12] == b"200"
    writer.close()
    assert not [one for one in slow if one.at_eof()]


async def test_the_largest_requests_are_answered_like_any_other(clients: Clients) -> None:
    for request in LARGE:
        assert len(request) < bounded_protocol.MAX_HEAD_BYTES
        assert await clients.status(request) == b"200"
        assert await clients.status(lookup(KNOWN)) == b"200"


async def test_what_is_no_http_fills_no_log(deployment: Deployment, clients: Clients) -> None:
    (log,) = deployment.folder.glob("api-*.log")
    before = log.read_text()
    for malformed in (
        b"\x16\x03\x01\r\n\r\n",
        b"GET\r\n\r\n",
        lookup(KNOWN)[:30] + b"\x00\r\n\r\n",
    ):
        assert await clients.status(malformed) == b"400"
    upgrade = lookup(KNOWN, "Connection: upgrade", "Upgrade: websocket")
    assert await clients.status(upgrade) == b"200"
    assert log.read_text() == before


def test_more_connections_than_files_may_be_open_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))
    with pytest.raises(
        OperatorError, match=r"PROJECTOR_MAX_CONNECTIONS: 901 .* need 1001 open files"
    ):
        bounded_protocol.allow_connections(901)
    assert given == []
    bounded_protocol.allow_connections(900)
    assert given == [(1000, 1000)]
    bounded_protocol.allow_connections(100)
    assert given == [(1000, 1000)]
