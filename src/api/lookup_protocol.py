"""Lookups answered between the HTTP parser and the socket; ASGI would cost more CPU than a lookup.

Any other request goes through uvicorn to the application, which answers lookups alike. A lookup
under way is the protocol's `cycle`. So the requests after it wait, and uvicorn times the pauses and
closes connections, as for any other request.

A connection has one lookup under way at a time. So it has one object for its lookups, and one for
their cycle, and makes neither a task nor an ASGI scope for a lookup.
"""

import asyncio
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from api.bounded_protocol import BoundedHttpToolsProtocol
from api.lookup import PATH, Asked, Lookup
from api.lookup_request import VISIBLE_ASCII, parse_request

# Names in the state of the application's lifespan: its `Lookup`, and whether it begins spans for
# requests that carry a trace context.
LOOKUP: Final = "lookup"
TRACED: Final = "traced"

_PATH: Final = PATH.encode()
_WITH_QUERY: Final = _PATH + b"?"
# Headers of a request that has a body, changes the protocol, or waits for 100-continue.
_UNUSUAL: Final = frozenset((b"content-length", b"transfer-encoding", b"upgrade", b"expect"))
_UNUSUAL_OR_TRACED: Final = _UNUSUAL | {b"traceparent"}
_CLOSE: Final = b"connection: close\r\n"


class LookupCycle:
    """A lookup under way, with the attributes of uvicorn's `RequestResponseCycle`."""

    def __init__(self) -> None:
        self.keep_alive = True
        self.response_complete = True
        self.disconnected = False
        self.more_body = False
        self.message_event = asyncio.Event()


class LookupProtocol(BoundedHttpToolsProtocol):
    """Answers plain lookups with the `Lookup` of the application's state."""

    # The headers that uvicorn adds to every answer, and renews every second.
    _default_headers: ClassVar[list[tuple[bytes, bytes]]] = []
    _default_head = b""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        lookup: Lookup | None = None if self.root_path else self.app_state.get(LOOKUP)
        self._asked = Asked(lookup, self._answer) if lookup else None
        self._unusual = _UNUSUAL_OR_TRACED if self.app_state.get(TRACED) else _UNUSUAL
        self._looking_up = LookupCycle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the lookups: their callback holds this, so only the collector would free it."""
        super().connection_lost(exc)
        self._asked = None

    def on_message_begin(self) -> None:
        """Begin a request, without uvicorn's scope, which a lookup does not need."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Begin a lookup, or let uvicorn handle the request."""
        asked = self._asked
        if asked is None or not self._is_plain_lookup():
            self._begin_scope()
            super().on_headers_complete()
            return
        cycle = self._looking_up
        self.cycle = cycle  # type: ignore[assignment]
        cycle.response_complete = False
        # HTTP/1.0 would have to ask for it, and uvicorn does not grant it.
        cycle.keep_alive = self.parser.should_keep_alive() and (
            b"connection" not in self._names or self.parser.get_http_version() != "1.0"
        )
        request = parse_request(self.headers, self.url[len(_WITH_QUERY) :])
        asked.lookup.ask_as(asked, request)

    def _begin_scope(self) -> None:
        """Begin the request as uvicorn does, with what has come of it."""
        url, expect_100_continue, headers = self.url, self.expect_100_continue, self.headers
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect_100_continue
        self.headers += headers

    def _is_plain_lookup(self) -> bool:
        url = self.url
        self._names = [name for name, _ in self.headers]
        return (
            (url == _PATH or (url.startswith(_WITH_QUERY) and _is_plain(url)))
            and self.parser.get_method() == b"GET"
            and not self.flow.write_paused
            and self._unusual.isdisjoint(self._names)
        )

    def _answer(self, status: int, head: bytes, body: bytes) -> None:
        cycle = self._looking_up
        cycle.response_complete = True
        if self.transport.is_closing():
            return
        end = b"\r\n" if cycle.keep_alive else _CLOSE + b"\r\n"
        parts = (STATUS_LINE[status], self._defaults(), head, end, body)
        self.transport.write(b"".join(parts))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _defaults(self) -> bytes:
        headers = self.server_state.default_headers
        if headers is not LookupProtocol._default_headers:
            lines = [name.lower() + b": " + value + b"\r\n" for name, value in headers]
            LookupProtocol._default_headers = headers
            LookupProtocol._default_head = b"".join(lines)
        return LookupProtocol._default_head


def _is_plain(url: bytes) -> bool:
    return b"#" not in url and not url.translate(None, VISIBLE_ASCII)
