"""Freshness of each partition, polled from the stamps that the owners write."""

import asyncio
import contextlib
import math
import time
from collections.abc import Iterable
from types import MappingProxyType
from typing import Final, NamedTuple

import structlog
from redis.asyncio import Redis

from api.silence import Silences, describe_silences, find_silences
from api.stamps import Stamp, Troubles, decode_stamp, find_troubles, is_damage, raise_common
from projector.clients import redis_batch
from projector.clients.redis_access import redis_reason
from projector.clients.redis_cluster import CommandResult
from projector.clients.redis_servers import RedisServers
from projector.clients.trusted_clock import TOLERANCE_MS, TrustedClock
from projector.elapsed import elapsed
from projector.errors import PartitionCountError
from projector.store import schema
from projector.store.partition_count import decode_partition_count

log = structlog.get_logger()

POLL_INTERVAL_S: Final = 0.25
# Between two polls at least, so that many waiting lookups do not flood Redis.
POLL_PAUSE_S: Final = 0.02


class Poll(NamedTuple):
    """The stamps of all partitions, read by a poll that was sent at `sent`.

    Their number was read by the one that was sent at `counted`. Both are seconds of `elapsed`. With
    a `fault` there are no stamps: it is a sentence about that number. `silences` only explain.
    """

    sent: float
    stamps: tuple[Stamp | None, ...]
    counted: float
    troubles: Troubles
    fault: str | None = None
    silences: Silences = MappingProxyType({})


NEVER: Final = Poll(-math.inf, (), -math.inf, {})


