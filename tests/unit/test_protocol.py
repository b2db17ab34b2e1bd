"""No client may make the API hold or parse more of its request than a lookup can need."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from api.protocol import MAX_HEAD_BYTES, BoundedHttpToolsProtocol

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\nfiller: %s\r\n\r\n"


async def hello(scope: Any, receive: Any, send: Any) -> None:
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
