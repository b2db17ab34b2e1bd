"""The body of a request, read within bounds, or discarded."""

import asyncio
from contextlib import suppress
from typing import Final

from starlette.requests import ClientDisconnect, Request

from projector.ingest.http_events import Mode
from projector.ingest.refusals import RefusedRequestError

# Of a whole body. A slow client would hold its token's bounds.
READ_S: Final = 30.0
# A refused request's body is read to its end, or its client might not get the answer; within these.
DISCARD_S: Final = 2.0
MAX_DISCARDED_BYTES: Final = 4 * 1024 * 1024
CLOSE: Final = {"connection": "close"}


class RequestBody:
    """The body of one request."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._is_complete = False
        # A client that waits for `100 Continue` sends its body once reading has begun.
        self._may_come = "expect" not in request.headers

    def length(self, mode: Mode) -> int:
        """Return the length of the body; where the client names none, the most of its mode.

        Raises `RefusedRequestError` if it is too long.
        """
        given = self._request.headers.get("content-length")
        if given is None:
            return mode.max_bytes
        # httptools has checked the digits.
        if int(given) > mode.max_bytes:
            raise _too_large(mode)
        return int(given)

    async def read(self, mode: Mode) -> bytes:
        """Read the body; raises `RefusedRequestError` if it is too long, too slow or incomplete."""
        body = bytearray()
        self._may_come = True
        try:
            async with asyncio.timeout(READ_S):
                async for chunk in self._request.stream():
                    body += chunk
                    if len(body) > mode.max_bytes:
                        raise _too_large(mode)
        except TimeoutError:
            raise RefusedRequestError(
                408, f"the body did not arrive within {READ_S:g} seconds", CLOSE
            ) from None
        except ClientDisconnect:
            raise RefusedRequestError(400, "the body is incomplete", CLOSE) from None
        self._is_complete = True
        return bytes(body)

    async def discard(self) -> bool:
        """Read the rest of the body; return whether that was all of it."""
        if self._is_complete or not self._may_come:
            return self._is_complete
        size = 0
        with suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(DISCARD_S):
                async for chunk in self._request.stream():
                    size += len(chunk)
                    if size > MAX_DISCARDED_BYTES:
                        return False
                return True
        return False


def _too_large(mode: Mode) -> RefusedRequestError:
    what = "a batch" if mode is Mode.BATCH else "an event"
    return RefusedRequestError(413, f"{what} has at most {mode.max_bytes} bytes")
