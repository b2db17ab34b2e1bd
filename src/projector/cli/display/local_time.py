"""Times for people: local, and without the date where it is today."""

from datetime import datetime

MINUTE_S = 60
HOUR_S = 3600
DAY_S = 24 * HOUR_S


def local_time(ms: int, now_ms: int) -> str:
    """Write `08:00:00`, with the date unless it is that of `now_ms`."""
    try:
        then, now = (datetime.fromtimestamp(at / 1000).astimezone() for at in (ms, now_ms))
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms since 1970"
    return f"{then:%H:%M:%S}" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M:%S}"


def local_time_of(rfc3339: str, now_ms: int) -> str:
    """Write a time of an explanation likewise; one beyond the calendar as it is."""
    try:
        return local_time(round(datetime.fromisoformat(rfc3339).timestamp() * 1000), now_ms)
    except (ValueError, OverflowError):
        return rfc3339


def duration(seconds: float) -> str:
    """Write `5.5 s`, `28 s`, `12 min`, `3 h` or `4 days`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    if seconds < 2 * DAY_S:
        return f"{seconds / HOUR_S:.0f} h"
    return f"{seconds / DAY_S:.0f} days"
