"""Going on with last good releases: who is suspected, what is tried instead, and who is blamed in the end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from shared.components import Standing, Standings
from shared.fallback import changed, conclude, fallbacks, planned, suspects, unplanned
from shared.fleet import Fleet
from shared.messages import AlertRaised
from shared.records import Attempt, Broken, Fallback, Release, Verdict
from shared.runs import NoPlan, Runs
from tests.unit.fleetworld import FLEET, proven

NOW = datetime(2026, 11, 23, tzinfo=UTC)
TWO = Fleet.model_validate(
    {
        **FLEET,
        "plan": [
            {"step": "tools", "sync": "tools", "to": "opt/tools"},
            {"step": "code", "sync": "app", "to": "srv/app"},
            {"step": "compile", "run": "compile.sh", "script": "true", "needs": ["code", "tools"]},
            {"step": "health", "check": "http://{address}/health", "needs": ["compile"]},
        ],
    }
)


def standing(component: str, now: str | None, good: str | None, setting: int = 3, *, broken: bool = False) -> Standing:
    current = now and Release(component=component, version=now, since=NOW, by="ada", generation=setting)
    judged = Broken(version=now or "", setting=setting, at=NOW, by="a launch", reason="it broke") if broken else None
    return Standing(component, current or None, Verdict(component=component, good=good, broken=judged))


def fallback(component: str = "app", broken: str = "2", good: str = "1", setting: int = 3, after: int = 2) -> Fallback:
    return Fallback(component=component, broken=broken, setting=setting, good=good, after=after, reason="it broke")


def standings(*those: Standing) -> Standings:
    return {each.component: each for each in those}


def test_a_plan_has_the_good_release_while_the_fallback_stands_and_the_set_one_when_it_is_set_anew() -> None:
    both = standings(standing("app", "2", "1"), standing("tools", "7", "7"))
    assert planned(both, []) == {"app": "2", "tools": "7"}
    assert planned(both, [fallback()]) == {"app": "1", "tools": "7"}
    assert planned(both, [fallback(setting=2)]) == {"app": "2", "tools": "7"}


def test_a_fallback_of_a_component_that_the_fleet_has_no_more_or_that_has_no_release_is_nothing() -> None:
    assert planned(standings(standing("tools", "7", "7")), [fallback()]) == {"tools": "7"}
    assert planned(standings(standing("app", None, None)), [fallback()]) == {}


def test_changed_are_those_tried_with_what_is_set_and_not_known_to_go_well() -> None:
    both = standings(standing("app", "2", "1"), standing("tools", "7", "7"))
    assert changed(both, {"app": "2", "tools": "7"}) == {"app": "1"}


@pytest.mark.parametrize(
    ("one", "tried"),
    [
        (standing("app", "2", "1"), {"app": "1"}),
        (standing("app", "2", "1"), {}),
        (standing("app", "2", None), {"app": "2"}),
        (standing("app", None, "1"), {"app": "1"}),
        (Standing("app"), {}),
    ],
)
def test_nothing_changed_where_another_was_tried_or_nothing_ever_went_well(
    one: Standing, tried: Mapping[str, str]
) -> None:
    assert changed(standings(one), tried) == {}


class Fingerprints(Runs):
    """Plans in which each step has what it is told to depend on."""

    def __init__(self, depends: Mapping[str, tuple[str, ...]], missing: tuple[str, ...] = ()) -> None:
        self._depends = depends
        self._missing = missing

    async def fingerprints(self, fleet: Fleet, releases: Mapping[str, str]) -> dict[str, str]:
        assert fleet == TWO
        if set(self._missing) & {f"{name} {version}" for name, version in releases.items()}:
            raise NoPlan("no such release")
        return {step: str([releases[each] for each in names]) for step, names in self._depends.items()}


TRIED = {"app": "2", "tools": "8"}
GOODS = {"app": "1", "tools": "7"}


async def test_a_sync_that_fails_is_its_own_components_fault_if_that_changed() -> None:
    runs = Fingerprints({})
    assert await suspects(runs, TWO, TRIED, GOODS, "tools") == {"tools"}
    assert await suspects(runs, TWO, TRIED, {"app": "1"}, "tools") == set()


async def test_a_step_that_fails_is_the_fault_of_what_it_depends_on_and_changed() -> None:
    runs = Fingerprints({"compile": ("app", "tools"), "health": ("tools",)})
    assert await suspects(runs, TWO, TRIED, GOODS, "compile") == {"app", "tools"}
    assert await suspects(runs, TWO, TRIED, GOODS, "health") == {"tools"}
    assert await suspects(runs, TWO, TRIED, {"app": "1"}, "health") == set()


@pytest.mark.parametrize("step", [None, "boot"])
async def test_what_fails_outside_of_the_plan_is_no_releases_fault(step: str | None) -> None:
    assert await suspects(Fingerprints({}), TWO, TRIED, GOODS, step) == set()


async def test_a_component_whose_good_release_cannot_be_planned_with_is_not_suspected_and_the_next_one_is() -> None:
    runs = Fingerprints({"compile": ("app", "tools")}, missing=("app 1",))
    assert await suspects(runs, TWO, TRIED, GOODS, "compile") == {"tools"}


def test_a_fallback_says_what_failed_how_after_how_many_attempts_and_what_is_good() -> None:
    failed = Attempt(
        attempt="i-1-2", began=NOW, plan_digest="d", step="compile", reason="exit 1", log_tail="no such file"
    )
    both = standings(standing("app", "2", "1"), standing("tools", "8", "7", setting=5))
    app, tools = fallbacks(both, TRIED, {"tools", "app"}, failed, 2)
    assert app == Fallback(
        component="app",
        broken="2",
        setting=3,
        good="1",
        after=2,
        step="compile",
        reason="exit 1",
        log_tail="no such file",
    )
    assert (tools.component, tools.broken, tools.good, tools.setting, tools.after) == ("tools", "8", "7", 5, 2)


def test_a_release_that_cannot_be_planned_with_is_fallen_back_from_and_its_sync_step_named() -> None:
    one = standings(standing("tools", "8", "7", setting=5), standing("app", "2", "1"))
    assert unplanned(TWO, one, [fallback()], "tools", "no manifest", 1) == Fallback(
        component="tools", broken="8", setting=5, good="7", after=1, step="tools", reason="no manifest"
    )


@pytest.mark.parametrize(
    ("one", "there", "component"),
    [
        (standing("app", "2", "1"), [], None),
        (standing("app", "2", "1"), [], "tools"),
        (standing("app", None, "1"), [], "app"),
        (standing("app", "2", "2"), [], "app"),
        (standing("app", "2", None), [], "app"),
        (standing("app", "2", "1", broken=True), [], "app"),
        (standing("app", "2", "1"), [fallback()], "app"),
    ],
)
def test_there_is_nothing_to_fall_back_to(one: Standing, there: list[Fallback], component: str | None) -> None:
    assert unplanned(TWO, standings(one), there, component, "no manifest", 1) is None


def test_a_release_set_anew_is_fallen_back_from_anew() -> None:
    one = standings(standing("app", "2", "1", setting=4))
    assert unplanned(TWO, one, [fallback(setting=3)], "app", "no manifest", 1) is not None


def test_a_step_is_named_only_where_one_syncs_the_component() -> None:
    found = unplanned(TWO, standings(standing("lib", "2", "1")), [], "lib", "no manifest", 1)
    assert found is not None
    assert found.step is None


async def test_what_was_fallen_back_from_is_condemned_with_why() -> None:
    world = await proven("2")
    gone = fallback("monolith", setting=2).model_copy(update={"step": "compile", "log_tail": "no such file"})
    await conclude(world.components, world.clock, "web", {"monolith": "1"}, [gone], "launch i-1")
    found = await world.components.standing("web", "monolith")
    assert found.broken == Broken(
        version="2",
        setting=2,
        at=world.now,
        by="launch i-1",
        reason="launch i-1 failed with it and went well with 1: it broke",
        step="compile",
        log_tail="no such file",
    )
    assert found.good == "1"
    [alert] = world.publisher.of(AlertRaised)
    assert alert.log_tail == "no such file"
    assert "goes on with 1:" in alert.reason


async def test_a_fallback_that_was_overtaken_condemns_nothing_and_what_went_well_is_proven() -> None:
    world = await proven("2")
    await conclude(world.components, world.clock, "web", {"monolith": "2"}, [fallback("monolith", setting=2)], "bake b")
    found = await world.components.standing("web", "monolith")
    assert (found.good, found.broken) == ("2", None)
    assert found.verdict is not None
    assert found.verdict.proof == "bake b"


async def test_of_several_that_fell_back_together_each_says_which_others_it_may_have_been() -> None:
    world = await proven("2")
    those = [
        fallback("monolith", setting=2),
        fallback("tools", "8", "7"),
        fallback("lib", "5", "4"),
        fallback("early", "3", "2", after=1),
        fallback("gone", "6", "5"),
    ]
    releases = {"monolith": "1", "tools": "7", "lib": "4", "early": "2"}
    await conclude(world.components, world.clock, "web", releases, those, "bake b")
    found = (await world.components.standing("web", "monolith")).broken
    assert found is not None
    assert found.reason == (
        "bake b failed with it and went well with 1, and tools 8, lib 5 changed too: one of them is to blame: it broke"
    )
