"""HEAD, and the headers of every answer that is not a lookup's own."""

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_READ: Final = "GET, HEAD"


class HttpSemantics:
    """Answers HEAD like GET, and keeps answers out of caches.

    HTTP lets any cache store a 404 or 405 that does not forbid it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""

        async def send_uncached(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("cache-control", "no-store")
                if message["status"] == 405 and "GET" in headers.get("allow", "GET"):
                    headers["allow"] = _READ
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            # The server leaves out the body, since its own scope still has the client's method.
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send_uncached)
