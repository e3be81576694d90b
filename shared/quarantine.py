"""Since when something is kept aside: a tag on the instance or image."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from shared.ids import QUARANTINE_TAG


def since(tags: Mapping[str, str]) -> datetime | None:
    """Read the quarantine tag; None when there is none, or it is no time. Pure."""
    try:
        time = datetime.fromisoformat(tags.get(QUARANTINE_TAG, ""))
    except ValueError:
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
