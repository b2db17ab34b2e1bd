"""The clock of freshness: it counts the time that the machine was suspended."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

# Linux's CLOCK_MONOTONIC, and with it time.monotonic, stops while the machine is suspended: a stamp
# would seem as fresh after a night as before it. That of macOS goes on.
CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

# Seconds since boot, sleep included. Not a `def`, which would cost a lookup twice as much.
elapsed: Final[Callable[[], float]] = partial(time.clock_gettime, CLOCK)
