"""Lookups answered inside uvicorn's protocol: the same bytes as its own way, and its manners."""

import ast
import asyncio
import contextlib
import gc
import inspect
import re
import textwrap
import weakref
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
import uvicorn
from redis.asyncio import Redis
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from api.app import LookupFirst
from api.bounded_protocol import MAX_HEAD_BYTES
from api.freshness import Freshness, Poll
from api.lookup import PATH, Lookup
from api.lookup_protocol import LOOKUP, TRACED, LookupCycle, LookupProtocol
from api.proofs import Proofs
from api.read_batcher import InTasks, ReadBatcher, Values
from api.stamps import Stamp
from projector.elapsed import elapsed
from projector.store import schema
from projector.store.schema import Version, ViewRecord
from tests.builders import digest

PATIENCE_S = 5.0
EPOCH = 7
BODIES = {200: b'{"allowed_agents":[]}', 401: b"", 403: b'{"message":"403"}', 503: b"{}"}
SLOW = "slow"


class UvicornWorld:
    """A lookup whose reads come when they are let, behind uvicorn; and both ways to it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.by_asgi = 0
        freshness = Freshness(cast(Redis, None))
        sent = elapsed()
        freshness.poll = Poll(sent, (Stamp(1, EPOCH, sent, sent),), sent, {})
        self.lookup = Lookup(
            ReadBatcher(InTasks(self.fetch)), freshness,
            Proofs(freshness, miss_grace=0.01, max_waiting=10), max_staleness=60,
        )  # fmt: skip
        self._first = LookupFirst(self.other, self.lookup)
        self.records = {
            schema.record_key(digest(f"token-{status}")): ViewRecord(
                status, 0, Version(EPOCH, 3), body
            ).encode()
            for status, body in BODIES.items()
        }

    async def fetch(self, keys: Sequence[str]) -> Values:
        self.asked += keys
        if schema.record_key(digest(SLOW)) in keys:
            await self.open.wait()
        return Values([self.records.get(key) for key in keys], [""] * len(keys))

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.by_asgi += scope["type"] == "http"
        await self._first(scope, receive, send)

    async def other(self, scope: Scope, _receive: Receive, send: Send) -> None:
        path = scope["path"].encode()
        length = str(len(path)).encode()
        await send(
            {"type": "http.response.start", "status": 404, "headers": [(b"content-length", length)]}
        )
        await send({"type": "http.response.body", "body": path})


class Served(uvicorn.Server):
    """The world behind uvicorn, with the lookup in its state or not."""

    def __init__(self, world: UvicornWorld, *, plainly: bool, **more: Any) -> None:
        super().__init__(
            uvicorn.Config(
                world.app, interface="asgi3", port=0, http=LookupProtocol, lifespan="off",
                log_config=None, access_log=False, server_header=False, **more,
            )
        )  # fmt: skip
        self._state = {} if plainly else {LOOKUP: world.lookup}

    async def startup(self, sockets: Any = None) -> None:
        self.lifespan.state.update(self._state)
        await super().startup(sockets)

    @property
    def port(self) -> int:
        return int(self.servers[0].sockets[0].getsockname()[1])


@contextlib.asynccontextmanager
async def serving(
    world: UvicornWorld, *, plainly: bool = False, **more: Any
) -> AsyncIterator[Served]:
    server = Served(world, plainly=plainly, **more)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    try:
        yield server
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def world() -> UvicornWorld:
    return UvicornWorld()


@pytest.fixture
async def server(world: UvicornWorld) -> AsyncIterator[Served]:
    async with serving(world) as server:
        yield server


class Client:
    """A connection, and what came over it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> bytes:
        """The next answer as it came, with any before it that only leads on (100)."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 100"):
                return head + await self.answer()
            length = re.search(rb"content-length: (\d+)", head)
            return head + (await self.reader.readexactly(int(length[1])) if length else b"")

    async def is_ended(self) -> bool:
        """Whether the server ends the connection, having sent nothing more."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read() == b""


@contextlib.asynccontextmanager
async def connected(server: Served) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


