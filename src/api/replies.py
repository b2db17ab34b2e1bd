"""HTTP replies to lookups, and the reply that each error becomes."""

from typing import Final, NamedTuple

import orjson
import structlog
from redis.exceptions import RedisError

from api.proofs import UnprovenError
from api.read_batcher import OverloadedError
from api.tokens.signed_tokens import RefusedTokenError, UnverifiableTokenError
from projector.domain import views
from projector.store.schema import ViewRecord

log = structlog.get_logger()

Headers = list[tuple[bytes, bytes]]

_HEAD: Final = (
    b"content-type: application/json\r\ncontent-length: %d\r\ncache-control: no-store\r\n%b"
)
_VERSION: Final = b"age: %d\r\nview-version: %d.%d.%d\r\n"
_RETRY: Final = b"retry-after: 1\r\n"


class Reply(NamedTuple):
    """An HTTP reply; `head` is the header lines as they are sent."""

    status: int
    head: bytes
    body: bytes

    @property
    def headers(self) -> Headers:
        """The header lines as pairs."""
        pairs = (line.partition(b": ") for line in self.head.splitlines())
        return [(name, value) for name, _, value in pairs]


def reply(status: int, body: bytes, more: bytes = b"") -> Reply:
    """Build a JSON reply that no cache may store."""
    return Reply(status, _HEAD % (len(body), more), body)


# The same answer for a token that is missing, malformed, unknown, finished, expired, or of a
# removed project.
UNAUTHORIZED: Final = reply(401, b'{"message":"401 Unauthorized"}')


def unavailable(reason: str) -> Reply:
    """Build a 503 with the reason; clients may try again."""
    return reply(503, orjson.dumps(views.unavailable_body(reason)), _RETRY)


def stored_reply(record: ViewRecord, age: float) -> Reply:
    """Build the reply of a record, as of `age` seconds ago."""
    if record.status == 401:
        return UNAUTHORIZED
    epoch, revision = record.version
    head = _VERSION % (age, record.partition, epoch, revision)
    return reply(record.status, record.body, head + _RETRY if record.status == 503 else head)


def head_template(age: float, partition: int) -> bytes:
    """Return the head of replies 200 from a partition, without length, epoch and revision."""
    version = b"age: %d\r\nview-version: %d.%%d.%%d\r\n" % (age, partition)
    return _HEAD.replace(b"%d", b"%%d") % version


def refusal(error: Exception) -> Reply:
    """Build the reply for an error."""
    match error:
        case RefusedTokenError():
            return UNAUTHORIZED
        case UnprovenError() | UnverifiableTokenError():
            return unavailable(str(error))
        case OverloadedError():
            return unavailable("too many lookups are waiting")
        case RedisError() | OSError():
            return unavailable("Redis is not reachable")
        case ValueError():
            return unavailable("the stored view cannot be read")
    # The error's text may hold a secret, so only its type is logged.
    log.error("a lookup failed", error=type(error).__name__)
    return unavailable("internal error")
