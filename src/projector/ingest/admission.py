"""Admission of requests: bounds on those under way, for each token and for all."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from projector.ingest import metrics
from projector.ingest.http_events import MAX_BATCH_BYTES
from projector.ingest.refusals import RETRY_AFTER, RefusedRequestError, unavailable

# Of one token at a time. So no feeder takes all of the bounds below.
TOKEN_REQUESTS: Final = 16
TOKEN_BYTES: Final = 4 * MAX_BATCH_BYTES
# Of all tokens at a time. A body takes some five times its bytes while it is checked and sent.
ALL_REQUESTS: Final = 256
ALL_BYTES: Final = 16 * MAX_BATCH_BYTES


class Admission:
    """Counts the requests under way, and the bytes that are reserved for their bodies."""

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        metrics.REQUESTS_IN_FLIGHT.set_function(self._requests.total)
        metrics.BYTES_IN_FLIGHT.set_function(self._bytes.total)

    @contextmanager
    def admitted(self, token: str, size: int) -> Iterator[None]:
        """Reserve for the block; raises `RefusedRequestError` with 429 or 503."""
        if self._requests[token] >= TOKEN_REQUESTS:
            raise _too_many(f"{TOKEN_REQUESTS} requests of this token are under way")
        if self._bytes[token] + size > TOKEN_BYTES:
            raise _too_many(f"{self._bytes[token]} bytes of this token are under way")
        if self._requests.total() >= ALL_REQUESTS or self._bytes.total() + size > ALL_BYTES:
            raise unavailable("the ingest is too busy")
        self._add(token, 1, size)
        try:
            yield
        finally:
            self._add(token, -1, -size)

    def _add(self, token: str, requests: int, size: int) -> None:
        for counts, more in (self._requests, requests), (self._bytes, size):
            counts[token] += more
            if not counts[token]:
                del counts[token]


def _too_many(reason: str) -> RefusedRequestError:
    return RefusedRequestError(429, f"{reason}; send again when one is answered", RETRY_AFTER)
