"""Vouchers of one partition: what heartbeats vouch for, and which of that is applied.

A heartbeat vouches: all that happened in its source before the heartbeat `after` was acknowledged
is below its offsets. Once these are applied, so is all of that. No I/O.
"""

import math
import time
from collections.abc import Collection
from typing import Final, NamedTuple

from projector.events.heartbeats import Heartbeat
from projector.kafka.range_reader import Offsets

# Vouchers of one source that are not applied yet, a bound on memory while an owner is behind.
MAX_PENDING: Final = 64
# The end offsets of the embedded broker may be below what it acknowledged, for a moment.
UNTRUE_AFTER_S: Final = 2.0
# Vouchers of one source that an owner looks at between two probes. A sender needs one or two; a
# flood would cost the other partitions of the worker their time.
MAX_CHANGES: Final = 256
NOTHING: Final = -1


class SourceMark(NamedTuple):
    """The end of the topic `sources`, asked after a probe's T0.

    `reading` is the number of the worker's reading of that log, None while it reads another one.
    """

    reading: int | None
    end: int


class Voucher(NamedTuple):
    """One heartbeat's `after`, its own offset, its offsets for the partition, when it was read."""

    after: int
    offset: int
    offsets: Offsets
    read_at: float

    def is_applied(self, applied: Offsets) -> bool:
        """Whether everything that it vouches for is applied."""
        return all(applied[topic] >= offset for topic, offset in self.offsets.items())

    def excess(self, ends: Offsets) -> int:
        """Return by how many records it is beyond the ends."""
        return sum(max(0, at - ends.get(topic, at)) for topic, at in self.offsets.items())

    def makes_needless(self, other: "Voucher") -> bool:
        """Whether the other vouches for no later time, and is applied no sooner."""
        return self.after >= other.after and self.is_applied(other.offsets)


class _Source:
    """One source: the highest `after` that is applied, and the vouchers that are not.

    Vouchers beyond the ends stay until these have grown, or it is certain that they are untrue.
    """

    def __init__(self) -> None:
        self.vouched = NOTHING
        # The highest `after` of those that were kept, applied or not.
        self.highest = NOTHING
        self.pending: list[Voucher] = []
        # How far the furthest of them is beyond the ends, at most; known once there are too many.
        self._furthest: float = math.inf
        self._changes_left = MAX_CHANGES

    def add(self, voucher: Voucher, ends: Offsets) -> bool:
        """Take a voucher; whether it is kept."""
        excess = voucher.excess(ends)
        if excess:
            is_needless = len(self.pending) >= MAX_PENDING and excess >= self._furthest
        else:
            is_needless = voucher.after <= self.vouched
        if is_needless or not self._changes_left:
            return False
        self._changes_left -= 1
        if not excess:
            if any(pending.makes_needless(voucher) for pending in self.pending):
                return False
            self.pending = [
                p for p in self.pending if p.excess(ends) or not voucher.makes_needless(p)
            ]
        self.pending.append(voucher)
        self.highest = max(self.highest, voucher.after)
        if len(self.pending) > MAX_PENDING:
            self._thin_out(ends)
        return True

    def _thin_out(self, ends: Offsets) -> None:
        """Drop the voucher that is furthest beyond the ends; if none is, every second one.

        So a flood of vouchers that cannot be true drops none that can. Of the others the oldest is
        applied first, and the newest vouches for the latest time: both stay.
        """
        *_, second, furthest = sorted(self.pending, key=lambda voucher: voucher.excess(ends))
        self._furthest = second.excess(ends) or math.inf
        if furthest.excess(ends):
            self.pending.remove(furthest)
        else:
            self.pending = self.pending[:-1:2] + self.pending[-1:]

    def apply(self, applied: Offsets, ends: Offsets) -> bool:
        """Take the pending vouchers that are applied; whether it vouches for a later time then."""
        before = self.vouched
        self.vouched = max([before, *(v.after for v in self.pending if v.is_applied(applied))])
        self.pending = [v for v in self.pending if v.after > self.vouched or v.excess(ends)]
        return self.vouched > before

    def take_untrue(self, ends: Offsets, asked_at: float) -> list[Voucher]:
        """Take out the vouchers beyond the ends, which were asked well after they were read."""
        self._changes_left = MAX_CHANGES
        untrue = [
            voucher
            for voucher in self.pending
            if asked_at - voucher.read_at >= UNTRUE_AFTER_S and voucher.excess(ends)
        ]
        self.pending = [voucher for voucher in self.pending if voucher not in untrue]
        return untrue

    def may_vouch(self, end: int, ends: Offsets) -> bool:
        """Whether a pending voucher, once applied, vouches for the time of this end."""
        return any(voucher.after >= end and not voucher.excess(ends) for voucher in self.pending)


class Vouchers:
    """One partition's vouchers, by source.

    `counted_at` has this process's wall clock in ms at the last heartbeat of each source that
    counted, None before the first.
    """

    def __init__(self, partition: int, names: Collection[str]) -> None:
        self._partition = partition
        self._sources = {name: _Source() for name in names}
        self._reading: int | None = None
        self._ends: Offsets = {}
        self.counted_at: dict[str, int | None] = dict.fromkeys(names)

    def begin(self, reading: int | None) -> None:
        """Forget all vouchers: offsets of another log of `sources` do not compare with these."""
        self._reading = reading
        self._sources = {name: _Source() for name in self._sources}

    def note(self, heartbeat: Heartbeat, read_at: float) -> bool:
        """Take a heartbeat; whether it may vouch for more than the ones before.

        `read_at` is a time of the loop's clock.
        """
        # The first heartbeat of a sender vouches for nothing.
        after = NOTHING if heartbeat.after is None else heartbeat.after
        offsets = heartbeat.next_offsets(self._partition)
        voucher = Voucher(after, heartbeat.offset, offsets, read_at)
        return self._sources[heartbeat.source].add(voucher, self._ends)

    def take_untrue(self, ends: Offsets, asked_at: float) -> list[tuple[str, Voucher]]:
        """Take out the vouchers beyond these ends, which were asked well after they were read."""
        self._ends = ends
        return [
            (name, voucher)
            for name, source in self._sources.items()
            for voucher in source.take_untrue(ends, asked_at)
        ]

    def apply(self, applied: Offsets) -> list[str]:
        """Take the vouchers that are applied; return the sources that vouch for a later time."""
        sources, ends = self._sources.items(), self._ends
        risen = [name for name, source in sources if source.apply(applied, ends)]
        self.counted_at |= dict.fromkeys(risen, int(time.time() * 1000))
        return risen

    def missing(self, mark: SourceMark) -> list[str]:
        """Return the sources that do not vouch for the mark's time."""
        sources = self._sources.items()
        is_here = self._is_here(mark)
        return [name for name, source in sources if not is_here or source.vouched < mark.end]

    def may_vouch(self, mark: SourceMark) -> bool:
        """Whether all sources vouch for the mark's time once their heartbeats are applied.

        Also if offsets are beyond the ends: these may have grown since.
        """
        return self._is_here(mark) and all(
            source.highest >= mark.end for source in self._sources.values()
        )

    def silent(self, mark: SourceMark) -> list[str]:
        """Return the sources without any heartbeat that could vouch for the mark's time."""
        if not self._is_here(mark):
            return []
        sources = ((name, self._sources[name]) for name in self.missing(mark))
        return [name for name, source in sources if not source.may_vouch(mark.end, self._ends)]

    def _is_here(self, mark: SourceMark) -> bool:
        return mark.reading is not None and mark.reading == self._reading
