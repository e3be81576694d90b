"""Times as people and documents write them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator


def utc(time: datetime) -> datetime:
    """Return the time in UTC; one without a zone is taken to be in UTC. Pure."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


Moment = Annotated[datetime, AfterValidator(utc)]
"""A time that compares with every other: people leave out the zone."""
