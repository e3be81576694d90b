"""Each workflow, struck at each of its awaits and changes in each way, ends as it does when nothing goes wrong.

A run of the tests takes a seeded sample; ``make sweep`` takes them all.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping

import pytest

from tests.simulation.workflows import AT_AWAITS, HOWS, WORKFLOWS, Call, How, Strike, fault_free, play, ready, strikes

SAMPLE = int(os.environ.get("SWEEP_SAMPLE", "6"))
"""Strikes a workflow and way; 0: all."""


@pytest.mark.fault(1, 18, 23, 25, 26, 38)
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", WORKFLOWS)
@pytest.mark.timeout(3600)
def test_a_struck_workflow_ends_as_it_does_without_faults(name: str, how: How) -> None:
    expected = fault_free(name)
    assert not expected.wrong
    with ready(WORKFLOWS[name]) as world:
        for number, call in sampled(name, how).items():
            ending = play(world, WORKFLOWS[name], Strike(how, number), expected.state)
            where = f"{name}, {call.service} {'after' if how in AT_AWAITS else 'at'} {call.method} ({number}): {how}"
            assert not ending.wrong, (where, ending.wrong)
            assert ending.state == expected.state, where


def sampled(name: str, how: How) -> Mapping[int, Call]:
    """Return some places, the same each time: two thirds of them at changes of more than the queue."""
    possible, chance = strikes(name, how), random.Random(f"{name} {how}")
    if not SAMPLE:
        return possible
    outside = [number for number, call in possible.items() if call.writes and "queue." not in call.method]
    some = chance.sample(outside, min(len(outside), SAMPLE * 2 // 3))
    others = [number for number in possible if number not in outside]
    return {number: possible[number] for number in (*some, *chance.sample(others, SAMPLE - len(some)))}


def test_every_workflow_has_calls_that_change_something_outside() -> None:
    for name in WORKFLOWS:
        assert any(call.writes and "queue." not in call.method for call in fault_free(name).calls), name
