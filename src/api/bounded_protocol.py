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
TOO_LARGE: Final = "The headers, or a body in chunks, are larger than 64 KiB."
# Until a request has arrived, or the first one of a new connection; against slow clients.
REQUEST_TIMEOUT_S: Final = 10.0
# Files that a process has open besides its clients: Redis, logs, code.
OTHER_FILES: Final = 100
# The end of a request's line and headers, and of a body in chunks.
END: Final = b"\r\n\r\n"


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
    `limit_concurrency` but keeps such connections. It parses all requests that come at once. Here
    each waits as bytes for the answer to the one before: parsed, it takes far more memory. So
    uvicorn's `pipeline` stays empty.

    uvicorn sets a timer for each pause, and stops it at the next request. That costs 0.5 us of a
    request. Here a connection has one, which looks every few seconds whether the pause was long.
    """

    refused = 0
    max_head_bytes = MAX_HEAD_BYTES
    # Received, not parsed yet: requests that wait, or what may begin the end of a head.
    _unparsed = b""
    # The client has sent everything.
    _ended = False
    # Of the request that is parsed: its line and headers, and a body in chunks.
    _head_bytes = 0
    # What is missing of a body whose length is known.
    _body_left = 0
    # A complete request is not answered yet.
    _answering = False
    _timer: asyncio.TimerHandle | None = None
    # The beginning of the present pause between two requests, by the loop's clock.
    _paused_at: float | None = None
    _pause_timer: asyncio.TimerHandle | None = None

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
        """Stop the timers of a connection that has ended; they would keep it in memory."""
        self._stop_timer()
        if self._pause_timer:
            self._pause_timer.cancel()
            self._pause_timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse up to the end of a request; keep what follows until that is answered."""
        if self._unparsed:
            data = self._unparsed + data
        start = 0
        while not self._answering and (end := self._end_of_part(data, start)) > start:
            self._parse(data[start:end])
            start = end
        self._unparsed = data[start:]
        if self._answering:
            if self._unparsed:
                self.flow.pause_reading()
        # uvicorn closes idle connections, but not if bytes came that are not a request.
        elif self._timer is None:
            self._start_timer()

    def _end_of_part(self, data: bytes, start: int) -> int:
        """Return where to stop, so that no part holds bytes of two requests."""
        if self._body_left:
            return min(len(data), start + self._body_left)
        end = data.find(END, start)
        return end + len(END) if end >= 0 else max(start, len(data) - len(END) + 1)

    def _parse(self, part: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._body_left:
            self._body_left -= len(part)
        else:
            self._head_bytes += len(part)
            if self._head_bytes > self.max_head_bytes:
                self.send_400_response(TOO_LARGE)
                return
        super().data_received(part)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection of a client that has sent everything, if it waits for an answer."""
        self._ended = True
        return self._answering

    def on_headers_complete(self) -> None:
        """Begin the request; its body is counted by its length, or else with the headers."""
        self._body_left = sum(int(length) for n, length in self.headers if n == b"content-length")
        super().on_headers_complete()
        # For trailers, which count as no headers: no proxy before this process looks at them.
        self.headers = []

    def on_message_complete(self) -> None:
        """Stop the timer: the request is complete."""
        self._answering = not self.cycle.response_complete
        self._head_bytes = self._body_left = 0
        if self._timer:
            self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with what came meanwhile; end the connection if the client has sent everything."""
        self._answering = False
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._paused_at = self.loop.time()
        if self._pause_timer is None:
            self._look_after(self.timeout_keep_alive)
        if self._unparsed or self._ended:
            self.data_received(b"")
            if self._ended and not self._answering:
                self.transport.close()

    def _unset_keepalive_if_required(self) -> None:
        """Note the end of a pause: uvicorn calls this when bytes have come."""
        self._paused_at = None

    def _look_after(self, seconds: float) -> None:
        self._pause_timer = self.loop.call_later(seconds, self._end_pause)

    def _end_pause(self) -> None:
        """Close the connection if the pause was too long; look again when it may be."""
        self._pause_timer = None
        if self._paused_at is None:
            return
        left = self._paused_at + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._look_after(left)
        else:
            self.timeout_keep_alive_handler()

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
