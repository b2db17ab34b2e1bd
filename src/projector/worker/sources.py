"""Heartbeats of the sources, read once for all owners of a worker.

Only heartbeats of named sources reach the owners. All others are counted, and logged now and then,
so that no sender can fill a worker's memory or its log.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Final, NoReturn, Protocol
from uuid import UUID

import structlog

from projector import metrics
from projector.clients.retry import retry_outages
from projector.config.settings import Settings
from projector.events import redaction
from projector.events.heartbeats import Heartbeat, UntrueHeartbeatError, decode_heartbeat
from projector.events.model import BadEvent, SourceRecord
from projector.events.timestamps import to_rfc3339
from projector.kafka.broker_protocol import PartitionLeader
from projector.kafka.range_reader import RangeReader
from projector.kafka.source_reader import Poll, SourceReader
from projector.worker.timing import DEFAULT_TIMING, Timing, in_turns
from projector.worker.vouchers import SourceMark, Vouchers

log = structlog.get_logger()

# Seconds. A sender repeats its fault four times a second.
REPORT_AGAIN_S: Final = 60.0
# Characters in the log of a name that is not a source's.
MAX_NAME: Final = 100
# Heartbeats that were found untrue; several owners find each.
MAX_FOUND: Final = 64
# Heartbeats of one source whose offsets are remembered, a bound on memory: some 15 minutes of one
# sender.
MAX_REMEMBERED: Final = 4096
# Seconds. A slow sender falls silent and returns every few.
SILENCE_AGAIN_S: Final = 10.0
# Seconds. A source whose heartbeat counted lately is not silent, although a partition waits for it.
COUNTED_LATELY_S: Final = 1.0
OTHER: Final = "other"
UNKNOWN, INVALID, UNTRUE = "unknown", "invalid", "untrue"

_Log = tuple[int, int, UUID | None]


class Reader(Protocol):
    """Opens the topic `sources` at its end."""

    def open(self) -> AbstractAsyncContextManager[tuple[PartitionLeader, int, Poll]]:
        """Return its leader, its end, and a call that waits for the next records."""
        ...


class Sources:
    """The named sources, and the one reading of their heartbeats.

    Each reading has a number. A new one begins when the leader of the topic, its epoch or the
    topic's id changes: `after` and ends compare within one log alone.
    """

    def __init__(
        self, names: tuple[str, ...], partitions: int, reader: Reader,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:  # fmt: skip
        self.names = names
        self._partitions = partitions
        self._reader = reader
        self._timing = timing
        self._keys = {name.encode(): name for name in names}
        self._listeners: dict[Vouchers, Callable[[], object]] = {}
        self._log: _Log | None = None
        self._reading = 0
        # The offset behind the last record that was read.
        self._arrived = 0
        # Where this reading began, and the offsets of the heartbeats that it has read, by source.
        self._start = 0
        self._read_at = {name: RecentOffsets() for name in names}
        self._is_over = False
        self._counted = dict.fromkeys(names, -math.inf)
        self._silence_logs = {name: SilenceLog(name) for name in names}
        self._refusals = Refusals(names)
        self._untrue: deque[int] = deque(maxlen=MAX_FOUND)
        for name in names:
            metrics.SOURCE_AGE.labels(name).set_function(
                lambda name=name: time.monotonic() - self._counted[name]  # type: ignore[misc]
            )

    async def run(self) -> NoReturn:
        """Read heartbeats until cancelled."""
        while True:
            await self._read()

    @retry_outages
    async def _read(self) -> None:
        """Read until the log is another one."""
        try:
            async with self._reader.open() as (leader, start, poll):
                self._begin(_log_of(leader), start)
                while not self._is_over:
                    await in_turns(self._take(await poll()), self._timing.turn_s)
        finally:
            # Nothing vouches until the next reading has begun.
            self._log = None

    def _begin(self, found: _Log, start: int) -> None:
        self._log, self._start, self._is_over = found, start, False
        self._reading += 1
        # No mark is below it: `after` from before the reading is not looked up.
        self._arrived = start
        self._read_at = {name: RecentOffsets() for name in self.names}
        for vouchers in self._listeners:
            vouchers.begin(self._reading)

    @contextmanager
    def listening(self, vouchers: Vouchers, wake: Callable[[], object]) -> Iterator[None]:
        """Give an owner's vouchers each heartbeat; call `wake` if it may vouch for more."""
        vouchers.begin(self._reading)
        self._listeners[vouchers] = wake
        try:
            yield
        finally:
            del self._listeners[vouchers]

    def mark(self, leader: PartitionLeader, end: int) -> SourceMark:
        """Return the mark of a probe whose witnesses named this leader, which named this end.

        Another leader than the reading's ends the reading.
        """
        found = _log_of(leader)
        if found == self._log:
            # The end offsets of the embedded broker may be below what it has delivered.
            return SourceMark(self._reading, max(end, self._arrived))
        if self._log and not _is_older(found, self._log):
            self._is_over = True
        return SourceMark(None, end)

    def count(self, name: str) -> None:
        """Note that a heartbeat of the source counted."""
        self._counted[name] = time.monotonic()
        self._silence_logs[name].end()

    def report_silence(self, name: str, since_ms: int) -> None:
        """Log that stamps wait for the source, unless another partition's do not.

        `since_ms` is the last T0 that it vouched for, or 0.
        """
        if time.monotonic() - self._counted[name] >= COUNTED_LATELY_S:
            self._silence_logs[name].begin(since_ms)

    def report_untrue(self, name: str, offset: int, partition: int) -> None:
        """Report a heartbeat with offsets beyond the ends of a partition, once for all owners."""
        if offset not in self._untrue:
            self._untrue.append(offset)
            reason = f"its offsets are beyond the ends of partition {partition}"
            self._refusals.report(name, UNTRUE, offset, reason)

    def _take(self, records: list[SourceRecord]) -> Iterator[None]:
        for record in records:
            self._arrived = max(self._arrived, record.offset + 1)
            if heartbeat := self._decode(record):
                self._pass_on(heartbeat)
            yield

    def _decode(self, record: SourceRecord) -> Heartbeat | None:
        name = self._keys.get(record.key or b"")
        if name is None:
            # Before it is decoded: others' records cost next to nothing.
            reason = "no source of this name is configured"
            self._refusals.report(record.key or b"", UNKNOWN, record.offset, reason)
            return None
        try:
            heartbeat = decode_heartbeat(record, self._partitions)
            self._refuse_unknown_after(name, heartbeat.after)
        except UntrueHeartbeatError as error:
            # Its sender got an acknowledgement of it all the same, and may go on from there.
            self._read_at[name].add(record.offset)
            self._refusals.report(name, UNTRUE, record.offset, str(error))
            return None
        except BadEvent as error:
            self._refusals.report(name, INVALID, record.offset, str(error))
            return None
        self._read_at[name].add(record.offset)
        return heartbeat

    def _refuse_unknown_after(self, name: str, after: int | None) -> None:
        """Raise `UntrueHeartbeatError` if `after` is not a heartbeat of the source.

        An offset of another log, from before the topic was made again, may be a record of anyone
        here. Heartbeats before the reading are not remembered: they vouch for no probe.
        """
        if after is not None and after >= self._start and after not in self._read_at[name]:
            raise UntrueHeartbeatError(
                f"`data.after` is {after}, where no recent heartbeat of {name!r} is"
            )

    def _pass_on(self, heartbeat: Heartbeat) -> None:
        if not self._listeners and heartbeat.after is not None:
            self.count(heartbeat.source)
        read_at = asyncio.get_running_loop().time()
        for vouchers, wake in self._listeners.items():
            if vouchers.note(heartbeat, read_at):
                wake()


