"""What a benchmark says."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One figure, beside what it is compared with. ``ratio`` is measured to the best rival, None without rivals."""

    name: str
    measured: float | None
    unit: str
    goal: str
    command: str
    rivals: dict[str, float | None] = field(default_factory=dict)
    ratio: float | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as ``bench/results.json`` keeps it."""
        return asdict(self)


def ratio(measured: float | None, rival: float | None) -> float | None:
    """Return measured to rival, None where either is missing."""
    return round(measured / rival, 3) if measured is not None and rival else None
