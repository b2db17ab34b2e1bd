"""No client may make the API hold or parse more of its request than a lookup can need."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

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