class RecentOffsets:
    """The last offsets of one source's heartbeats."""

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._known: set[int] = set()

    def __contains__(self, offset: int) -> bool:
        return offset in self._known

    def add(self, offset: int) -> None:
        """Add an offset, and forget the oldest of too many."""
        self._order.append(offset)
        self._known.add(offset)
        if len(self._order) > MAX_REMEMBERED:
            self._known.discard(self._order.popleft())


class SilenceLog:
    """The log of one source's silence: once for all owners, at most every ten seconds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._began: float | None = None
        self._due = -math.inf

    def begin(self, since_ms: int) -> None:
        """Log the beginning, unless that is done, or the last was less than ten seconds ago."""
        now = time.monotonic()
        if self._began is None and now >= self._due:
            self._began, self._due = now, now + SILENCE_AGAIN_S
            since = to_rfc3339(since_ms) if since_ms else None
            log.warning("source silent", source=self._name, since=since)

    def end(self) -> None:
        """Log the end of a silence whose beginning was logged."""
        if self._began is not None:
            seconds = round(time.monotonic() - self._began, 1)
            log.info("source vouches again", source=self._name, seconds=seconds)
            self._began = None


class Refusals:
    """Refused heartbeats: each counted, and one of a kind logged now and then."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._due: dict[tuple[str, str], float] = {}
        self._unlogged: Counter[tuple[str, str]] = Counter()
        for name in names:
            for kind in (INVALID, UNTRUE):
                metrics.HEARTBEATS_REFUSED.labels(name, kind)
        metrics.HEARTBEATS_REFUSED.labels(OTHER, UNKNOWN)

    def report(self, name: str | bytes, kind: str, offset: int, reason: str) -> None:
        """Count a refused heartbeat; a `name` as bytes is a key that is not a source's name."""
        label = name if isinstance(name, str) else OTHER
        metrics.HEARTBEATS_REFUSED.labels(label, kind).inc()
        key, now = (label, kind), time.monotonic()
        self._unlogged[key] += 1
        if now >= self._due.get(key, -math.inf):
            self._due[key] = now + REPORT_AGAIN_S
            log.warning("heartbeat refused", source=_readable(name), kind=kind, offset=offset,
                        reason=reason, heartbeats=self._unlogged.pop(key))  # fmt: skip


def _readable(name: str | bytes) -> str:
    # Redacted first: a part of a token would not be recognised.
    text = name if isinstance(name, str) else redaction.redact_text(name.decode(errors="replace"))
    return text[:MAX_NAME]


def create_sources(settings: Settings, partitions: int, reader: RangeReader) -> Sources | None:
    """Create the sources that the settings name; None without any."""
    names = settings.source_names
    return Sources(names, partitions, SourceReader(settings, reader)) if names else None


def _log_of(leader: PartitionLeader) -> _Log:
    return leader.leader, leader.epoch, leader.topic_id


def _is_older(found: _Log, known: _Log) -> bool:
    """Whether it is an answer from before the known one: of two owners, one may be late."""
    return found[2] == known[2] and found[1] < known[1]