def get(token: str, *headers: str, target: str = PATH, version: str = "1.1") -> bytes:
    lines = [f"GET {target} HTTP/{version}", "Host: x", f"Job-Token: {token}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def eventually(holds: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


# the same as uvicorn's own way


async def all_of(world: UvicornWorld, request: bytes, *, plainly: bool) -> tuple[bytes, bool, int]:
    """Everything that comes back, whether the connection stays open, and how many were counted."""
    own = [("X-Own", "1")]
    async with serving(world, plainly=plainly, headers=own) as server, connected(server) as client:
        client.writer.write(request)
        came = await client.answer()
        client.writer.write(get("token-200", target="/end"))
        try:
            rest = await client.answer()
        except (asyncio.IncompleteReadError, ConnectionError):
            rest = b""
        count = server.server_state.total_requests
    return re.sub(rb"date: [^\r]+", b"date: now", came), bool(rest), count


PLAIN = [
    *(get(f"token-{status}") for status in BODIES),
    get("unknown"),
    get("not good"),
    get(""),
    get("", "Authorization: Bearer token-403"),
    get("", target=f"{PATH}?job_token=token-403"),
    get("", target=f"{PATH}?a=%41&job_token=token-403&b=c/?d"),
    get("", target=f"{PATH}?"),
    get("token-200", "Cache-Control: max-age=0"),
    get("token-200", "Connection: close"),
    get("token-200", "Connection: keep-alive"),
    get("token-200", version="1.0"),
    get("token-200", "Connection: keep-alive", version="1.0"),
]
OTHER = [
    get("token-200").replace(b"GET", b"POST"),
    get("token-200", target=f"{PATH}/"),
    get("token-200", target=f"{PATH}x?"),
    get("token-200", target=PATH.replace("j", "%6A")),
    get("token-200", target=f"http://x{PATH}"),
    get("token-200", target=f"{PATH}?job_token=a#b"),
    get("token-200", "Content-Length: 4") + b"body",
    get("token-200", "Transfer-Encoding: chunked") + b"4\r\nbody\r\n0\r\n\r\n",
    get("token-200", "Content-Length: 4", "Expect: 100-continue") + b"body",
    get("token-200", "Expect: 100-continue"),
    get("token-200", "Connection: upgrade", "Upgrade: websocket"),
    get("token-200", "Upgrade: h2c"),
]


@pytest.mark.parametrize("request_", PLAIN, ids=ascii)
async def test_a_plain_lookup_gets_the_bytes_that_it_would_get_by_asgi(request_: bytes) -> None:
    by_asgi, direct = UvicornWorld(), UvicornWorld()
    wanted = await all_of(by_asgi, request_, plainly=True)
    assert await all_of(direct, request_, plainly=False) == wanted
    assert by_asgi.by_asgi - direct.by_asgi == 1


@pytest.mark.parametrize("request_", OTHER, ids=ascii)
async def test_whatever_else_is_asked_goes_by_asgi(request_: bytes) -> None:
    by_asgi, direct = UvicornWorld(), UvicornWorld()
    wanted = await all_of(by_asgi, request_, plainly=True)
    assert await all_of(direct, request_, plainly=False) == wanted
    assert by_asgi.by_asgi == direct.by_asgi


@pytest.mark.parametrize("traced", [True, False])
async def test_where_lookups_are_traced_those_with_a_context_go_by_asgi(
    world: UvicornWorld, wired: LookupProtocol, traced: bool
) -> None:
    """Spans are begun there."""
    wired.app_state[TRACED] = traced
    wired = LookupProtocol(wired.config, wired.server_state, wired.app_state)
    wired.connection_made(Wire())
    for token, context in (("token-200", "traceparent: 00-1-1-01"), ("token-403", "a: b")):
        wired.data_received(get(token, context))
        await eventually(lambda: wired.cycle.response_complete)
    assert world.by_asgi == traced


async def test_a_request_may_come_byte_by_byte(world: UvicornWorld, server: Served) -> None:
    async with connected(server) as client:
        for byte in get("token-403", "Cache-Control: no-cache"):
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer()).startswith(b"HTTP/1.1 403 Forbidden\r\ndate: ")
    assert world.by_asgi == 0


async def test_each_of_many_lookups_may_have_large_headers(
    world: UvicornWorld, server: Served
) -> None:
    async with connected(server) as client:
        for _ in range(3):
            client.writer.write(get("token-403", "Filler: " + "x" * (MAX_HEAD_BYTES - 1000)))
            assert (await client.answer())[9:12] == b"403"
    assert world.by_asgi == 0


async def test_behind_a_root_path_it_is_another_path() -> None:
    world = UvicornWorld()
    async with serving(world, root_path="/x") as server, connected(server) as client:
        client.writer.write(get("token-200"))
        assert (await client.answer()).endswith(b"/x" + PATH.encode())


