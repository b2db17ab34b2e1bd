"""A TCP proxy that can freeze or change its target, as a failing network does."""

import asyncio
import contextlib
from typing import Final

from tests.faults.background_loop import BackgroundLoop

CHUNK: Final = 64 * 1024


class Proxy:
    """Listens on `port` and passes every connection on to the port `target`."""

    def __init__(self, background: BackgroundLoop, port: int, target: int) -> None:
        self._background = background
        self._target = target
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        background.run(self._start(), 10)

    def freeze(self) -> None:
        """Stop passing bytes on; connections stay open."""
        self._background.run(self._flow(False), 10)

    def thaw(self) -> None:
        """Pass bytes on again, first those that were held back."""
        self._background.run(self._flow(True), 10)

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
        await asyncio.gather(self._pump(reader, inner_writer), self._pump(inner_reader, writer))
        self._writers -= {writer, inner_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                await self._flowing.wait()
                writer.write(chunk)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
