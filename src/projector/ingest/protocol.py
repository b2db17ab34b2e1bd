"""The bounded HTTP protocol, with larger bodies in chunks."""

from typing import Any

from api.bounded_protocol import MAX_HEAD_BYTES, BoundedHttpToolsProtocol
from projector.ingest.http_events import MAX_BATCH_BYTES

# The sizes and ends of chunks: a client may send each byte as a chunk of its own.
CHUNK_OVERHEAD = 8


class IngestProtocol(BoundedHttpToolsProtocol):
    """Bounds the head of a request, and separately a body in chunks.

    The application counts a body's own bytes, and times it.
    """

    def on_headers_complete(self) -> Any:
        """Begin the request; from here on a body in chunks may have the bytes of a batch."""
        self.max_head_bytes = MAX_HEAD_BYTES + CHUNK_OVERHEAD * MAX_BATCH_BYTES
        super().on_headers_complete()

    def on_message_complete(self) -> Any:
        """End the request, and bound the next one's head."""
        self.max_head_bytes = MAX_HEAD_BYTES
        super().on_message_complete()