async def test_the_date_is_that_of_now(world: UvicornWorld, server: Served) -> None:
    async with connected(server) as client:
        for date in (b"one", b"another"):
            server.server_state.default_headers = [(b"date", date)]
            client.writer.write(get("token-200"))
            assert b"\r\ndate: " + date + b"\r\n" in await client.answer()


# many requests on one connection


async def test_pipelined_requests_of_both_ways_are_answered_in_their_order(
    world: UvicornWorld, server: Served
) -> None:
    world.open.clear()
    targets = [PATH, "/a", PATH, PATH, "/b", "/c", PATH]
    tokens = [SLOW, "token-403", "token-200", "token-401", "", "", "token-503"]
    async with connected(server) as client:
        pairs = zip(targets, tokens, strict=True)
        client.writer.write(b"".join(get(token, target=target) for target, token in pairs))
        await eventually(lambda: world.asked)
        world.records[schema.record_key(digest(SLOW))] = ViewRecord(
            200, 0, Version(EPOCH, 1), b"slow"
        ).encode()
        world.open.set()
        answers = [await client.answer() for _ in targets]
    assert [answer[9:12] for answer in answers] == [
        b"200", b"404", b"200", b"401", b"404", b"404", b"503",
    ]  # fmt: skip
    assert answers[0].endswith(b"slow")


async def test_of_pipelined_lookups_one_at_a_time_is_under_way(
    world: UvicornWorld, server: Served
) -> None:
    world.open.clear()
    async with connected(server) as client, connected(server) as other:
        client.writer.write(get(SLOW) + get("token-200") * 300)
        await eventually(lambda: world.asked)
        other.writer.write(get("token-403"))
        assert (await other.answer())[9:12] == b"403"
        assert len(world.asked) == 2
        connections = cast(set[LookupProtocol], server.server_state.connections)
        assert sorted(connection.flow.read_paused for connection in connections) == [False, True]
        world.open.set()
        statuses = {(await client.answer())[9:12] for _ in range(301)}
    assert statuses == {b"503", b"200"}


async def test_a_lookup_behind_an_answer_under_way_waits_for_it(
    world: UvicornWorld, server: Served
) -> None:
    async with connected(server) as client:
        client.writer.write(get("", target="/a") + get("token-403") + get("", target="/b"))
        assert [(await client.answer())[9:12] for _ in range(3)] == [b"404", b"403", b"404"]


# manners


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.written_too_late = b""
        self.closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        if self.closing:
            self.written_too_late += data
        else:
            self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@pytest.fixture
def wired(world: UvicornWorld) -> LookupProtocol:
    """The protocol alone, on a wire."""
    config = uvicorn.Config(world.app, interface="asgi3", log_config=None, access_log=False)
    protocol = LookupProtocol(config, ServerState(), {LOOKUP: world.lookup})
    protocol.connection_made(Wire())
    return protocol


async def test_a_client_that_does_not_read_has_its_answers_held_back(
    world: UvicornWorld, wired: LookupProtocol
) -> None:
    """Or they would fill the memory: the transport takes whatever it is given."""
    wire = cast(Wire, wired.transport)
    wired.data_received(get("token-200"))
    await eventually(lambda: wire.written)
    before = wire.written
    wired.pause_writing()
    wired.data_received(get("token-403"))
    await eventually(lambda: len(world.asked) == 2)
    for _ in range(10):
        await asyncio.sleep(0)
    assert wire.written == before
    wired.resume_writing()
    await eventually(lambda: b"403 Forbidden" in wire.written)


async def test_a_client_that_is_gone_gets_no_answer_and_is_not_counted(
    world: UvicornWorld, wired: LookupProtocol
) -> None:
    world.open.clear()
    wired.data_received(get(SLOW))
    await eventually(lambda: world.asked)
    wire = cast(Wire, wired.transport)
    wire.close()
    wired.connection_lost(None)
    world.open.set()
    await eventually(lambda: wired.cycle.response_complete)
    assert wire.written_too_late == b""
    assert wired.server_state.total_requests == 0
    assert not wired._pause_timer


