"""Freshness of each partition, polled from the stamps that the owners write."""

import asyncio
import contextlib
import time
from typing import Final, NamedTuple

import structlog
from redis.asyncio import Redis

from projector.clients import access_errors, redis_batch
from projector.clients.redis_cluster import CommandResult
from projector.clients.redis_servers import RedisServers
from projector.errors import PartitionCountError
from projector.store import schema
from projector.store.partition_count import decode_partition_count

log = structlog.get_logger()

POLL_INTERVAL_S: Final = 0.25
# Between two polls at least, so that many waiting lookups do not flood Redis.
POLL_PAUSE_S: Final = 0.02


class Stamp(NamedTuple):
    """Every event of a partition up to `time_ms` (Redis TIME) is applied, under claim `epoch`."""

    time_ms: float
    epoch: int


class Poll(NamedTuple):
    """The stamps of all partitions, read at Redis TIME `now` (ms) of one server.

    The poll was sent at `sent` (seconds of this process's clock). With a `fault` there are no
    stamps: it is a sentence about the number of partitions in Redis.
    """

    now: float
    sent: float
    stamps: tuple[Stamp | None, ...]
    fault: str | None = None


class Freshness:
    """Holds the latest poll. Without one, or without a stamp, a partition counts as stale."""

    def __init__(self, redis: Redis, server: RedisServers | None = None) -> None:
        self._redis = redis
        self._server = server or RedisServers()
        self._poll: Poll | None = None
        self._polled = asyncio.Event()
        self._hurry = asyncio.Event()
        self.reachable = True

    async def run(self, place: str) -> None:
        """Poll until cancelled; while Redis is unavailable the last poll grows old.

        `place` is the address of Redis, for messages.
        """
        while True:
            try:
                poll = await self._read()
                if poll.fault and poll.fault != self.fault:
                    _log_not_ready(place, poll.fault)
                elif not poll.fault and (self.fault or not self.reachable):
                    log.info("ready again", server="Redis", place=place)
                self._poll, self.reachable = poll, True
            except Exception as error:  # polling must go on after any error
                if self.reachable:
                    _log_not_ready(place, access_errors.redis_reason(error) or str(error))
                self.reachable = False
            self._polled.set()
            self._polled = asyncio.Event()
            await asyncio.sleep(POLL_PAUSE_S)
            await self._wait(self._hurry, POLL_INTERVAL_S - POLL_PAUSE_S)
            self._hurry.clear()

    def hurry(self) -> None:
        """Let the next poll begin at once."""
        self._hurry.set()

    async def next_poll(self, timeout: float) -> None:  # noqa: ASYNC109  a bound, not a deadline
        """Wait for the next poll, at most `timeout` seconds."""
        await self._wait(self._polled, timeout)

    @property
    def fault(self) -> str | None:
        """The fault of the latest poll that Redis answered."""
        return self._poll.fault if self._poll else None

    def age(self, partition: int) -> float | None:
        """Return the seconds since the partition was last fresh; None if it never was."""
        known = self.known(partition)
        return known[0] if known else None

    def known(self, partition: int) -> tuple[float, int] | None:
        """Return the partition's age and the epoch of its stamp; None if it never was fresh."""
        poll = self._poll
        if poll is None or partition >= len(poll.stamps):
            return None
        stamp = poll.stamps[partition]
        if stamp is None:
            return None
        age = (poll.now - stamp.time_ms) / 1000 + (time.monotonic() - poll.sent)
        return max(0.0, age), stamp.epoch

    def stamp(self, partition: int) -> Stamp | None:
        """Return the partition's stamp."""
        return self._stamps[partition] if partition < len(self._stamps) else None

    def ages(self) -> list[float | None]:
        """Return the age of each partition; empty while their number is not known."""
        return [self.age(partition) for partition in range(len(self._stamps))]

    def covers(self, arrival: float, since: float, partition: int | None = None) -> bool:
        """Whether the partition, or else every one, was stamped for a time after `arrival`.

        Only a poll sent at or after `since` proves it. Both are seconds of this process's clock.
        """
        if self._poll is None or not self._poll.stamps or self._poll.sent < since:
            return False
        # A server that was emptied has no views; its owners cannot have noticed before `met_at`.
        arrival = max(arrival, self._server.met_at)
        # Redis took its time after `sent`, so this is at or after the arrival on Redis's clock.
        latest = self._poll.now + (arrival - self._poll.sent) * 1000
        stamps = self._poll.stamps if partition is None else [self.stamp(partition)]
        return all(stamp is not None and stamp.time_ms > latest for stamp in stamps)

    @property
    def _stamps(self) -> tuple[Stamp | None, ...]:
        return self._poll.stamps if self._poll else ()

    @staticmethod
    async def _wait(event: asyncio.Event, seconds: float) -> None:
        # asyncio.wait_for would lose a cancellation that coincides with the event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    async def _read(self) -> Poll:
        sent = time.monotonic()
        (found,) = await redis_batch.execute(self._redis, [("GET", schema.PARTITIONS_KEY)])
        try:
            count = decode_partition_count(found.value) or 0
        except PartitionCountError as error:
            return Poll(found.now, sent, (), str(error))
        keys = [schema.partition_key(partition) for partition in range(count)]
        asked = [("HMGET", key, "stamp", "stamp_epoch") for key in keys]
        answers = await redis_batch.execute(
            self._redis, [*asked, *await redis_batch.barrier_commands(self._redis)]
        )
        for answer in answers:
            if isinstance(answer.value, Exception):
                raise answer.value
        now = answers[0].now if answers else 0.0
        stamps = tuple(_stamp(now, answer) for answer in answers[: len(keys)])
        return Poll(now, sent, stamps)


def _log_not_ready(place: str, reason: str) -> None:
    log.warning("not ready, trying again", server="Redis", place=place, reason=reason)


def _stamp(now: float, answer: CommandResult) -> Stamp | None:
    """Return the stamp by the clock of `now`: in a cluster each server has its own.

    None for a stamp from the future, after a failover to a server whose clock is behind, and for
    one that is not a number; other partitions are not affected.
    """
    time_ms, epoch = answer.value
    try:
        stamp = Stamp(int(time_ms or b"") + now - answer.now, int(epoch or b""))
    except ValueError:
        return None
    return stamp if stamp.time_ms <= now else None
