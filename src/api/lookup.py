"""Lookup of a token's view. Fails closed: 503 in doubt, never an outdated list."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from api import metrics
from api.freshness import Freshness, Poll
from api.lookup_request import LookupRequest
from api.proofs import Proofs
from api.read_batcher import Reads, Value
from api.replies import UNAUTHORIZED, Reply, refusal, stored_reply, unavailable
from api.signed_tokens import KnownToken, SignedTokens
from api.verification_queue import VerificationQueue
from api.view_reads import Found, JobRead, decode_record, leads_on, raised, read_again
from projector.elapsed import elapsed
from projector.store import overlay, schema
from projector.store.schema import ViewRecord

PATH: Final = "/api/v4/job/allowed_agents"

Answer = Callable[[Reply], None]


class Lookup:
    """Answers lookups from views whose partition is fresh enough."""

    def __init__(
        self, reads: Reads, freshness: Freshness, proofs: Proofs, *, max_staleness: float,
        signed: SignedTokens | None = None,
    ) -> None:  # fmt: skip
        self._reads = reads
        self._freshness = freshness
        self._max_staleness = max_staleness
        self._signed = signed
        self._verifications = VerificationQueue()
        self._proofs = proofs
        self._proving: set[asyncio.Task[None]] = set()

    async def answer(self, request: LookupRequest) -> Reply:
        """Return the reply to one request."""
        result: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.ask(request, partial(_resolve, result))
        return await result

    def ask(self, request: LookupRequest, answer: Answer) -> None:
        """Call `answer` with the reply to one request: once, and not before this returns."""
        arrival = elapsed()
        poll = self._freshness.poll
        token = request.token
        if token is None:
            asked = _Asked("", None, arrival, poll, answer)
            asyncio.get_running_loop().call_soon(self._answer, asked, UNAUTHORIZED)
            return
        key = schema.TOKENS + hashlib.sha256(token).hexdigest()
        asked = _Asked(key, request.max_age, arrival, poll, answer)
        if self._signed is None:
            self._reads.ask(key, partial(self._found, asked, ""))
        else:
            self._ask_signed(self._signed, token, asked)

    def _ask_signed(self, signed: SignedTokens, token: bytes, asked: "_Asked") -> None:
        """Ask for the view of the job that a signed token names, or else for the token's own."""
        try:
            known = signed.known(asked.key, asked.arrival)
            if known is not None:
                self._ask_known(known, asked)
            # The dots first, which is faster; the instance's prefix may have more of them.
            elif token.count(b".") < 2 or signed.jwt_of(token) is None:
                self._reads.ask(asked.key, partial(self._found, asked, ""))
            else:
                self._verifications.add(partial(self._verify, signed, token, asked))
        except Exception as error:  # always reply: a client is waiting
            asyncio.get_running_loop().call_soon(self._answer, asked, refusal(error))

    def _verify(self, signed: SignedTokens, token: bytes, asked: "_Asked") -> None:
        try:
            known = signed.verify(token, asked.key, asked.arrival)
        except Exception as error:  # always reply: a client is waiting
            self._answer(asked, refusal(error))
            return
        self._ask_known(known, asked)

    def _ask_known(self, known: KnownToken, asked: "_Asked") -> None:
        if known.alone:
            self._reads.ask(known.job_key, partial(self._found, asked, known.job_key))
        else:
            self._ask_both(asked, known.job_key)

    def _found(
        self, asked: "_Asked", job_key: str, stored: Value | Exception, server: str, held: Value
    ) -> None:
        """Answer from the record, or prove first that the token is unknown.

        If the job's key, which was read alone, holds no record, both keys are read.
        """
        try:
            if job_key and leads_on(stored):
                self._ask_both(asked, job_key)
                return
            record = decode_record(stored)
            if record is None or record.is_provisional:
                self._prove(asked, job_key, Found(record, (server,)))
                return
            reply = self._from_record(record, server, asked.poll, held, asked.max_age)
        except Exception as error:  # always reply: a client is waiting
            reply = refusal(error)
        self._answer(asked, reply)

    def _ask_both(self, asked: "_Asked", job_key: str) -> None:
        on_found = partial(self._found_of_job, asked, job_key)
        JobRead(self._reads, asked.key, job_key, on_found).start()

    def _found_of_job(self, asked: "_Asked", job_key: str, found: Found | Exception) -> None:
        """Answer from the record of a signed token's job, or prove first that it is unknown."""
        try:
            found = raised(found)
            if self._signed is not None:
                self._signed.note_alone(asked.key, alone=found.at_job)
            record = found.final
            if record is None:
                self._prove(asked, job_key, found)
                return
            reply = self._from_servers(
                record, found.servers, asked.poll, found.overlay, asked.max_age
            )
        except Exception as error:  # always reply: a client is waiting
            reply = refusal(error)
        self._answer(asked, reply)

    def _prove(self, asked: "_Asked", job_key: str, found: Found) -> None:
        task = asyncio.get_running_loop().create_task(self._answer_proven(asked, job_key, found))
        self._proving.add(task)
        task.add_done_callback(self._proving.discard)

    async def _answer_proven(self, asked: "_Asked", job_key: str, found: Found) -> None:
        read = partial(read_again, self._reads, asked.key, job_key)
        try:
            proven = await self._proofs.prove(asked.arrival, found, read)
            reply = self._from_servers(*proven, asked.max_age) if proven else UNAUTHORIZED
        except Exception as error:  # always reply: a client is waiting
            reply = refusal(error)
        self._answer(asked, reply)

    def _answer(self, asked: "_Asked", reply: Reply) -> None:
        metrics.record_lookup(reply.status, elapsed() - asked.arrival)
        asked.answer(reply)

    def _from_servers(
        self, record: ViewRecord, servers: Sequence[str], poll: Poll, held: Value,
        max_age: int | None,
    ) -> Reply:  # fmt: skip
        """Answer from a record of the last server, to which a pointer on the others has led."""
        *others, server = servers
        for other in others:
            if self._freshness.known(poll, record.partition, other) is None:
                return unavailable(self._unknown(poll, record.partition))
        return self._from_record(record, server, poll, held, max_age)

    def _from_record(
        self, record: ViewRecord, server: str, poll: Poll, held: Value, max_age: int | None
    ) -> Reply:
        """Answer from a record that was read from `server` after `poll`, with the overlay `held`.

        A replaced owner's overlay holds back nothing. Records that old are refused before it, and
        those of its successor are newer.
        """
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
        if held is not None and overlay.is_held_back(record, held):
            return unavailable(
                f"partition {partition} is writing a change that may take agents from this job"
            )
        return stored_reply(record, age)

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


def _resolve(result: asyncio.Future[Reply], reply: Reply) -> None:
    if not result.done():
        result.set_result(reply)