async def test_a_connection_that_is_gone_needs_no_garbage_collector(world: UvicornWorld) -> None:
    """The collector would run for each few hundred connections."""
    config = uvicorn.Config(world.app, interface="asgi3", log_config=None, access_log=False)
    gc.disable()
    try:
        protocol = LookupProtocol(config, ServerState(), {LOOKUP: world.lookup})
        protocol.connection_made(Wire())
        wire = cast(Wire, protocol.transport)
        protocol.data_received(get("token-200"))
        await eventually(lambda: wire.written)
        protocol.connection_lost(None)
        gone = weakref.ref(protocol)
        del protocol
        await asyncio.sleep(0)
        assert gone() is None
    finally:
        gc.enable()


async def test_nothing_is_begun_after_the_last_answer(
    world: UvicornWorld, wired: LookupProtocol
) -> None:
    """Its timer would keep the connection in memory."""
    wired.data_received(get("token-200", "Connection: close") + get("token-403"))
    await eventually(lambda: cast(Wire, wired.transport).closing)
    assert len(world.asked) == 1
    assert wired._timer is None


async def test_an_idle_connection_is_ended_after_a_while(world: UvicornWorld) -> None:
    async with serving(world, timeout_keep_alive=0) as server, connected(server) as client:
        client.writer.write(get("token-200"))
        await client.answer()
        assert await client.is_ended()


async def test_a_pause_begins_with_the_last_answer(
    world: UvicornWorld, wired: LookupProtocol
) -> None:
    """The timer may be that of an earlier pause."""
    wire = cast(Wire, wired.transport)
    wired.data_received(get("token-200"))
    await eventually(lambda: wire.written)
    first = wired._pause_timer
    assert first
    wired.data_received(get("token-403")[:-2])
    wired._end_pause()
    assert not wired._pause_timer
    wired.data_received(get("token-403")[-2:])
    await eventually(lambda: b"403 Forbidden" in wire.written)
    assert wired._pause_timer
    wired._end_pause()
    assert not wire.closing
    assert wired._pause_timer
    wired._paused_at = wired.loop.time() - wired.timeout_keep_alive
    wired._end_pause()
    assert wire.closing


async def test_a_connection_that_ends_in_a_pause_leaves_no_timer(
    world: UvicornWorld, wired: LookupProtocol
) -> None:
    wired.data_received(get("token-200"))
    await eventually(lambda: wired._pause_timer)
    timer = wired._pause_timer
    assert timer
    wired.connection_lost(None)
    assert timer.cancelled()
    assert not wired._pause_timer


async def test_a_stop_waits_for_the_answer_under_way_and_ends_the_connections(
    world: UvicornWorld,
) -> None:
    world.open.clear()
    async with serving(world) as server, connected(server) as client, connected(server) as idle:
        idle.writer.write(get("token-200"))
        await idle.answer()
        client.writer.write(get(SLOW))
        await eventually(lambda: len(world.asked) == 2)
        server.should_exit = True
        assert await idle.is_ended()
        assert not client.reader.at_eof()
        world.open.set()
        answer = await client.answer()
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"\r\nconnection: close\r\n\r\n" in answer
        assert await client.is_ended()


async def test_a_server_with_a_limit_of_requests_counts_lookups(world: UvicornWorld) -> None:
    server = Served(world, plainly=False, limit_max_requests=3)
    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    async with connected(server) as client:
        for _ in range(3):
            client.writer.write(get("token-200"))
            await client.answer()
        async with asyncio.timeout(PATIENCE_S):
            await task
    assert server.server_state.total_requests == 3


async def test_a_lookup_may_take_longer_than_its_request(
    world: UvicornWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.bounded_protocol.REQUEST_TIMEOUT_S", 0.05)
    world.open.clear()
    async with serving(world) as server, connected(server) as client:
        client.writer.write(get(SLOW))
        await asyncio.sleep(0.15)
        world.open.set()
        assert (await client.answer())[9:12] == b"503"
        await asyncio.sleep(0.15)  # a pause between requests is no slow request
        for request in (get(""), get("token-200")):
            client.writer.write(request)
            assert (await client.answer())[9:12] in (b"401", b"200")
            await asyncio.sleep(0.15)


# what uvicorn relies on


def test_of_a_request_under_way_uvicorn_uses_nothing_that_a_lookup_has_not() -> None:
    source = ast.parse(textwrap.dedent(inspect.getsource(HttpToolsProtocol)))
    used = {
        node.attr
        for node in ast.walk(source)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) in ("self.cycle", "existing_cycle")
    }
    # A request with a body is no plain lookup.
    assert used - {"body"} == set(vars(LookupCycle()))
