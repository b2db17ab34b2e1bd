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
