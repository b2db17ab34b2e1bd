"""A TCP proxy that can freeze, delay, or change its target, as a failing network does."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from tests.faults.background_loop import BackgroundLoop

CHUNK: Final = 64 * 1024


class Delay:
    """The delay (seconds) of the next answer on one connection."""

    seconds = 0.0


class Proxy:
    """Listens on `port` and passes every connection on to the port `target`."""

    def __init__(self, background: BackgroundLoop, port: int, target: int) -> None:
        self._background = background
        self._target = target
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._delays: dict[bytes, float] = {}
        self.delayed = 0
        background.run(self._start(), 10)

    def freeze(self) -> None:
        """Stop passing bytes on; connections stay open."""
        self._background.run(self._flow(False), 10)

    def thaw(self) -> None:
        """Pass bytes on again, first those that were held back."""
        self._background.run(self._flow(True), 10)

    def delay_answers(self, text: bytes, seconds: float) -> None:
        """Delay the answers to requests that contain the text; 0 seconds ends that."""
        self._delays[text] = seconds

    def switch(self, target: int) -> None:
        """Close every connection; connect new ones to another server."""
        self._background.run(self._switch(target), 10)

    def close(self) -> None:
        """Close every connection and stop listening."""
        self._background.run(self._close(), 10)

    async def _start(self) -> None:
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self._port)

    async def _flow(self, flowing: bool) -> None:
        if flowing:
            self._flowing.set()
        else:
            self._flowing.clear()

    async def _switch(self, target: int) -> None:
        self._target = target
        self._abort_all()

    async def _close(self) -> None:
        self._server.close()
        self._abort_all()
        self._flowing.set()
        await asyncio.sleep(0)

    def _abort_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, inner_writer}
        delay = Delay()
        await asyncio.gather(
            self._pump(reader, inner_writer, lambda chunk: self._mark(delay, chunk)),
            self._pump(inner_reader, writer, lambda _: self._wait(delay)),
        )
        self._writers -= {writer, inner_writer}

    async def _mark(self, delay: Delay, request: bytes) -> None:
        """Note the delay of the answer to this request."""
        delays = (seconds for text, seconds in self._delays.items() if text in request)
        delay.seconds = max(delays, default=0.0)

    async def _wait(self, delay: Delay) -> None:
        if delay.seconds:
            self.delayed += 1
            await asyncio.sleep(delay.seconds)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        before: Callable[[bytes], Awaitable[None]],
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                await before(chunk)
                await self._flowing.wait()
                writer.write(chunk)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class KeepingProxy(Proxy):
    """A proxy of Redis whose clients keep their connections when its target changes.

    With the next request of a client it replaces the connection behind, as the proxies of managed
    servers do. A reply that is on its way then is lost, and its client closes the connection.
    """

    def __init__(self, background: BackgroundLoop, port: int, target: int) -> None:
        self.port = port
        self._generation = 0
        super().__init__(background, port, target)

    def switch_keeping(self, target: int) -> None:
        """Pass all further requests on to another server; no client notices."""
        self._background.run(self._switch_keeping(target), 10)

    async def _switch_keeping(self, target: int) -> None:
        self._target, self._generation = target, self._generation + 1

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        inner: asyncio.StreamWriter | None = None
        replies: asyncio.Task[None] | None = None
        generation = -1
        with contextlib.suppress(OSError):
            while request := await reader.read(CHUNK):
                await self._flowing.wait()
                if inner is None or generation != self._generation:
                    if inner and replies:
                        replies.cancel()
                        inner.close()
                    generation = self._generation
                    inner_reader, inner = await asyncio.open_connection("127.0.0.1", self._target)
                    replies = asyncio.create_task(self._reply(inner_reader, writer))
                inner.write(request)
                await inner.drain()
        if inner and replies:
            inner.close()
            replies.cancel()
        writer.close()
        self._writers.discard(writer)

    async def _reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                writer.write(chunk)
                await writer.drain()
        writer.close()
