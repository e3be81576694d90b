"""Whether a pause stands, and how to speak of it."""

from __future__ import annotations

from datetime import UTC, datetime

from shared.records import Pause


def stands(pause: Pause | None, now: datetime) -> bool:
    """Whether the pause is in force. Pure. A time that a person wrote without a zone is taken as UTC."""
    return pause is not None and (pause.until is None or _utc(pause.until) > now)


def of_automation(pause: Pause | None, now: datetime) -> Pause | None:
    """Return the pause where it is of all automation and in force: nobody is taken out and nothing removed. Pure."""
    return pause if pause is not None and pause.what == "automation" and stands(pause, now) else None


def sentence(pause: Pause) -> str:
    """Say who paused what, until when, and why. Pure."""
    until = "until somebody lifts it" if pause.until is None else f"until {_utc(pause.until):%Y-%m-%d %H:%M} UTC"
    because = f": {pause.reason}" if pause.reason else ""
    return f"{pause.by} paused {pause.what} {until}{because}"


def _utc(time: datetime) -> datetime:
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
