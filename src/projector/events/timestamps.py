"""Milliseconds since 1970 as RFC 3339."""

from datetime import UTC, datetime


def to_rfc3339(moment: int) -> str:
    """Milliseconds since 1970 as a date and time; as they are where no calendar reaches."""
    try:
        return datetime.fromtimestamp(moment / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{moment} ms since 1970"
