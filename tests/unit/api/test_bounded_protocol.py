"""No client may make the API hold or parse more of its request than a lookup can need."""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl

from api.bounded_protocol import MAX_HEAD_BYTES, BoundedHttpToolsProtocol

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\nfiller: %s\r\n\r\n"


async def hello(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    config = uvicorn.Config(
        hello, port=0, http=BoundedHttpToolsProtocol, log_config=None, lifespan="off"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def status(port: int, *requests: bytes) -> list[bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = []
    for request in requests:
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(answer.lower().split(b"content-length: ")[1].split(b"\r")[0]))
        lines.append(answer.split(b"\r\n")[0])
    writer.close()
    return lines


async def test_large_headers_are_served_up_to_the_bound_on_every_request(port: int) -> None:
    request = REQUEST % (b"x" * (MAX_HEAD_BYTES - 100))
    assert await status(port, request, request, request) == [b"HTTP/1.1 200 OK"] * 3


async def test_larger_ones_are_refused_before_they_are_complete(port: int) -> None:
    endless = b"GET / HTTP/1.1\r\nfiller: " + b"x" * (2 * MAX_HEAD_BYTES)
    assert await status(port, endless) == [b"HTTP/1.1 400 Bad Request"]


async def test_they_are_counted_from_their_first_byte_on_every_request(port: int) -> None:
    small = REQUEST % b"x"
    endless = b"GET / HTTP/1.1\r\nfiller: " + b"x" * (MAX_HEAD_BYTES - 1000)
    rest = b"x" * 2000
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(small)
    await reader.readuntil(b"ok")
    writer.write(endless)
    await asyncio.sleep(0.1)
    writer.write(rest)
    assert b"400 Bad Request" in await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def test_many_small_headers_are_no_way_around(port: int) -> None:
    endless = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * MAX_HEAD_BYTES
    assert await status(port, endless) == [b"HTTP/1.1 400 Bad Request"]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests have to come so fast that a test need not wait."""
    monkeypatch.setattr("api.bounded_protocol.REQUEST_TIMEOUT_S", 0.2)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"", False),
        (b"GET / HT", False),
        (b"GET / HTTP/1.1\r\nhost: x\r\nslow: ", False),
        (REQUEST % b"x" + b"GET / HTTP/1.1\r\nslow: ", True),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nslow", True),
    ],
)
async def test_a_request_that_never_comes_to_an_end_is_given_up(
    port: int, sent: bytes, answered: bool
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    # uvicorn itself would end some of these after five seconds of idleness.
    async with asyncio.timeout(4):
        with contextlib.suppress(ConnectionResetError):
            assert bool(await reader.read(3)) == answered
            while await reader.read(1000):
                pass
    writer.close()


@pytest.mark.usefixtures("hurried")
async def test_bytes_that_are_no_request_keep_no_connection(port: int) -> None:
    """uvicorn ends its wait for the next request at the first of them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST % b"x")
    await reader.readuntil(b"ok")
    writer.write(b"\r\n")
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(3) == b""
    writer.close()


@pytest.mark.usefixtures("hurried")
async def test_an_answer_may_take_longer_than_its_request(port: int) -> None:
    assert await status(port, REQUEST.replace(b" / ", b" /slow ") % b"x") == [b"HTTP/1.1 200 OK"]
    behind = REQUEST.replace(b" / ", b" /slow ") % b"x" + b"GET / HTTP/1.1\r\nslow: "
    assert await status(port, behind) == [b"HTTP/1.1 200 OK"]


@pytest.mark.usefixtures("hurried")
async def test_a_pause_between_requests_is_no_slow_request(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(3):
        writer.write(REQUEST % b"x")
        await reader.readuntil(b"ok")
        await asyncio.sleep(0.3)  # longer than a request may take
    writer.close()


# requests sent ahead


PATIENCE_S = 10.0


async def everything(port: int, *sent: bytes) -> bytes:
    """All that comes back to a client that sends this, and says that there is no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in sent:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.02 if len(sent) > 1 else 0)
    writer.write_eof()
    async with asyncio.timeout(PATIENCE_S):
        came = await reader.read()
    writer.close()
    return came


def statuses(came: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1.1 (\d{3})", came)]


SMALL, SLOW = REQUEST % b"x", REQUEST.replace(b" / ", b" /slow ") % b"x"
POST = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        ([SLOW], 1),
        ([SMALL, SLOW], 2),
        ([SLOW + SMALL + SMALL], 3),
        ([SLOW, SMALL + SMALL], 3),
        ([SLOW + SMALL + SMALL[:-2]], 2),
        ([POST % (b"/slow", 4, b"body") + SMALL], 2),
        ([POST % (b"/slow", 9, b"body")], 0),
        ([SMALL[:-2]], 0),
        ([b""], 0),
    ],
)
async def test_a_client_that_has_said_all_gets_every_answer_and_then_an_end(
    port: int, caplog: pytest.LogCaptureFixture, sent: list[bytes], answers: int
) -> None:
    """RFC 9112, 9.6: a client may close its sending side first. The last one is incomplete."""
    assert statuses(await everything(port, *sent)) == [200] * answers
    assert caplog.records == []


async def test_a_client_that_is_gone_leaves_nothing_in_the_log(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    for sent in (SLOW, SLOW * 3, POST % (b"/slow", 4, b"body") + SLOW):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()
    await asyncio.sleep(0.7)
    assert caplog.records == []


async def test_the_bound_is_one_for_each_of_many_requests_that_come_at_once(port: int) -> None:
    many = SMALL * 2000
    assert len(many) > MAX_HEAD_BYTES
    assert statuses(await everything(port, many)) == [200] * 2000


@pytest.mark.parametrize(
    "large",
    [
        POST % (b"/", 70_000, b"x" * 70_000),
        POST % (b"/slow", 300_000, SMALL * 5000 + b"x" * (300_000 - 5000 * len(SMALL))),
        CHUNKED + b"8000\r\n" + b"x" * 0x8000 + b"\r\n0\r\ntrailer: x\r\n\r\n",
        REQUEST % (b"x" * (MAX_HEAD_BYTES - 100)),
    ],
    ids=["body", "body of requests", "chunks", "headers"],
)
async def test_what_comes_before_a_request_does_not_count_as_its_headers(
    port: int, large: bytes
) -> None:
    sent = [large + REQUEST % (b"x" * (MAX_HEAD_BYTES - 100)) + SMALL]
    assert statuses(await everything(port, *sent)) == [200] * 3


@pytest.mark.parametrize("cut", [1, 2, 3])
async def test_nor_does_it_where_the_end_of_headers_comes_in_two_parts(port: int, cut: int) -> None:
    large = REQUEST % (b"x" * (MAX_HEAD_BYTES // 2 + 1000))
    sent = large[:-cut], large[-cut:] + large, SMALL[:cut], SMALL[cut:]
    assert statuses(await everything(port, *sent)) == [200] * 3


@pytest.mark.parametrize("before", [SMALL, POST % (b"/", 4, b"body"), b"\r\n"])
async def test_headers_above_the_bound_are_refused_on_every_request(
    port: int, before: bytes
) -> None:
    large = REQUEST % (b"x" * (MAX_HEAD_BYTES + 1000))
    assert statuses(await everything(port, before, large))[-1] == 400
    assert statuses(await everything(port, before + large))[-1] == 400


@pytest.mark.parametrize(
    "endless",
    [CHUNKED + b"1\r\nx\r\n0\r\n" + b"a: b\r\n" * 12_000, b"\r\n" * 35_000],
    ids=["trailers", "empty lines"],
)
async def test_what_else_uvicorn_keeps_or_skips_has_the_same_bound(
    port: int, endless: bytes
) -> None:
    assert len(endless) > MAX_HEAD_BYTES
    assert statuses(await everything(port, endless))[-1] == 400


async def test_requests_that_wait_are_not_parsed(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parsed one takes a hundred times the memory of its bytes."""
    begun = []

    class Counted(httptools_impl.RequestResponseCycle):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            begun.append(self)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(httptools_impl, "RequestResponseCycle", Counted)
    many = b"GET /slow HTTP/1.1\r\n\r\n" + b"GET / HTTP/1.1\r\n\r\n" * 5000
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(many)
    assert await status(port, SMALL) == [b"HTTP/1.1 200 OK"]
    assert len(begun) == 2
    writer.write_eof()
    async with asyncio.timeout(PATIENCE_S):
        assert statuses(await reader.read()) == [200] * 5001
    writer.close()


async def test_what_is_no_request_does_not_take_the_answer_of_the_one_before(port: int) -> None:
    assert statuses(await everything(port, SLOW + SMALL + b"no HTTP\r\n\r\n" + SMALL)) == [
        200, 200, 400,
    ]  # fmt: skip


async def test_nothing_is_parsed_after_what_is_no_request(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Each further refusal would be a line in the log."""
    # Another test may have set the level of uvicorn's logger, which belongs to the process.
    caplog.set_level(logging.WARNING, "uvicorn.error")
    assert statuses(await everything(port, b"no HTTP\r\n\r\n" * 100)) == [400]
    # asyncio's debug mode reports slow steps of a busy machine.
    names = [record.name for record in caplog.records if record.name != "asyncio"]
    assert names == ["uvicorn.error"]
