"""A light HTTP client for lookups over a few kept connections."""

import asyncio
from typing import Final, Self
from urllib.parse import urlsplit

from tests.integration.deployment import PATH

CONNECTIONS: Final = 8
_LENGTH: Final = b"content-length: "


class Asker:
    """Looks tokens up at one API; a caller waits while no connection is free."""

    def __init__(self, url: str) -> None:
        self._place = urlsplit(url)
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        self._free = asyncio.Queue()

    async def __aenter__(self) -> Self:
        for _ in range(CONNECTIONS):
            place = self._place.hostname, self._place.port
            self._free.put_nowait(await asyncio.open_connection(*place))
        return self

    async def __aexit__(self, *_: object) -> None:
        while not self._free.empty():
            self._free.get_nowait()[1].close()

    async def ask(self, token: str) -> bytes:
        """Return the body of the token's answer."""
        reader, writer = connection = await self._free.get()
        try:
            writer.write(
                f"GET {PATH} HTTP/1.1\r\nHost: benchmark\r\nJob-Token: {token}\r\n\r\n".encode()
            )
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            start = head.index(_LENGTH) + len(_LENGTH)
            return await reader.readexactly(int(head[start : head.index(b"\r\n", start)]))
        finally:
            self._free.put_nowait(connection)
