"""Lookup of a token's view. Fails closed: 503 in doubt, never an outdated list."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from api import metrics
from api.fresh_heads import FreshHeads
from api.freshness import NEVER, Freshness, Poll
from api.lookup_request import LookupRequest
from api.proofs import Proofs
from api.read_batcher import Reads, Value
from api.replies import UNAUTHORIZED, Reply, refusal, stored_reply, unavailable
from api.tokens.signed_tokens import KnownToken, SignedTokens
from api.tokens.verification_queue import VerificationQueue
from api.view_reads import Found, JobRead, decode_record, leads_on, raised, read_again
from projector.elapsed import elapsed
from projector.store import overlay, schema
from projector.store.schema import ViewRecord

PATH: Final = "/api/v4/job/allowed_agents"

# Called with the status, the head and the body of a reply.
Answer = Callable[[int, bytes, bytes], None]


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
        self.heads = FreshHeads(freshness, max_staleness)

    async def answer(self, request: LookupRequest) -> Reply:
        """Return the reply to one request."""
        result: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.ask(request, partial(_resolve, result))
        return await result

    def ask(self, request: LookupRequest, answer: Answer) -> None:
        """Call `answer` with the reply to one request: once, and not before this returns."""
        self.ask_as(Asked(self, answer), request)

    def ask_as(self, asked: "Asked", request: LookupRequest) -> None:
        """Do the same with an object whose former lookup is answered."""
        token, asked.max_age = request
        asked.arrival = elapsed()
        asked.poll = self._freshness.poll
        asked.job_key = ""
        if token is None:
            asyncio.get_running_loop().call_soon(self._answer, asked, UNAUTHORIZED)
            return
        asked.key = key = schema.TOKENS + hashlib.sha256(token).hexdigest()
        if self._signed is None:
            self._reads.ask(key, asked.note_record)
        else:
            self._ask_signed(self._signed, token, asked)

    def _ask_signed(self, signed: SignedTokens, token: bytes, asked: "Asked") -> None:
        """Ask for the view of the job that a signed token names, or else for the token's own."""
        try:
            known = signed.known(asked.key, asked.arrival)
            if known is not None:
                self._ask_known(known, asked)
            # The dots first, which is faster; the instance's prefix may have more of them.
            elif token.count(b".") < 2 or signed.jwt_of(token) is None:
                self._reads.ask(asked.key, asked.note_record)
            else:
                self._verifications.add(partial(self._verify, signed, token, asked))
        except Exception as error:  # always reply: a client is waiting
            asyncio.get_running_loop().call_soon(self._answer, asked, refusal(error))

    def _verify(self, signed: SignedTokens, token: bytes, asked: "Asked") -> None:
        try:
            known = signed.verify(token, asked.key, asked.arrival)
        except Exception as error:  # always reply: a client is waiting
            self._answer(asked, refusal(error))
            return
        self._ask_known(known, asked)

    def _ask_known(self, known: KnownToken, asked: "Asked") -> None:
        asked.job_key = known.job_key
        if known.alone:
            self._reads.ask(known.job_key, asked.note_record)
        else:
            self._ask_both(asked)

    def answer_from(
        self, asked: "Asked", stored: Value | Exception, server: str, overlay_value: Value
    ) -> None:
        """Answer from a record as it was read, or prove first that the token is unknown.

        If the job's key, which was read alone, holds no record, both keys are read.
        """
        try:
            if asked.job_key and leads_on(stored):
                self._ask_both(asked)
                return
            record = decode_record(stored)
            if record is None or record.is_provisional:
                self._prove(asked, Found(record, (server,)))
                return
            reply = self._from_record(record, server, asked.poll, overlay_value, asked.max_age)
        except Exception as error:  # always reply: a client is waiting
            reply = refusal(error)
        self._answer(asked, reply)

    def _ask_both(self, asked: "Asked") -> None:
        on_found = partial(self._found_of_job, asked)
        JobRead(self._reads, asked.key, asked.job_key, on_found).start()

    def _found_of_job(self, asked: "Asked", found: Found | Exception) -> None:
        """Answer from the record of a signed token's job, or prove first that it is unknown."""
        try:
            found = raised(found)
            if self._signed is not None:
                self._signed.note_alone(asked.key, alone=found.at_job)
            record = found.final
            if record is None:
                self._prove(asked, found)
                return
            reply = self._from_servers(
                record, found.servers, asked.poll, found.overlay, asked.max_age
            )
        except Exception as error:  # always reply: a client is waiting
            reply = refusal(error)
        self._answer(asked, reply)

    def _prove(self, asked: "Asked", found: Found) -> None:
        task = asyncio.get_running_loop().create_task(self._answer_proven(asked, found))
        self._proving.add(task)
        task.add_done_callback(self._proving.discard)

    async def _answer_proven(self, asked: "Asked", found: Found) -> None:
        read = partial(read_again, self._reads, asked.key, asked.job_key)
        try:
            proven = await self._proofs.prove(asked.arrival, found, read)
            reply = self._from_servers(*proven, asked.max_age) if proven else UNAUTHORIZED
        except Exception as error:  # always reply: a client is waiting
            reply = refusal(error)
        self._answer(asked, reply)

    def _answer(self, asked: "Asked", reply: Reply) -> None:
        metrics.record_lookup(reply.status, elapsed() - asked.arrival)
        asked.answer(*reply)

    def _from_servers(
        self, record: ViewRecord, servers: Sequence[str], poll: Poll, overlay_value: Value,
        max_age: int | None,
    ) -> Reply:  # fmt: skip
        """Answer from a record of the last server, to which a pointer on the others has led."""
        *others, server = servers
        for other in others:
            if self._freshness.known(poll, record.partition, other) is None:
                return unavailable(self._unknown(poll, record.partition))
        return self._from_record(record, server, poll, overlay_value, max_age)

    def _from_record(
        self, record: ViewRecord, server: str, poll: Poll, overlay_value: Value, max_age: int | None
    ) -> Reply:
        """Answer from a record that was read from `server` after `poll`, with the overlay's value.

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
        if overlay_value is not None and overlay.is_held_back(record, overlay_value):
            return unavailable(
                f"partition {partition} is writing a change that may take agents from this job"
            )
        self.heads.note(record, server, poll, age)
        return stored_reply(record, age)

    def _unknown(self, poll: Poll, partition: int) -> str:
        if partition in poll.troubles:
            return f"partition {partition} is not known to be fresh: its stamp cannot be read"
        if poll.fault:
            return poll.fault
        reason = f"partition {partition} is not known to be fresh yet"
        return self._freshness.with_cause(reason, [partition])


class Asked:
    """A lookup under way: its keys, allowed age in seconds, arrival, and the callback.

    `poll` is the latest one at the arrival. A later one may know of events that a view, which was
    read before it, does not have. `job_key` is "" unless a signed token names the job.
    """

    __slots__ = ("answer", "arrival", "job_key", "key", "lookup", "max_age", "poll")

    def __init__(self, lookup: Lookup, answer: Answer) -> None:
        self.lookup = lookup
        self.answer = answer
        self.arrival = 0.0
        self.poll: Poll = NEVER
        self.max_age: int | None = None
        self.key = self.job_key = ""

    def note_record(self, stored: Value | Exception, server: str, overlay_value: Value) -> None:
        """Answer from what was read under the token's key, or under that of its job.

        Nearly all lookups are answered with a head that is there already. `Lookup.answer_from`
        would answer them with the same bytes.
        """
        if overlay_value is None and self.max_age is None and isinstance(stored, bytes):
            now = elapsed()
            head = self.lookup.heads.find(stored, server, self.poll, now)
            if head is not None:
                metrics.record_lookup(200, now - self.arrival)
                self.answer(200, head, stored[schema.HEADER_BYTES :])
                return
        self.lookup.answer_from(self, stored, server, overlay_value)


def _resolve(result: asyncio.Future[Reply], status: int, head: bytes, body: bytes) -> None:
    if not result.done():
        result.set_result(Reply(status, head, body))
