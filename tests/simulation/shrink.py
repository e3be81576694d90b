"""Makes a failing run smaller: fewer faults, fewer deeds, a shorter run, as long as the same invariant breaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tests.simulation.faults import DAY_S, Fault
from tests.simulation.operators import Deed
from tests.simulation.run import run
from tests.simulation.world import Options, Violation

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass
class _Budget:
    """How many more runs there may be."""

    left: int


def shrink(violation: Violation, say: Say, runs: int = 60) -> Options:
    """Return the smallest options found that break the same invariant, in at most so many runs."""
    budget = _Budget(runs)
    options = _shorter(violation)
    say(f"{len(options.drawn_faults)} faults and {len(options.drawn_deeds)} deeds in {options.days:.2f} days")

    def fails_with_faults(faults: Sequence[Fault]) -> bool:
        return _fails(replace(options, faults=tuple(faults)), violation.number, budget)

    kept = _fewest(options.drawn_faults, fails_with_faults)
    options = replace(options, faults=tuple(kept))
    say(f"{len(kept)} faults are enough")

    def fails_with_deeds(deeds: Sequence[Deed]) -> bool:
        return _fails(replace(options, deeds=tuple(deeds)), violation.number, budget)

    options = replace(options, deeds=tuple(_fewest(options.drawn_deeds, fails_with_deeds)))
    say(f"{len(options.drawn_deeds)} deeds are enough")
    return options


def _shorter(violation: Violation) -> Options:
    """What comes after the violation played no part in it, nor does the rest if it came before that."""
    options = violation.options
    at = violation.at
    return replace(
        options,
        days=min(options.days, at / DAY_S + 0.01),
        rest=options.rest and at >= options.days * DAY_S,
        faults=tuple(each for each in options.drawn_faults if each.at <= at),
        deeds=tuple(each for each in options.drawn_deeds if each.at <= at),
    )


def _fails(options: Options, number: int, budget: _Budget) -> bool:
    if budget.left == 0:
        return False
    budget.left -= 1
    found = run(options)[0].violation
    return found is not None and found.number == number


def _fewest(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> Sequence[T]:
    """Delta debugging: drop ever smaller pieces while it still fails."""
    piece = len(items)
    while piece >= 1:
        begin = 0
        while begin < len(items):
            rest = [*items[:begin], *items[begin + piece :]]
            if fails(rest):
                items = rest
            else:
                begin += piece
        piece //= 2
    return items
