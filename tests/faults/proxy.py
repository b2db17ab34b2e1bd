"""A TCP proxy that can freeze, and lead elsewhere: a network that fails while both ends live."""

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
        """Pass nothing on any more: connections stay, and nobody answers."""
        self._background.run(self._flow(False), 10)

    def thaw(self) -> None:
        """Pass on again, first what was held back."""
        self._background.run(self._flow(True), 10)

    def switch(self, target: int) -> None:
        """Cut every connection; new ones lead to another server."""
        self._background.run(self._switch(target), 10)

    def close(self) -> None:
        """Cut every connection and listen no more."""
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
        self._cut()

    async def _close(self) -> None:
        self._server.close()
        self._cut()
        self._flowing.set()
        await asyncio.sleep(0)

    def _cut(self) -> None:
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
