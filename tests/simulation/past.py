"""What was: so that a read may be answered with it."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")

REMEMBERED_S = 120.0
"""Longer than any read is ever late."""


class Past(Generic[T]):
    """A value, and those that it had a little while ago."""

    def __init__(self, at: float, value: T) -> None:
        self._entries = [(at, value)]
        self.began = at

    @property
    def now(self) -> T:
        """The value now."""
        return self._entries[-1][1]

    def set(self, at: float, value: T) -> None:
        """Change the value."""
        while len(self._entries) > 1 and self._entries[1][0] < at - REMEMBERED_S:
            del self._entries[0]
        self._entries.append((at, value))

    def at(self, moment: float) -> T | None:
        """Return the value as it was at that moment; None before there was any."""
        if moment >= self._entries[-1][0]:
            return self.now
        if moment < self.began:
            return None
        return next((value for at, value in reversed(self._entries) if at <= moment), self._entries[0][1])
