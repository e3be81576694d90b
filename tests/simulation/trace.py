"""What happened, in order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One thing that happened: when (seconds), what kind of thing, who did it, and the rest in words."""

    at: float
    kind: str
    who: str
    text: str

    def __str__(self) -> str:
        seconds = int(self.at)
        days, hours, minutes = seconds // 86_400, seconds // 3600 % 24, seconds // 60 % 60
        return f"{days}d {hours:02}:{minutes:02}:{self.at % 60:06.3f} {self.kind:<10} {self.who:<14} {self.text}"


class Trace:
    """All lines, and a digest of them that tells two runs apart."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def say(self, at: float, kind: str, who: str, text: str) -> None:
        """Add a line."""
        self.lines.append(Line(at, kind, who, text))

    def digest(self) -> str:
        """Return the SHA-256 of all lines."""
        digest = hashlib.sha256()
        for line in self.lines:
            digest.update(f"{line}\n".encode())
        return digest.hexdigest()

    def last(self, count: int) -> Iterator[str]:
        """Return the last lines."""
        return (str(line) for line in self.lines[-count:])
