"""Times as control knows and writes them."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Returns the present time."""
    return datetime.now(UTC)


def rfc3339(time: datetime, timespec: str = "seconds") -> str:
    """Returns a time in UTC by RFC 3339; `timespec` is as of datetime.isoformat."""
    return time.isoformat(timespec=timespec).replace("+00:00", "Z")
