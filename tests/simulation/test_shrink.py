"""A failing run becomes a small one that fails alike."""

from __future__ import annotations

import pytest

from tests.simulation.run import run
from tests.simulation.shrink import shrink
from tests.simulation.world import Options, World


@pytest.fixture
def incidents_violate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an invariant break whenever people have an incident."""
    say = World.say

    def heard(world: World, kind: str, who: str, text: str) -> None:
        say(world, kind, who, text)
        if (kind, text) == ("alarm", "ALARM"):
            world.violated(12, "planted")

    monkeypatch.setattr(World, "say", heard)


@pytest.mark.usefixtures("incidents_violate")
def test_of_all_that_went_wrong_only_what_makes_it_fail_is_left() -> None:
    failing, _ = run(Options(seed=24, days=0.1))
    assert failing.violation is not None
    told: list[str] = []
    smallest = shrink(failing.violation, told.append)
    assert [each.kind for each in smallest.drawn_faults] == ["incident"]
    assert not smallest.drawn_deeds
    assert smallest.days < 0.1
    assert not smallest.rest
    assert told[-2:] == ["1 faults are enough", "0 deeds are enough"]
    again, _ = run(smallest)
    assert again.violation is not None
    assert again.violation.what == "planted"


@pytest.mark.usefixtures("incidents_violate")
def test_no_more_runs_are_made_than_allowed() -> None:
    failing, _ = run(Options(seed=24, days=0.1, rest=False))
    assert failing.violation is not None
    smallest = shrink(failing.violation, lambda _: None, runs=3)
    assert len(smallest.drawn_faults) > 1
    again, _ = run(smallest)
    assert again.violation is not None
