"""Most calls take a limited number of ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def lots(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of at most ``size``; nothing for nothing."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
