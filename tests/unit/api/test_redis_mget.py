"""Reads of many keys over a wire, and what becomes of them when it has no list for an answer."""

import asyncio
import contextlib
import gc
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence

import hiredis
import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, ResponseError
from redis.exceptions import ConnectionError as LostConnectionError

from api.read_batcher import ReadBatcher, Values
from api.redis_mget import Mget
from api.redis_wire import take_over
from projector.store import schema

PATIENCE_S = 5.0
VALUES = {"a": b"A", "b": b"B", schema.OVERLAY: b"held"}
# The first connection: a read by redis-py has left it to the wire.
WIRED = 0
LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"


class RespServer:
    """A server of values on a socket; it sends each of `instead` once in the place of an answer.

    `reads` has the connection of each MGET, and its keys.
    """

    def __init__(self) -> None:
        self.instead: deque[bytes] = deque()
        self.piece = 1 << 16
        self.reads: list[tuple[int, list[str]]] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._ended = 0

    async def __aenter__(self) -> "RespServer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        while self._ended < len(self._writers):  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self._writers)
        self._writers.append(writer)
        commands = hiredis.Reader()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    await self._send(writer, self._answer(number, command))
        self._ended += 1

    def _answer(self, number: int, command: list[bytes]) -> bytes:
        if command[0] != b"MGET":
            return b"+OK\r\n"
        keys = [key.decode() for key in command[1:]]
        self.reads.append((number, keys))
        return self.instead.popleft() if self.instead else array(VALUES.get(key) for key in keys)

    async def _send(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        is_cut, answer = answer.endswith(b"cut"), answer.removesuffix(b"cut")
        for start in range(0, len(answer), self.piece):
            writer.write(answer[start : start + self.piece])
            if len(answer) > self.piece:
                await writer.drain()
                await asyncio.sleep(0)
        if is_cut:
            writer.close()

    @property
    def connections(self) -> list[int]:
        """The connection of each read so far."""
        return [number for number, _ in self.reads]


def array(values: Iterable[bytes | None]) -> bytes:
    parts = [b"$-1\r\n" if v is None else b"$%d\r\n%b\r\n" % (len(v), v) for v in values]
    return b"*%d\r\n" % len(parts) + b"".join(parts)


@pytest.fixture
async def server() -> AsyncIterator[RespServer]:
    async with RespServer() as server:
        yield server


@pytest.fixture
async def mget(server: RespServer) -> AsyncIterator[Mget]:
    """An `Mget` with an open wire."""
    redis = Redis(port=server.port, protocol=2, retry=Retry(NoBackoff(), 1))
    mget = Mget(redis)
    await read(mget, ["a"])
    await opened(mget)
    server.reads.clear()
    yield mget
    # The pool would not close the connection of a wire that is still being opened.
    if mget._opening:
        await asyncio.wait({mget._opening}, timeout=PATIENCE_S)
    await redis.aclose()


async def opened(mget: Mget) -> None:
    assert mget._opening is not None
    await asyncio.wait_for(mget._opening, PATIENCE_S)
    assert mget._wire is not None
    assert mget._wire.is_usable


def begin(mget: Mget, keys: Sequence[str]) -> asyncio.Future[Values]:
    result = asyncio.get_running_loop().create_future()

    def note(found: Values | Exception) -> None:
        if isinstance(found, Exception):
            result.set_exception(found)
        else:
            result.set_result(found)

    mget.start(keys, note)
    return result


async def read(mget: Mget, keys: Sequence[str]) -> Values:
    return await asyncio.wait_for(begin(mget, keys), PATIENCE_S)


async def test_the_values_come_in_the_order_of_the_keys_and_the_overlay_with_them(
    mget: Mget, server: RespServer
) -> None:
    by_wire = await read(mget, ["b", "missing", "a", "b"])
    assert by_wire == ([b"B", None, b"A", b"B"], [""] * 4, b"held")
    assert server.reads == [(WIRED, ["b", "missing", "a", "b", schema.OVERLAY])]
    assert await mget(["b", "missing", "a", "b"]) == by_wire


async def test_one_connection_serves_all_reads_and_none_waits_for_the_one_before(
    mget: Mget, server: RespServer
) -> None:
    reads = [begin(mget, [key]) for key in ("a", "b", "missing")]
    found = await asyncio.wait_for(asyncio.gather(*reads), PATIENCE_S)
    assert [each.values for each in found] == [[b"A"], [b"B"], [None]]
    assert set(server.connections) == {WIRED}


@pytest.mark.parametrize("size", [1, 2, 5])
async def test_an_answer_may_come_in_any_parts(mget: Mget, server: RespServer, size: int) -> None:
    server.piece = size
    reads = [begin(mget, ["a", "missing"]), begin(mget, ["b"])]
    found = await asyncio.wait_for(asyncio.gather(*reads), PATIENCE_S)
    assert [each.values for each in found] == [[b"A", None], [b"B"]]


@pytest.mark.parametrize(
    "instead",
    [LOADING, b"-READONLY no\r\n", b"+OK\r\n", b">2\r\n+message\r\n+x\r\n", b"$-1\r\n", b"*-1\r\n",
     b"no protocol\r\n", b"cut", b"*2\r\n$1\r\nAcut"],
    ids=ascii,
)  # fmt: skip
async def test_what_is_not_a_list_is_asked_again_by_redis_py_and_so_is_all_behind_it(
    mget: Mget, server: RespServer, instead: bytes
) -> None:
    server.instead.append(instead)
    reads = [begin(mget, ["a"]), begin(mget, ["b"])]
    found = await asyncio.wait_for(asyncio.gather(*reads), PATIENCE_S)
    assert [each.values for each in found] == [[b"A"], [b"B"]]
    await opened(mget)
    assert set(server.connections) > {WIRED}
    before = server.connections.count(WIRED)
    assert (await read(mget, ["b"])).values == [b"B"]
    assert server.connections.count(WIRED) == before


async def test_what_redis_refuses_is_the_error_that_redis_py_makes_of_it(
    mget: Mget, server: RespServer
) -> None:
    for error, kind in ((LOADING, BusyLoadingError), (b"-NOPERM no\r\n", ResponseError)):
        server.instead += [error] * 10
        with pytest.raises(kind):
            await read(mget, ["a"])
        server.instead.clear()
        assert (await read(mget, ["a"])).values == [b"A"]
        await opened(mget)


async def test_an_answer_that_no_one_asked_for_ends_the_wire(
    mget: Mget, server: RespServer
) -> None:
    """It would be taken for that of the next read."""
    server.instead.append(array([b"A", None]) + array([b"wrong", None]))
    assert (await read(mget, ["a"])).values == [b"A"]
    assert (await read(mget, ["b"])).values == [b"B"]


async def test_a_read_that_is_given_up_leaves_nothing_for_the_next(
    mget: Mget, server: RespServer
) -> None:
    """Its answer may still come, and would be taken for that of the next read."""
    server.instead.append(b"*2\r\n")
    late: list[object] = []
    give_up = mget.start(["a"], late.append)
    behind = begin(mget, ["b"])
    await asyncio.sleep(0.01)
    give_up()
    assert (await asyncio.wait_for(behind, PATIENCE_S)).values == [b"B"]
    assert (await read(mget, ["b", "b"])).values == [b"B", b"B"]
    assert late == []
    await opened(mget)


async def test_a_read_that_redis_py_has_taken_over_may_be_given_up_too(
    mget: Mget, server: RespServer
) -> None:
    """Its wire has ended then, and may have been followed by another."""
    server.instead += [LOADING, b""]
    late: list[Values | Exception] = []
    give_up = mget.start(["a"], late.append)
    async with asyncio.timeout(PATIENCE_S):
        while len(server.reads) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert (await read(mget, ["b"])).values == [b"B"]
    await opened(mget)
    give_up()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [type(each) for each in late] == [TimeoutError]
    await opened(mget)
    assert not mget._by_redis_py._tasks


@pytest.mark.parametrize("values", [[], [b"A"], [b"A", None, None]], ids=repr)
async def test_a_list_of_another_length_is_no_answer_and_ends_the_wire(
    mget: Mget, server: RespServer, values: list[bytes | None]
) -> None:
    """The lists behind it may be those of other reads too."""
    wire = mget._wire
    assert wire is not None
    server.instead.append(array(values))
    reads = [begin(mget, ["a"]), begin(mget, ["b"])]
    found = await asyncio.wait_for(asyncio.gather(*reads), PATIENCE_S)
    assert [each.values for each in found] == [[b"A"], [b"B"]]
    assert not wire.is_open
    await opened(mget)


async def test_a_read_that_is_over_needs_no_garbage_collector(mget: Mget) -> None:
    reads = ReadBatcher(mget.start)
    came = asyncio.Event()

    def take(*_: object) -> None:
        came.set()

    gone = weakref.ref(take)
    gc.disable()
    try:
        reads.ask("a", take)
        del take
        await asyncio.wait_for(came.wait(), PATIENCE_S)
        assert gone() is None
    finally:
        gc.enable()


async def test_a_silent_server_costs_its_own_reads_their_time_and_no_more(
    mget: Mget, server: RespServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.read_batcher.MAX_BATCH", 1)
    # So the first check finds both batches late.
    monkeypatch.setattr("api.read_batcher.WATCH_INTERVAL_S", 0.2)
    monkeypatch.setattr("api.read_batcher.TIMEOUT_S", 0.1)
    reads = ReadBatcher(mget.start)
    server.instead += [b"", b""]
    late = asyncio.gather(reads.get("a"), reads.get("missing"), return_exceptions=True)
    found = await asyncio.wait_for(late, PATIENCE_S)
    assert [type(each) for each in found] == [TimeoutError] * 2
    assert await asyncio.wait_for(reads.get("b"), PATIENCE_S) == (b"B", "", b"held")
    assert [keys[0] for _, keys in server.reads] == ["a", "missing", "b"]
    # A task leaves the set a turn after its end, and Python 3.12 waits a turn less for the read.
    await asyncio.sleep(0)
    assert not mget._by_redis_py._tasks
    await opened(mget)


async def test_a_connection_from_before_another_server_answered_is_given_back(
    mget: Mget, server: RespServer
) -> None:
    wire = mget._wire
    assert wire is not None
    under_way = begin(mget, ["a"])
    wire.connection.mark_for_reconnect()  # type: ignore[no-untyped-call]
    assert (await read(mget, ["b"])).values == [b"B"]
    assert (await asyncio.wait_for(under_way, PATIENCE_S)).values == [b"A"]
    await opened(mget)
    assert mget._wire is not wire
    await read(mget, ["a"])
    assert server.connections[-1] != WIRED
    # That of the wire alone.
    assert len(mget._pool._in_use_connections) == 1


async def test_a_pool_that_is_closed_takes_the_connection_of_the_wire_with_it(
    mget: Mget,
) -> None:
    wire = mget._wire
    assert wire is not None
    await mget._redis.aclose()
    await asyncio.sleep(0)
    assert not wire.is_open


async def test_a_connection_with_bytes_that_are_not_read_yet_is_not_taken_over(
    mget: Mget, server: RespServer
) -> None:
    """They would be lost, and what follows them would be no answer."""
    connection = await mget._pool.get_connection()  # type: ignore[no-untyped-call]
    await connection.send_command("PING")
    async with asyncio.timeout(PATIENCE_S):
        while not await connection.can_read():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert await take_over(connection) is None
    assert await connection.read_response() == b"OK"
    assert await take_over(connection) is not None


async def test_a_connection_that_breaks_while_it_is_taken_over_is_given_back(
    server: RespServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_connection: object) -> None:
        raise LostConnectionError("gone")

    monkeypatch.setattr("api.redis_mget.take_over", fail)
    redis = Redis(port=server.port, protocol=2)
    mget = Mget(redis)
    await read(mget, ["a"])
    assert mget._opening is not None
    await asyncio.wait_for(mget._opening, PATIENCE_S)
    assert not redis.connection_pool._in_use_connections
    await redis.aclose()


async def test_connections_that_are_no_streams_are_left_to_redis_py() -> None:
    redis = FakeAsyncRedis(server=FakeServer())
    await redis.mset({"a": "A"})
    mget = Mget(redis)
    for _ in range(3):
        assert (await read(mget, ["a"])).values == [b"A"]
        assert mget._opening is not None
        await mget._opening
    assert mget._wire is None
    assert not redis.connection_pool._in_use_connections
    await redis.aclose()


async def test_while_redis_is_away_every_read_fails_and_then_works_again() -> None:
    server = FakeServer()
    redis = FakeAsyncRedis(server=server)
    mget = Mget(redis)
    assert (await read(mget, ["a"])).values == [None]
    server.connected = False
    for _ in range(3):
        with pytest.raises(LostConnectionError):
            await read(mget, ["a"])
    server.connected = True
    assert (await read(mget, ["a"])).values == [None]
    await redis.aclose()
