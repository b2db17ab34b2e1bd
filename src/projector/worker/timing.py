"""Intervals and timeouts of a worker's owners, common moments, and turns of long work."""

import asyncio
import time
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple


class Timing(NamedTuple):
    """Intervals and timeouts of one worker's owners, all in seconds."""

    # A stamp is at best this old; the API polls stamps as often.
    probe_interval_s: float = 0.25
    # After this time a probe of a frozen broker is given up, and the next one asks again.
    probe_timeout_s: float = 2.0
    # A record that the broker has and Faust does not deliver for so long is read from Kafka.
    stall_s: float = 2.0
    # A claim beside an open transaction looks so often whether it has ended.
    open_pause_s: float = 0.5
    # Deliveries gather while the owner is busy, because larger batches need fewer writes.
    gather_s: float = 0.005
    # An owner that is behind is late already, so more deliveries may gather.
    gather_behind_s: float = 0.02
    # Loads, events and timers yield this often, or heartbeats fail and other partitions grow stale.
    # One step may add some 10 ms.
    turn_s: float = 0.02
    # The first heal begins at once. Between two, other partitions get their share of Redis.
    heal_pause_s: float = 0.5
    # Lost history does not come back by itself, so the owner looks for it rarely.
    history_pause_s: float = 10.0
    # Activity is for operators, and must not cost Redis more than a stamp does.
    publish_interval_s: float = 5.0
    # Without a stamp for so long, an owner reports this often: else it would pass for a dead one.
    unstamped_s: float = 1.0
    # An API without the number of partitions answers no lookup.
    restore_count_s: float = 1.0
    # The worker that took the claim may be shutting down.
    claim_again_s: float = 5.0
    # Other workers learn of a rebalance at their next heartbeat, then load their new partitions.
    hand_over_s: float = 4.0
    # An owner that cannot finish its batch in this time is cancelled.
    stop_timeout_s: float = 5.0


DEFAULT_TIMING: Final = Timing()


class Moments:
    """The moments, one every interval, at which all owners of a worker go on in the same turn.

    They begin with the object, so that workers on one machine do not all ask at once.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._began = time.monotonic()
        self._next: asyncio.Event | None = None

    async def wait(self) -> None:
        """Wait for the next moment."""
        if self._next is None:
            self._next = asyncio.Event()
            loop = asyncio.get_running_loop()
            past = (loop.time() - self._began) % self._interval_s
            loop.call_later(self._interval_s - past, self._come, self._next)
        await self._next.wait()

    def hurry(self) -> None:
        """Let those who wait go on now; the moment after that comes as ever."""
        if self._next:
            self._come(self._next)

    def _come(self, moment: asyncio.Event) -> None:
        if self._next is moment:
            self._next = None
        moment.set()


async def in_turns(
    steps: Iterator[None], turn_s: float, interrupt: Collection[object] = ()
) -> None:
    """Take the steps of long work; other tasks run whenever they took longer than `turn_s`.

    Return early once `interrupt` is not empty; the caller may then take the other steps.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    for _ in steps:
        if interrupt:
            return
        if clock() - began > turn_s:
            await asyncio.sleep(0)
            began = clock()
