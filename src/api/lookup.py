"""Lookup of a token's view. Fails closed: 503 in doubt, never an outdated list."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import orjson
import structlog
from redis.exceptions import RedisError

from api import metrics
from api.freshness import Freshness
from api.lookup_request import LookupRequest
from api.read_batcher import OverloadedError, ReadBatcher
from projector.domain import views
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
        self, reads: ReadBatcher, freshness: Freshness, *, max_staleness: float, miss_grace: float,
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
        arrival = time.monotonic()
        if request.token is None:
            asked = _Asked("", None, arrival, answer)
            asyncio.get_running_loop().call_soon(self._answer, asked, UNAUTHORIZED)
        else:
            key = schema.token_record_key(hashlib.sha256(request.token).hexdigest())
            asked = _Asked(key, request.max_age, arrival, answer)
            self._reads.ask(key, partial(self._found, asked))

    def _found(self, asked: "_Asked", stored: bytes | Exception | None) -> None:
        """Answer from the record, or prove first that the token is unknown."""
        try:
            record = _record(stored)
            if record is None or record.is_provisional:
                self._prove(asked, record)
                return
            reply = self._from_record(record, asked.max_age)
        except Exception as error:  # always reply: a client is waiting
            reply = _refusal(error)
        self._answer(asked, reply)

    def _prove(self, asked: "_Asked", first: ViewRecord | None) -> None:
        task = asyncio.get_running_loop().create_task(self._answer_proven(asked, first))
        self._proofs.add(task)
        task.add_done_callback(self._proofs.discard)

    async def _answer_proven(self, asked: "_Asked", first: ViewRecord | None) -> None:
        try:
            record = await self._proven(asked.key, asked.arrival, first)
            reply = UNAUTHORIZED if record is None else self._from_record(record, asked.max_age)
        except Exception as error:  # always reply: a client is waiting
            reply = _refusal(error)
        self._answer(asked, reply)

    def _answer(self, asked: "_Asked", reply: Reply) -> None:
        metrics.record_lookup(reply.status, time.monotonic() - asked.arrival)
        asked.answer(reply)

    async def _proven(
        self, key: str, arrival: float, first: ViewRecord | None
    ) -> ViewRecord | None:
        """Read the record once no event from before `arrival` can change it any more.

        The events of a job that just started, or of its project's return, may be on their way.
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
                # Redis may have lost the record. Then its stamps are older, unless it was healed
                # meanwhile, and then the record is back.
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
        """Wait for a poll sent after `since` whose stamps are later than `arrival`.

        Checks the stamp of one partition, or of all.
        """
        while not self._freshness.covers(arrival, since, partition):
            left = deadline - time.monotonic()
            if left <= 0:
                raise UnprovenError(
                    self._freshness.fault
                    or "the token may be valid: events about it may be on their way"
                )
            await self._freshness.next_poll(left)

    def _from_record(self, record: ViewRecord, max_age: int | None) -> Reply:
        partition = record.partition
        known = self._freshness.known(partition)
        if known is None:
            return unavailable(
                self._freshness.fault or f"partition {partition} is not known to be fresh yet"
            )
        age, epoch = known
        bound = min(self._max_staleness, max_age or self._max_staleness)
        if age > bound:
            return unavailable(
                f"partition {partition} was last known fresh {age:.1f} s ago; "
                f"the bound is {bound:g} s"
            )
        if record.version.epoch < epoch:
            return unavailable(f"the view is older than the claim of partition {partition}")
        return _sent(record, age)


class _Asked(NamedTuple):
    """A lookup under way: its key, allowed age in seconds, arrival, and the callback."""

    key: str
    max_age: int | None
    arrival: float
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
