"""The bounded HTTP protocol, which also takes bodies in chunks that are larger than its bound."""

from typing import Final

from api.bounded_protocol import END, BoundedHttpToolsProtocol

# Parsed at once; the bound below is counted in these.
PART_BYTES: Final = 16 * 1024
# The name of an event in the application's state, for requests that only wait.
STOPPING: Final = "stopping"


class IngestProtocol(BoundedHttpToolsProtocol):
    """Bounds the head of a request, and what comes before, between and after a body's chunks.

    That is sizes, extensions and trailers. The application counts a body's own bytes, and times it.
    """

    def _end_of_part(self, data: bytes, start: int) -> int:
        """Return where to stop, never within the end of a head or body."""
        end = super()._end_of_part(data, start)
        return end if end - start <= PART_BYTES else min(start + PART_BYTES, end - len(END))

    def on_body(self, body: bytes) -> None:
        """Take bytes of the body, and bound what comes before the next ones."""
        self._head_bytes = 0
        super().on_body(body)

    def shutdown(self) -> None:
        """End the connection after its request, which need not wait any longer."""
        if stopping := self.app_state.get(STOPPING):
            stopping.set()
        super().shutdown()
