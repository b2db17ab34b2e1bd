"""Lookup of a token's view. Fails closed: 503 in doubt, never an outdated list."""

import asyncio
import hashlib
import math
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import orjson
import structlog
from redis.exceptions import RedisError

from api import metrics
from api.freshness import Freshness, Poll
from api.lookup_request import LookupRequest
from api.read_batcher import OverloadedError, Reads
from projector.domain import views
from projector.elapsed import elapsed
from projector.store import schema
from projector.store.schema import ViewRecord

log = structlog.get_logger()

PATH: Final = "/api/v4/job/allowed_agents"

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


Answer = Callable[[Reply], None]

# The same answer for a token that is missing, malformed, unknown, finished, expired, or of a
# removed project.
UNAUTHORIZED: Final = reply(401, b'{"message":"401 Unauthorized"}')


def unavailable(reason: str) -> Reply:
    """Build a 503 with the reason; clients may try again."""
    return reply(503, orjson.dumps(views.unavailable_body(reason)), _RETRY)


class UnprovenError(Exception):
    """Events on their way could still change the answer."""


class Lookup:
    """Answers lookups from views whose partition is fresh enough."""

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
        self._proofs: set[asyncio.Task[None]] = set()

    async def answer(self, request: LookupRequest) -> Reply:
        """Return the reply to one request."""
        result: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.ask(request, partial(_resolve, result))
        return await result

    def ask(self, request: LookupRequest, answer: Answer) -> None:
        """Call `answer` with the reply to one request: once, and not before this returns."""
        arrival = elapsed()
        poll = self._freshness.poll
        if request.token is None:
            asked = _Asked("", None, arrival, poll, answer)
            asyncio.get_running_loop().call_soon(self._answer, asked, UNAUTHORIZED)
        else:
            key = schema.token_record_key(hashlib.sha256(request.token).hexdigest())
            asked = _Asked(key, request.max_age, arrival, poll, answer)
            self._reads.ask(key, partial(self._found, asked))

    def _found(self, asked: "_Asked", stored: bytes | Exception | None, server: str) -> None:
        """Answer from the record, or prove first that the token is unknown."""
        try:
            record = _record(stored)
            if record is None or record.is_provisional:
                self._prove(asked, record, server)
                return
            reply = self._from_record(record, server, asked.poll, asked.max_age)
        except Exception as error:  # always reply: a client is waiting
            reply = _refusal(error)
        self._answer(asked, reply)

    def _prove(self, asked: "_Asked", record: ViewRecord | None, server: str) -> None:
        task = asyncio.get_running_loop().create_task(self._answer_proven(asked, record, server))
        self._proofs.add(task)
        task.add_done_callback(self._proofs.discard)

    async def _answer_proven(self, asked: "_Asked", record: ViewRecord | None, server: str) -> None:
        try:
            reply = await self._proven(asked, record, server)
        except Exception as error:  # always reply: a client is waiting
            reply = _refusal(error)
        self._answer(asked, reply)

    def _answer(self, asked: "_Asked", reply: Reply) -> None:
        metrics.record_lookup(reply.status, elapsed() - asked.arrival)
        asked.answer(reply)

    async def _proven(self, asked: "_Asked", record: ViewRecord | None, server: str) -> Reply:
        """Answer once no event from before the arrival can change the record any more.

        The events of a job that just started, or of its project's return, may be on their way.
        """
        if self._waiting >= self._max_waiting:
            raise UnprovenError("too many tokens are waiting for proof that they are not valid")
        self._waiting += 1
        metrics.MISSES_WAITING.inc()
        try:
            await self._covered(asked, asked.arrival, record, server)
            return await self._read_until_proven(asked)
        finally:
            self._waiting -= 1
            metrics.MISSES_WAITING.dec()

    async def _read_until_proven(self, asked: "_Asked") -> Reply:
        """Read the record again until it is live, or proven to be missing or ended."""
        since = math.inf
        while True:
            poll = self._freshness.poll
            stored, server = await self._reads.get(asked.key)
            record = _record(stored)
            if record is not None and not record.is_provisional:
                return self._from_record(record, server, poll, asked.max_age)
            # The server may have been met during the read, so what was proven before is not enough.
            if self._covers(poll, asked, since, record, server):
                return UNAUTHORIZED
            # Redis may have lost the record. Then its stamps are older, unless it was healed
            # meanwhile, and then the record is back.
            self._freshness.hurry()
            since = elapsed()
            await self._covered(asked, since, record, server)

    def _covers(
        self, poll: Poll, asked: "_Asked", since: float, record: ViewRecord | None, server: str
    ) -> bool:
        """Whether stamps that were read at or after `since` are later than the arrival.

        The stamp of the record's partition, or without a record those of all.
        """
        partition = record.partition if record else None
        return self._freshness.covers(poll, asked.arrival, since, partition, server)

    async def _covered(
        self, asked: "_Asked", since: float, record: ViewRecord | None, server: str
    ) -> None:
        """Wait for a poll that covers the lookup; raises `UnprovenError` if none comes in time."""
        deadline = asked.arrival + self._miss_grace
        while not self._covers(self._freshness.poll, asked, since, record, server):
            left = deadline - elapsed()
            if left <= 0:
                raise UnprovenError(self._unproven(asked, since, record, server))
            await self._freshness.next_poll(left)

    def _unproven(
        self, asked: "_Asked", since: float, record: ViewRecord | None, server: str
    ) -> str:
        freshness = self._freshness
        if freshness.fault:
            return freshness.fault
        poll, arrival = freshness.poll, asked.arrival
        needed = [record.partition] if record else range(len(poll.stamps))
        uncovered = (p for p in needed if not freshness.covers(poll, arrival, since, p, server))
        reason = "the token may be valid: events about it may be on their way"
        return freshness.with_cause(reason, uncovered)

    def _from_record(
        self, record: ViewRecord, server: str, poll: Poll, max_age: int | None
    ) -> Reply:
        """Answer from a record that was read from `server` after `poll`."""
        partition = record.partition
        known = self._freshness.known(poll, partition, server)
        if known is None:
            return unavailable(self._unknown(poll, partition))
        age, epoch = known
        bound = min(self._max_staleness, max_age or self._max_staleness)
        if age > bound:
            reason = (
                f"partition {partition} was last known fresh {age:.1f} s ago; "
                f"the bound is {bound:g} s"
            )
            return unavailable(self._freshness.with_cause(reason, [partition]))
        if record.version.epoch < epoch:
            return unavailable(f"the view is older than the claim of partition {partition}")
        return _sent(record, age)

    def _unknown(self, poll: Poll, partition: int) -> str:
        if partition in poll.troubles:
            return f"partition {partition} is not known to be fresh: its stamp cannot be read"
        if poll.fault:
            return poll.fault
        reason = f"partition {partition} is not known to be fresh yet"
        return self._freshness.with_cause(reason, [partition])


class _Asked(NamedTuple):
    """A lookup under way: its key, allowed age in seconds, arrival, and the callback.

    `poll` is the latest one at the arrival. A later one may know of events that a view, which was
    read before it, does not have.
    """

    key: str
    max_age: int | None
    arrival: float
    poll: Poll
    answer: Answer


def _record(stored: bytes | Exception | None) -> ViewRecord | None:
    if isinstance(stored, Exception):
        raise stored
    return None if stored is None else ViewRecord.decode(stored)


def _sent(record: ViewRecord, age: float) -> Reply:
    if record.status == 401:
        return UNAUTHORIZED
    epoch, revision = record.version
    head = _VERSION % (age, record.partition, epoch, revision)
    return reply(record.status, record.body, head + _RETRY if record.status == 503 else head)


def _refusal(error: Exception) -> Reply:
    """Build the 503 for an error."""
    match error:
        case UnprovenError():
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


def _resolve(result: asyncio.Future[Reply], reply: Reply) -> None:
    if not result.done():
        result.set_result(reply)
