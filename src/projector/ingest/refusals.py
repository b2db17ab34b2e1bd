"""Refusals of requests: the status, the body and the headers of the answer."""

from collections.abc import Mapping
from typing import Any, Final

# Without the path and the entry, which the log has: any client gets this.
TOKENS_UNUSABLE: Final = "the file of tokens cannot be used; ask the operator"
RETRY_AFTER: Final = {"retry-after": "1"}
_REALM: Final = 'Bearer realm="projector ingest"'
TOKEN_NEEDED: Final = {"www-authenticate": _REALM}
TOKEN_UNKNOWN: Final = {"www-authenticate": f'{_REALM}, error="invalid_token"'}


class RefusedRequestError(Exception):
    """A request that is refused as a whole; `more` is added to the body's `message`."""

    def __init__(
        self, status: int, message: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body: dict[str, Any] = {"message": message, **more}


def unavailable(message: str) -> RefusedRequestError:
    """Return the refusal of a request that may be sent again as it is."""
    return RefusedRequestError(503, message, RETRY_AFTER)