class Freshness:
    """Holds the latest poll. Without one, or without a stamp, a partition counts as stale."""

    def __init__(self, redis: Redis, servers: RedisServers | None = None) -> None:
        self._redis = redis
        self._servers = servers or RedisServers()
        # Returns when a server was last met, which decides on the stamps that count for its views.
        self.met = self._servers.met
        self._polled = asyncio.Event()
        self._hurry = asyncio.Event()
        # By TIME of the server that has the number of partitions.
        self.clock = TrustedClock(time.time() * 1000, elapsed())
        # The latest stamp that each partition had.
        self._seen: dict[int, Stamp] = {}
        self.poll = NEVER
        self.reachable = True

    async def run(self, place: str) -> None:
        """Poll until cancelled; while Redis is unavailable the last poll grows old.

        `place` is the address of Redis, for messages.
        """
        while True:
            try:
                self._take(await self._read(), place)
            except Exception as error:  # polling must go on after any error
                if self.reachable:
                    _log_not_ready(place, redis_reason(error) or str(error))
                self.reachable = False
            self._polled.set()
            self._polled = asyncio.Event()
            await asyncio.sleep(POLL_PAUSE_S)
            await self._wait(self._hurry, POLL_INTERVAL_S - POLL_PAUSE_S)
            self._hurry.clear()

    def _take(self, poll: Poll, place: str) -> None:
        if poll.fault and poll.fault != self.fault:
            _log_not_ready(place, poll.fault)
        elif not poll.fault and (self.fault or not self.reachable):
            log.info("ready again", server="Redis", place=place)
        _log_troubles(self.poll.troubles, poll.troubles)
        self.poll, self.reachable = poll, True
        if poll.sent <= self._servers.met_at:
            self.hurry()

    def hurry(self) -> None:
        """Let the next poll begin at once."""
        self._hurry.set()

    async def next_poll(self, timeout: float) -> None:  # noqa: ASYNC109  a bound, not a deadline
        """Wait for the next poll, at most `timeout` seconds."""
        await self._wait(self._polled, timeout)

    @property
    def fault(self) -> str | None:
        """The fault of the latest poll that Redis answered."""
        return self.poll.fault

    def known(self, poll: Poll, partition: int, server: str) -> tuple[float, int] | None:
        """Return the partition's age, and the epoch of its stamp, for a view from `server`.

        The view must have been read after `poll`: events between the two may have changed it.
        None if no stamp counts. A server may lack what was written before it was met. Its own
        stamps come with its views, so of those it is enough that they were read since.
        """
        stamp = poll.stamps[partition] if partition < len(poll.stamps) else None
        if stamp is None:
            return None
        if not self._counts(stamp, server):
            if self.poll.sent <= self._servers.met_at:
                self.hurry()
            return None
        return elapsed() - stamp.fresh_at, stamp.epoch

    def _counts(self, stamp: Stamp, server: str) -> bool:
        proven = stamp.sent if stamp.server == server else stamp.fresh_at
        return proven > self._servers.met(server)

    def ages(self) -> list[float | None]:
        """Return the seconds since each partition was fresh; empty without their number."""
        stamps, now = self.poll.stamps, elapsed()
        return [
            now - stamp.fresh_at if stamp and self._counts(stamp, stamp.server) else None
            for stamp in stamps
        ]

    def covers(
        self, poll: Poll, arrival: float, since: float, partition: int | None, *servers: str
    ) -> bool:
        """Whether the partition, or else every one, was stamped for a time after `arrival`.

        Only stamps that were read at or after `since` prove it. Both are seconds of `elapsed`.
        The token's record is missing, or may change, on `servers`.
        """
        stamps = poll.stamps
        if partition is not None:
            stamps = stamps[partition : partition + 1]
        elif poll.counted < since:
            return False
        # A server that was emptied has no views; its owners cannot have noticed before it was met.
        after = max(arrival, *map(self._servers.met, servers))
        return bool(stamps) and all(
            stamp is not None and stamp.sent >= since and stamp.fresh_at > after for stamp in stamps
        )

    def with_cause(self, reason: str, partitions: Iterable[int]) -> str:
        """Put before the reason which silent sources these partitions wait for, if any.

        While Redis is unavailable, the latest poll may blame a source that is back.
        """
        poll = self.poll
        silences = (poll.silences[each] for each in partitions if each in poll.silences)
        cause = describe_silences(silences, elapsed()) if self.reachable else ""
        return f"{cause}; {reason}" if cause else reason

    @staticmethod
    async def _wait(event: asyncio.Event, seconds: float) -> None:
        # asyncio.wait_for would lose a cancellation that coincides with the event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    async def _read(self) -> Poll:
        sent = elapsed()
        try:
            count, counted = await self._count(sent)
        except PartitionCountError as error:
            return Poll(sent, (), -math.inf, self.poll.troubles, str(error))
        keys = [schema.partition_key(partition) for partition in range(count)]
        asked = [("HMGET", key, "stamp", "stamp_epoch", "silent") for key in keys]
        # A proxy may keep connections over a failover, so each poll asks every server who it is,
        # also one that holds views alone. After the stamps: a server met here may be theirs.
        identities = await redis_batch.identity_commands(self._redis)
        answers = await redis_batch.try_execute(self._redis, [*asked, *identities])
        await self._servers.note_servers(answers[count:])
        raise_common(answers[:count])
        stamps = tuple(self._stamp(sent, *each) for each in enumerate(answers[:count]))
        troubles = find_troubles(answers[:count], answers[count:])
        silences = find_silences(sent, answers[:count])
        return Poll(sent, stamps, counted, troubles, silences=silences)

    async def _count(self, sent: float) -> tuple[int, float]:
        """Return the number of partitions, and when the poll was sent that read it.

        While the server that holds it is away, the former number counts.
        """
        (found,) = await redis_batch.try_execute(self._redis, [("GET", schema.PARTITIONS_KEY)])
        self._note_time(found, sent)
        if redis_batch.is_outage(found.value) and self.poll.stamps:
            return len(self.poll.stamps), self.poll.counted
        return decode_partition_count(found.value) or 0, sent

    def _note_time(self, answer: CommandResult, sent: float) -> None:
        """Note TIME of the server that has the number of partitions, unless it came late."""
        received = elapsed()
        is_late = received - sent > TOLERANCE_MS / 1000
        if not is_late and not redis_batch.is_outage(answer.value):
            self.clock.note(answer.now, sent, received)

    def _stamp(self, sent: float, partition: int, answer: CommandResult) -> Stamp | None:
        """Return the partition's stamp; while its server is away, the former one grows old."""
        if isinstance(answer.value, Exception):
            former = self.poll.stamps[partition : partition + 1] or (None,)
            return None if is_damage(answer.value) else former[0]
        stamp = decode_stamp(sent, answer, self._seen.get(partition))
        if stamp:
            self._seen[partition] = stamp
        return stamp


def _log_not_ready(place: str, reason: str) -> None:
    log.warning("not ready, trying again", server="Redis", place=place, reason=reason)


def _log_troubles(before: Troubles, now: Troubles) -> None:
    """Log each trouble when it begins, and when it ends."""
    for where in now.keys() - before.keys():
        if isinstance(where, int):
            log.warning("stamp unreadable", partition=where, reason=now[where])
        else:
            _log_not_ready(where, now[where])
    for where in before.keys() - now.keys():
        if isinstance(where, int):
            log.info("stamp readable again", partition=where)
        else:
            log.info("ready again", server="Redis", place=where)
