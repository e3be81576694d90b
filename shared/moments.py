"""Times that people wrote."""

from __future__ import annotations

from datetime import UTC, datetime


def in_utc(time: datetime) -> datetime:
    """Return the time with its zone; one that was written without a zone is UTC. Pure."""
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def moment(text: str) -> datetime | None:
    """Read an ISO 8601 time, such as a tag's value; None when it is none. Pure."""
    try:
        return in_utc(datetime.fromisoformat(text))
    except ValueError:
        return None
