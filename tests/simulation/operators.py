"""What people do during a run, drawn from the seed: requests, edits, releases, and mistakes."""

from __future__ import annotations

import random
from dataclasses import dataclass

DAY_S = 86_400.0

KINDS = (
    "rollback",
    "rollback",
    "pin",
    "disable",
    "disable",
    "kill",
    "kill",
    "pause",
    "edit",
    "edit-wrong",
    "edit-garbage",
    "delete-pointer",
    "bake",
    "bake",
    "bakes",
    "release",
    "release",
    "release",
    "release",
    "bad-release",
    "bad-release",
    "undo-release",
    "malformed",
    "forged",
    "unknown-fleet",
    "unknown-server",
    "corrupt",
)


@dataclass(frozen=True)
class Deed:
    """One thing that somebody does. ``amount`` is for how long it stands, or which server it is about."""

    at: float
    kind: str
    amount: float

    def __str__(self) -> str:
        return f"{self.kind} {self.amount:.2f}"


CLEAN_EVERY_S = 2 * 3600.0
"""The schedule has the janitor look once a day: in a single day it would hardly ever come to retire an image."""


def draw(seed: int, days: float, a_day: float = 20) -> tuple[Deed, ...]:
    """Draw what people do, in order. They begin with a bake, and have the janitor look every other hour."""
    chance = random.Random(f"{seed} operators")
    count = max(1, round(a_day * days))
    deeds = [Deed(chance.uniform(3600, days * DAY_S), chance.choice(KINDS), chance.random()) for _ in range(count)]
    looks = [
        Deed(number * CLEAN_EVERY_S + chance.uniform(0, CLEAN_EVERY_S), "clean", 0.0)
        for number in range(1, int(12 * days))
    ]
    return tuple(sorted([Deed(1800.0, "bake", 0.0), *looks, *deeds], key=lambda each: each.at))
