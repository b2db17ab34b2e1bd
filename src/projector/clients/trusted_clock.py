"""Belief in the clock of one Redis server, held against this process's own clock.

Tokens and memberships end by Redis `TIME`. One wrong reading would end them, or keep them, without
a reason. So a reading that ran away from this process's clock is not believed until it has stood.
"""

from enum import Enum
from typing import Final

from redis.exceptions import RedisError

# NTP slews or steps a healthy clock by less. A smaller step changes ages by its own length.
TOLERANCE_MS: Final = 3000.0
# The first reading has only this machine's wall clock beside it, which may be minutes wrong.
START_TOLERANCE_MS: Final = 600_000.0
# Longer than the step of a restarted time service, or of a resumed machine, lasts. A jump that has
# stood for so long is the time by which everything is judged again.
HOLD_S: Final = 30.0
# Begins the reason of an outage; the status looks for it.
JUMPED: Final = "its clock jumped"
# The difference of two disciplined clocks may grow by this part of the time that has passed.
DRIFT: Final = 0.001
# Epochs are milliseconds of 12 hex digits that begin with 0, until the year 2527.
LATEST_MS: Final = float(2**44 - 10**12)


class ClockError(RedisError):
    """Redis answers with a time that is not believed yet: an outage, to be tried again."""


class Verdict(Enum):
    """The meaning of one reading."""

    AGREES = "agrees"
    JUMPED = "jumped"
    STRAYS = "strays"
    CAME_BACK = "came back"
    STOOD = "stood"

    @property
    def is_believed(self) -> bool:
        """Whether the reading may be used."""
        return self not in (Verdict.JUMPED, Verdict.STRAYS)

    @property
    def ends_jump(self) -> bool:
        """Whether Redis may have expired keys by a wrong time, or time was corrected."""
        return self in (Verdict.CAME_BACK, Verdict.STOOD)


class TrustedClock:
    """The believed difference between a Redis server's clock and this process's own.

    Readings are in ms. Times of this process are seconds of one clock that never steps. `wall_ms`
    is this machine's wall clock at the time `now`, the only reference of the first reading.
    """

    def __init__(self, wall_ms: float, now: float) -> None:
        self._offset = wall_ms - now * 1000
        self._tolerance = START_TOLERANCE_MS
        self._read_at: float | None = None
        # The difference that is not believed yet, and since when.
        self._stray: tuple[float, float] | None = None

    def expected(self, now: float) -> float | None:
        """Return the believed time in ms at `now`; None before a reading was believed."""
        return None if self._read_at is None else self._offset + now * 1000

    def distance(self, reading: float, now: float) -> float:
        """Return by how many ms a reading is ahead of what is believed."""
        return reading - now * 1000 - self._offset

    def note(self, reading: float, sent: float, received: float) -> Verdict:
        """Judge a reading that was asked for at `sent` and was there at `received`."""
        span = reading - received * 1000, reading - sent * 1000
        if _gap(self._offset, span) <= self._tolerance:
            self._follow(span, received)
            came_back, self._stray = self._stray is not None, None
            return Verdict.CAME_BACK if came_back else Verdict.AGREES
        if self._stray is None or _gap(self._stray[0], span) > TOLERANCE_MS:
            verdict = Verdict.JUMPED if self._stray is None else Verdict.STRAYS
            self._stray = _middle(span), received
            return verdict
        difference, since = self._stray
        if sent - since < HOLD_S or reading > LATEST_MS:
            return Verdict.STRAYS
        self._believe(difference, received)
        self._stray = None
        return Verdict.STOOD

    def _follow(self, span: tuple[float, float], now: float) -> None:
        """Follow a slow drift, but no faster, or many small jumps would pass as none."""
        if self._read_at is None:
            self._believe(_middle(span), now)
            return
        most = DRIFT * 1000 * max(0.0, now - self._read_at)
        wanted = min(max(self._offset, span[0]), span[1]) - self._offset
        self._believe(self._offset + min(max(wanted, -most), most), max(now, self._read_at))

    def _believe(self, offset: float, now: float) -> None:
        self._offset, self._read_at, self._tolerance = offset, now, TOLERANCE_MS


def _gap(offset: float, span: tuple[float, float]) -> float:
    """Return how far the difference is outside the span that a reading allows."""
    return max(span[0] - offset, offset - span[1], 0.0)


def _middle(span: tuple[float, float]) -> float:
    return (span[0] + span[1]) / 2
