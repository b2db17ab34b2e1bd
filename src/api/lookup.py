"""One lookup: from a token to the reply. Fails closed: when in doubt 503, never an old list."""

import hashlib
import time
from typing import Final, NamedTuple

import orjson
import structlog
from redis.exceptions import RedisError

from api import metrics
from api.freshness import Freshness
from api.reads import OverloadedError, Reads
from api.requests import LookupRequest
from projector import views
from projector.views import Record

log = structlog.get_logger()

Headers = list[tuple[bytes, bytes]]

_JSON: Final = (b"content-type", b"application/json")
_NO_STORE: Final = (b"cache-control", b"no-store")
_RETRY: Final = (b"retry-after", b"1")


class Reply(NamedTuple):
    """What goes back over HTTP."""

    status: int
    headers: Headers
    body: bytes


def reply(status: int, body: bytes, *headers: tuple[bytes, bytes]) -> Reply:
    """A JSON reply that nobody may store."""
    length = (b"content-length", str(len(body)).encode())
    return Reply(status, [_JSON, length, _NO_STORE, *headers], body)


# No credential, malformed, unknown, finished, expired, project removed: one and the same answer.
UNAUTHORIZED: Final = reply(401, b'{"message":"401 Unauthorized"}')


def unavailable(reason: str) -> Reply:
    """A 503 that says why; callers may try again."""
    return reply(503, orjson.dumps(views.unavailable(reason)), _RETRY)


class UnprovenError(Exception):
    """It cannot be told yet whether events on their way make another answer."""


class Lookup:
    """Answers lookups from the views, as long as their partition is fresh enough."""

    def __init__(
        self, reads: Reads, freshness: Freshness, *, max_staleness: float, miss_grace: float,
        max_waiting: int,
    ) -> None:  # fmt: skip
        self._reads = reads
        self._freshness = freshness
        self._max_staleness = max_staleness
        self._miss_grace = miss_grace
        self._max_waiting = max_waiting
        self._waiting = 0

    async def answer(self, request: LookupRequest) -> Reply:
        """The reply to one request."""
        if request.token is None:
            return UNAUTHORIZED
        arrival = time.monotonic()
        key = views.token_key(hashlib.sha256(request.token).hexdigest())
        try:
            record = _record(await self._reads.get(key))
            if record is None or record.is_provisional:
                record = await self._proven(key, arrival, record)
            return UNAUTHORIZED if record is None else self._from_record(record, request)
        except (RedisError, OSError):
            return unavailable("Redis is not reachable")
        except UnprovenError as error:
            return unavailable(str(error))
        except OverloadedError:
            return unavailable("too many lookups are waiting")
        except ValueError:
            return unavailable("the stored view cannot be read")
        except Exception as error:
            # Its text may hold anything, so only its type is logged.
            log.error("a lookup failed", error=type(error).__name__)  # noqa: TRY400
            return unavailable("internal error")

    async def _proven(self, key: str, arrival: float, first: Record | None) -> Record | None:
        """What stands there once no event from before `arrival` can change it any more.

        A token that just started may still be on its way, or its project's return.
        """
        if self._waiting >= self._max_waiting:
            raise UnprovenError("too many tokens are waiting for proof that they are not valid")
        self._waiting += 1
        metrics.MISSES_WAITING.inc()
        try:
            deadline = arrival + self._miss_grace
            partition = first.partition if first else None
            await self._covered(arrival, since=arrival, deadline=deadline, partition=partition)
            record = _record(await self._reads.get(key))
            if record is None or record.is_provisional:
                # A Redis that was emptied or went back says so too; its stamps tell, unless it
                # was healed meanwhile, and then the token is back.
                self._freshness.hurry()
                partition = record.partition if record else None
                await self._covered(
                    arrival, since=time.monotonic(), deadline=deadline, partition=partition
                )
                record = _record(await self._reads.get(key))
            return record
        finally:
            self._waiting -= 1
            metrics.MISSES_WAITING.dec()

    async def _covered(
        self, arrival: float, *, since: float, deadline: float, partition: int | None = None
    ) -> None:
        """Wait for a poll sent after `since` by which stamps are later than `arrival`.

        The stamp of this one partition, or of all.
        """
        while not self._freshness.covers(arrival, since, partition):
            left = deadline - time.monotonic()
            if left <= 0:
                raise UnprovenError("the token may be valid: events about it may be on their way")
            await self._freshness.next_poll(left)

    def _from_record(self, record: Record, request: LookupRequest) -> Reply:
        age, stamp = self._freshness.age(record.partition), self._freshness.stamp(record.partition)
        if age is None or stamp is None:
            return unavailable(f"partition {record.partition} is not known to be fresh yet")
        bound = min(self._max_staleness, request.max_age or self._max_staleness)
        if age > bound:
            return unavailable(
                f"partition {record.partition} was last known fresh {age:.1f} s ago; "
                f"the bound is {bound:g} s"
            )
        if record.version.epoch < stamp.epoch:
            return unavailable(f"the view is older than the claim of partition {record.partition}")
        return _sent(record, age)


def _record(stored: bytes | None) -> Record | None:
    return None if stored is None else Record.decode(stored)


def _sent(record: Record, age: float) -> Reply:
    if record.status == 401:
        return UNAUTHORIZED
    epoch, revision = record.version
    version = (b"view-version", b"%d.%d.%d" % (record.partition, epoch, revision))
    headers = [(b"age", b"%d" % age), version]
    return reply(record.status, record.body, *headers, *([_RETRY] if record.status == 503 else []))
