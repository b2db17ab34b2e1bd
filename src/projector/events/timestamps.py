"""Timestamps in milliseconds since 1970, as RFC 3339."""

from datetime import UTC, datetime


def to_rfc3339(timestamp_ms: int) -> str:
    """Format a timestamp in UTC; one beyond the calendar as its number of milliseconds."""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{timestamp_ms} ms since 1970"
