"""uvicorn's HTTP protocol with bounds on a client's bytes, time and connections."""

import asyncio
import resource
from typing import Any, Final

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from projector.config.env import variable_name
from projector.errors import OperatorError

log = structlog.get_logger()

# The longest token, percent-encoded three times, and the headers that proxies add.
MAX_HEAD_BYTES: Final = 64 * 1024
# Until a request has arrived, or the first one of a new connection; against slow clients.
REQUEST_TIMEOUT_S: Final = 10.0
# Files that a process has open besides its clients: Redis, logs, code.
OTHER_FILES: Final = 100


def allow_connections(most: int) -> None:
    """Raise this process's limit of open files for so many connections; raises `OperatorError`."""
    needed = most + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise OperatorError(
            f"{variable_name('max_connections')}: {most} connections need {needed} open files, and "
            f"this process may have {hard}; set it lower, or raise that limit (ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class BoundedHttpToolsProtocol(HttpToolsProtocol):
    """Refuses requests that are too large, too slow, or on too many connections at once.

    httptools has no bounds. uvicorn times only the pauses between requests, and answers 503 beyond
    `limit_concurrency` but keeps such connections.
    """

    refused = 0
    _in_head = True
    _head_bytes = 0
    _chunk_bytes = 0
    _incomplete = True
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_connections, self.limit_concurrency = self.limit_concurrency, None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, or close it at once if there are too many."""
        super().connection_made(transport)
        if self._max_connections and len(self.connections) > self._max_connections:
            self._refuse()
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer of a connection that has ended."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass bytes to the parser, or refuse headers that are too large."""
        self._chunk_bytes = len(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("The request's headers are too large.")
                return
        super().data_received(data)
        # uvicorn closes idle connections, but not if bytes came that are not a request.
        if self._timer is None and (self._incomplete or self._is_idle):
            self._start_timer()

    def on_message_begin(self) -> None:
        """Count the request's headers from here; it begins within the present chunk."""
        self._in_head, self._head_bytes = True, self._chunk_bytes
        self._incomplete = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop counting: a body may follow, which is not read."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop the timer: the request is complete."""
        self._incomplete = False
        self._stop_timer()
        super().on_message_complete()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(REQUEST_TIMEOUT_S, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        """Close a connection whose request is late, but let an earlier one be answered first."""
        if self._is_idle:
            self.transport.abort()
        else:
            self._start_timer()

    def _refuse(self) -> None:
        # Logged at powers of two, so that a flood of connections does not fill the log.
        BoundedHttpToolsProtocol.refused = count = self.refused + 1
        if count & (count - 1) == 0:
            log.warning("too many connections", most=self._max_connections, refused=count)
        self.transport.abort()
