"""Proofs that a token is not valid: that no event from before a lookup can change its record."""

import math
from collections.abc import Awaitable, Callable
from typing import Final

from api import metrics
from api.freshness import NEVER, Freshness, Poll
from api.read_batcher import Value
from api.view_reads import Found
from projector.elapsed import elapsed
from projector.store.schema import ViewRecord

# A record, the servers that it came from, the poll from before it was read, and the overlay that
# was read with it.
Proven = tuple[ViewRecord, tuple[str, ...], Poll, Value] | None


NO_STAMP: Final = (
    "no partition has been fresh yet: start `projector worker`, or read in its log what it waits "
    "for"
)


class UnprovenError(Exception):
    """Events on their way could still change the answer."""


class Proofs:
    """Lookups that wait for a proof, of which there is a bounded number."""

    def __init__(self, freshness: Freshness, *, miss_grace: float, max_waiting: int) -> None:
        self._freshness = freshness
        self._miss_grace = miss_grace
        self._max_waiting = max_waiting
        self._waiting = 0

    async def prove(
        self, arrival: float, found: Found, read: Callable[[], Awaitable[Found]]
    ) -> Proven:
        """Wait until no event from before the arrival can change the record any more.

        The events of a job that just started, or of its project's return, may be on their way.
        Returns None once it is proven that the token is not valid, or else the record that `read`
        has found meanwhile. Raises `UnprovenError`.
        """
        if self._waiting >= self._max_waiting:
            raise UnprovenError("too many tokens are waiting for proof that they are not valid")
        self._waiting += 1
        metrics.MISSES_WAITING.inc()
        try:
            await self._covered(arrival, arrival, found)
            return await self._read_until_proven(arrival, found, read)
        finally:
            self._waiting -= 1
            metrics.MISSES_WAITING.dec()

    async def _read_until_proven(
        self, arrival: float, found: Found, read: Callable[[], Awaitable[Found]]
    ) -> Proven:
        """Read the record again until it is final, or proven to be missing or ended."""
        since = math.inf
        while True:
            poll = self._freshness.poll
            found = (await read()).since(found)
            record = found.final
            if record is not None:
                return record, found.servers, poll, found.overlay
            # The server may have been met during the read, so what was proven before is not enough.
            if self._covers(poll, arrival, since, found):
                return None
            # Redis may have lost the record. Then its stamps are older, unless it was healed
            # meanwhile, and then the record is back.
            self._freshness.hurry()
            since = elapsed()
            await self._covered(arrival, since, found)

    def _covers(self, poll: Poll, arrival: float, since: float, found: Found) -> bool:
        """Whether stamps that were read at or after `since` are later than the arrival.

        The stamp of the record's partition, or without a record those of all. A 401 behind a
        pointer must be older than the stamp too.
        """
        partition = found.record.partition if found.record else None
        after = max(arrival, found.read_at)
        return self._freshness.covers(poll, after, since, partition, *found.servers)

    async def _covered(self, arrival: float, since: float, found: Found) -> None:
        """Wait for a poll that covers the lookup; raises `UnprovenError` if none comes in time."""
        deadline = arrival + self._miss_grace
        while not self._covers(self._freshness.poll, arrival, since, found):
            left = deadline - elapsed()
            if left <= 0:
                raise UnprovenError(self._unproven(arrival, since, found))
            await self._freshness.next_poll(left)

    def _unproven(self, arrival: float, since: float, found: Found) -> str:
        freshness = self._freshness
        if freshness.fault:
            return freshness.fault
        poll = freshness.poll
        needed = [found.record.partition] if found.record else range(len(poll.stamps))
        after = max(arrival, found.read_at)
        uncovered = (
            p for p in needed if not freshness.covers(poll, after, since, p, *found.servers)
        )
        reason = "the token may be valid: events about it may be on their way"
        if freshness.reachable and poll is not NEVER and not any(poll.stamps):
            reason = NO_STAMP
        return freshness.with_cause(reason, uncovered)
