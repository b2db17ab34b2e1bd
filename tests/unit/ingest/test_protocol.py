"""A body in chunks may have the bytes of a batch, and what is around its chunks only a few."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from api.bounded_protocol import MAX_HEAD_BYTES, BoundedHttpToolsProtocol
from projector.ingest.protocol import PART_BYTES, IngestProtocol

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
SMALL = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Server:
    """A server of this protocol; it keeps the lengths of bodies, and the headers."""

    def __init__(self, protocol: Any) -> None:
        config = uvicorn.Config(
            self.take, port=0, http=protocol, log_config=None, lifespan="off", interface="asgi3"
        )
        self._server = uvicorn.Server(config)
        self.lengths: list[int] = []
        self.headers: list[tuple[bytes, bytes]] = []

    async def take(self, scope: Any, receive: Any, send: Any) -> None:
        more, length = True, 0
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            length += len(message.get("body", b""))
            more = message.get("more_body", False)
        self.lengths.append(length)
        self.headers += scope["headers"]
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def statuses(self, *sent: bytes) -> list[int]:
        """Send these, and nothing more; return the statuses of all answers."""
        address = self._server.servers[0].sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address[:2])
        try:
            async with asyncio.timeout(20):
                for part in sent:
                    writer.write(part)
                    await writer.drain()
                writer.write_eof()
                came = await reader.read()
        except ConnectionError:
            # Closed while more came, so the answer may be lost.
            return [400]
        finally:
            writer.close()
        return [int(found) for found in re.findall(rb"HTTP/1.1 (\d{3})", came)]

    async def run(self) -> AsyncIterator["Server"]:
        serving = asyncio.create_task(self._server.serve())
        while not self._server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        yield self
        self._server.should_exit = True
        await serving


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async for running in Server(IngestProtocol).run():
        yield running


@pytest.mark.parametrize(
    "endless",
    [
        b"1\r\nx\r\n0\r\n" + b"a:b\r\n" * MAX_HEAD_BYTES,
        b"0\r\na: " + b"x" * 2 * MAX_HEAD_BYTES,
        b"0\r\n" + b"x" * 2 * MAX_HEAD_BYTES,
        b"1;" + b"x" * 2 * MAX_HEAD_BYTES,
        b"1\r\nx\r\n1;" + b"x" * 2 * MAX_HEAD_BYTES,
        b"0" * 2 * MAX_HEAD_BYTES,
    ],
    ids=["trailers", "trailer", "name", "extension", "later extension", "size"],
)
async def test_what_is_around_chunks_is_bounded(server: Server, endless: bytes) -> None:
    """Four clients without a token filled a gigabyte by trailers."""
    assert await server.statuses(HEAD, endless) == [400]


@pytest.mark.parametrize("size", [1, 50, 70_000, 1_000_000])
async def test_a_body_in_chunks_of_any_size_is_taken(server: Server, size: int) -> None:
    chunks = max(1, 300_000 // size)
    body = (b"%x\r\n" % size + b"\r" * size + b"\r\n") * chunks + b"0\r\nz: y\r\n\r\n"
    assert await server.statuses(HEAD + body + SMALL) == [204, 204]
    assert server.lengths == [chunks * size, 0]


async def test_no_part_holds_two_requests_wherever_its_end_is(server: Server) -> None:
    rest = b"\r\n0\r\n\r\n"
    for missing in range(-1, len(rest) + 2):
        body = b"x" * (PART_BYTES - len(b"xxxx\r\n") - missing)
        sent = HEAD + b"%x\r\n" % len(body) + body + rest + SMALL * 2
        assert await server.statuses(sent) == [204] * 3


@pytest.mark.parametrize("protocol", [IngestProtocol, BoundedHttpToolsProtocol])
async def test_a_trailer_is_no_header(protocol: Any) -> None:
    """A proxy that looks at `Authorization` looks at headers alone."""
    async for server in Server(protocol).run():
        sent = HEAD + b"1\r\nx\r\n0\r\nauthorization: Bearer x\r\n\r\n"
        assert await server.statuses(sent + SMALL) == [204, 204]
        assert {name for name, _ in server.headers} == {b"host", b"transfer-encoding"}
