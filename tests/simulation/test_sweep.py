"""Each workflow, struck at each of its awaits in each way, ends as it does when nothing goes wrong.

A run of the tests takes a seeded sample; ``make sweep`` takes them all.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import pytest

from tests.simulation.workflows import HOWS, WORKFLOWS, How, Strike, fault_free, play, strikes

SAMPLE = int(os.environ.get("SWEEP_SAMPLE", "6"))
"""Strikes a workflow and way; 0: all. Changes of AWS come before the queue's and before reads."""


@pytest.mark.fault(1, 18, 23, 25, 26, 38)
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", WORKFLOWS)
@pytest.mark.timeout(3600)
def test_a_struck_workflow_ends_as_it_does_without_faults(name: str, how: How) -> None:
    expected = fault_free(name)
    assert not expected.wrong
    for strike in sampled(name, how):
        step = expected.steps[strike.number]
        ending = play(name, strike, expected.state)
        where = f"{name}, {step.service} at call {step.number} ({step.method}): {how}"
        assert not ending.wrong, (where, ending.wrong)
        assert ending.state == expected.state, where


def sampled(name: str, how: How) -> Sequence[Strike]:
    """Return some strikes, the same each time: two thirds of them at calls that change AWS itself."""
    steps, chance = fault_free(name).steps, random.Random(f"{name} {how}")
    possible = [each for each in strikes(name) if each.how == how]
    if not SAMPLE:
        return possible
    chance.shuffle(possible)
    outside = [each for each in possible if steps[each.number].writes and "queue." not in steps[each.number].method]
    inside = [each for each in possible if each not in outside]
    return [*outside[: SAMPLE * 2 // 3], *inside[: SAMPLE - SAMPLE * 2 // 3]]


def test_every_workflow_has_calls_that_change_something_outside() -> None:
    for name in WORKFLOWS:
        assert any(step.writes and "queue." not in step.method for step in fault_free(name).steps), name
