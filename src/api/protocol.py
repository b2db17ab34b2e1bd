"""uvicorn's HTTP protocol with a bound on what a request may say before its answer begins."""

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# The longest token, percent-encoded three times over, and every header a proxy adds.
MAX_HEAD_BYTES: Final = 64 * 1024


class BoundedHttpToolsProtocol(HttpToolsProtocol):
    """Refuses requests whose line and headers are larger; httptools itself knows no bound."""

    _in_head = True
    _head_bytes = 0
    _chunk_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Take what the client sent, unless it is still in its headers and too much."""
        self._chunk_bytes = len(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("The request's headers are too large.")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A request begins, somewhere within the chunk at hand."""
        self._in_head, self._head_bytes = True, self._chunk_bytes
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its headers are complete; what follows is a body, which nobody reads."""
        self._in_head = False
        super().on_headers_complete()
