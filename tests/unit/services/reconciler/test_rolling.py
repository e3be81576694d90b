"""Which servers a rollout takes, when it stops, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal

import pytest

from services.reconciler.decide import ROLLOUT, View
from services.reconciler.rolling import Scene, closed, failure, granted, rolled
from shared.components import Standing
from shared.records import Broken, Disruption, FleetStatus, Launch, Release, Rollout, Taken, Update, Updated, Verdict
from tests.fakes import START
from tests.unit.services.making import WEB, fleet, group, image_id, instance, member, server

LATER = START + timedelta(hours=1)


def release(version: str = "2", generation: int = 2, *, rollout: bool = True, since: datetime = START) -> Release:
    return Release(
        component="monolith",
        version=version,
        since=since,
        by="ada",
        reason="new",
        rollout=rollout,
        generation=generation,
    )


def standing(current: Release | None, *, broken: bool = False) -> Standing:
    found = None
    if broken and current is not None:
        found = Broken(
            version=current.version, setting=current.generation, at=START, by="a launch", reason="it does not build"
        )
    return Standing("monolith", current, Verdict(component="monolith", good="1", broken=found))


def launched(number: int, version: str = "1", result: Literal["running", "ready", "failed"] = "ready") -> Launch:
    return Launch(
        fleet=WEB,
        server=server(number),
        image=image_id(1),
        claimed=START,
        releases={"monolith": version},
        result=result,
    )


def update(number: int, result: str = "running", rollout: int = 1, **more: Any) -> Update:
    return Update(
        fleet=WEB, server=server(number), rollout=rollout, began=START, releases={}, before={}, result=result, **more
    )


def scene(
    *,
    runs: Mapping[int, str] = {1: "1", 2: "1", 3: "1"},
    current: Standing | None = None,
    updates: Sequence[Update] = (),
    members: Sequence[int] = (1, 2, 3),
    policy: Mapping[str, object] | None = None,
    sick: Sequence[int] = (),
) -> Scene:
    seen = group(*(member(number) for number in runs))
    view = View(
        fleet=fleet({"rollout": policy or {}}),
        group=seen,
        instances={server(number): instance(number) for number in runs},
        quarantined=(),
        health={server(number): number not in sick for number in runs},
        claimed=frozenset(),
        pause=None,
        now=LATER,
    )
    return Scene(
        view=view,
        standings={"monolith": current or standing(release())},
        launches={server(number): launched(number, version) for number, version in runs.items()},
        updates={each.server: each for each in updates},
        members=frozenset(server(number) for number in members),
    )


def under_way(*taken: Taken, **more: Any) -> Rollout:
    fields = {"settings": {"monolith": 2}, "releases": {"monolith": "2"}, "began": START, "by": "ada", "reason": "new"}
    return Rollout(fleet=WEB, number=1, taken=taken, **{**fields, **more})


def reserved(number: int, rollout: int = 1) -> Taken:
    return Taken(server=server(number), rollout=rollout)


def taken(number: int, rollout: int = 1) -> Taken:
    return Taken(server=server(number), rollout=rollout, granted=START)


def test_a_release_that_servers_are_to_follow_begins_a_rollout_with_the_first_server() -> None:
    begun = rolled(scene(), None)
    assert begun == under_way(reserved(1), began=LATER)


@pytest.mark.parametrize("current", [None, release(rollout=False)])
def test_without_a_release_that_servers_are_to_follow_there_is_no_rollout(current: Release | None) -> None:
    assert rolled(scene(current=standing(current)), None) is None


def test_another_setting_begins_another_rollout_that_waits_for_who_is_on_the_way_and_forgets_who_only_waits() -> None:
    newer = scene(current=standing(release("3", 5, since=LATER)), updates=[update(1)])
    old = under_way(taken(1), reserved(2), state="stopped", why="x", ended=(ended(3, "failed"),))
    begun = rolled(newer, old)
    assert begun == old.model_copy(
        update={
            "number": 2,
            "settings": {"monolith": 5},
            "releases": {"monolith": "3"},
            "began": LATER,
            "state": "running",
            "why": "",
            "taken": (taken(1),),
            "ended": (),
        }
    )


def ended(
    number: int, result: Literal["updated", "undone", "failed", "left"], reason: str = "", **more: Any
) -> Updated:
    return Updated(server=server(number), result=result, at=LATER, reason=reason, **more)


def test_a_rollout_of_several_releases_is_by_whoever_set_the_last_of_them_and_takes_servers_behind_with_any() -> None:
    site = release("7", 4, since=LATER).model_copy(update={"component": "site", "by": "bob", "reason": "prettier"})
    seen = scene(runs={1: "2", 2: "2"})
    both = replace(seen, standings={"monolith": standing(release()), "site": Standing("site", site, None)})
    whole = launched(1, "2").model_copy(update={"releases": {"monolith": "2", "site": "7"}})
    begun = rolled(replace(both, launches={**both.launches, server(1): whole}), None)
    assert begun
    assert (begun.by, begun.reason, begun.settings) == ("bob", "prettier", {"monolith": 2, "site": 4})
    assert begun.releases == {"monolith": "2", "site": "7"}
    assert begun.taken == (reserved(2),)


def test_where_no_release_is_to_be_followed_any_more_a_rollout_waits_for_who_is_on_the_way_and_is_nobodys() -> None:
    unset = replace(scene(), standings={"monolith": standing(release(rollout=False))})
    left = rolled(unset, under_way(taken(1), reserved(2)))
    assert left == Rollout(fleet=WEB, number=2, began=LATER, by="", taken=(taken(1),))
    assert rolled(unset, left) == left


def test_as_many_are_taken_at_once_as_the_policy_allows_and_nobody_twice() -> None:
    two = {"at_once": 2}
    begun = rolled(scene(policy=two), None)
    assert begun
    assert begun.taken == (reserved(1), reserved(2))
    going_on = rolled(scene(policy=two, updates=[update(1)]), under_way(taken(1)))
    assert going_on == under_way(taken(1), reserved(2))
    full = under_way(taken(1), taken(2))
    assert rolled(scene(policy=two, updates=[update(1), update(2)]), full) == full


@pytest.mark.parametrize("result", ["running", "failed"])
def test_servers_that_are_not_ready_or_unknown_or_sick_are_left_alone(result: Literal["running", "failed"]) -> None:
    seen = scene(runs={1: "1", 2: "1", 3: "1"}, sick=[2])
    known = {server(1): launched(1, result=result), server(2): launched(2)}
    done = rolled(replace(seen, launches=known), None)
    assert done
    assert (done.state, done.taken) == ("done", ())


def test_with_nobody_behind_and_nobody_on_the_way_it_is_done() -> None:
    done = rolled(scene(runs={1: "2", 2: "2"}), under_way())
    assert done == under_way(state="done", why="every server in service runs it")
    waiting = rolled(scene(runs={1: "2", 2: "2"}, updates=[update(1)]), under_way(taken(1)))
    assert waiting == under_way(taken(1))


def test_a_server_that_is_back_on_the_list_is_let_go_and_how_it_ended_is_kept() -> None:
    updated = update(1, "updated", step=None, reason="its plan ran")
    after = rolled(scene(runs={1: "2", 2: "1"}, updates=[updated]), under_way(taken(1)))
    assert after == under_way(reserved(2), ended=(ended(1, "updated", "its plan ran"),))
    off_the_list = scene(runs={1: "2", 2: "1"}, updates=[updated], members=[2])
    assert rolled(off_the_list, under_way(taken(1))) == under_way(taken(1))
    undrained = scene(runs={1: "2", 2: "1"}, updates=[updated], members=[2], policy={"drain": False})
    assert rolled(undrained, under_way(taken(1))) == after


def test_a_server_that_left_the_fleet_is_forgotten_and_its_end_told() -> None:
    left = "it left the fleet before it was brought up to date"
    after = rolled(scene(runs={2: "1"}, updates=[update(1)]), under_way(taken(1)))
    assert after == under_way(reserved(2), ended=(ended(1, "left", left),))
    unbegun = rolled(scene(runs={2: "1"}), under_way(taken(1)))
    assert unbegun == after
    of_before = rolled(scene(runs={2: "1"}, updates=[update(1, rollout=7)]), under_way(taken(1, rollout=7)))
    assert of_before == under_way(reserved(2))


def test_a_reservation_is_kept_only_while_the_server_is_here_and_behind() -> None:
    assert rolled(scene(runs={1: "1", 2: "1"}), under_way(reserved(2))) == under_way(reserved(2))
    assert rolled(scene(runs={1: "1", 2: "2"}), under_way(reserved(2))) == under_way(reserved(1))
    assert rolled(scene(runs={1: "1"}), under_way(reserved(2))) == under_way(reserved(1))


def test_it_stops_at_the_first_failure_and_lets_those_on_the_way_arrive() -> None:
    failed = update(1, "undone", reason="exit 1", step="compile")
    stopped = rolled(scene(updates=[failed, update(2)], members=[3]), under_way(taken(1), taken(2), reserved(3)))
    why = f"1 failed: {server(1)}: exit 1"
    assert stopped == under_way(taken(1), taken(2), state="stopped", why=why)
    back = rolled(scene(updates=[failed, update(2)]), stopped)
    assert back == under_way(taken(2), state="stopped", why=why, ended=(ended(1, "undone", "exit 1", step="compile"),))


def test_it_goes_on_after_fewer_failures_than_the_policy_forgives_and_says_so_at_the_end() -> None:
    forgiving = {"failures": 2}
    failed = under_way(ended=(ended(1, "undone", "exit 1"),))
    assert rolled(scene(policy=forgiving), failed) == failed.model_copy(update={"taken": (reserved(2),)})
    end = rolled(scene(policy=forgiving, runs={1: "1", 2: "2"}), failed)
    assert end == failed.model_copy(update={"state": "stopped", "why": f"done, but {server(1)} failed"})
    two = under_way(ended=(ended(1, "undone", "exit 1"), ended(2, "failed", "exit 2")))
    stopped = rolled(scene(policy=forgiving), two)
    assert stopped == two.model_copy(update={"state": "stopped", "why": f"2 failed: {server(1)}: exit 1"})


def test_it_stops_once_the_release_counts_as_broken_and_stays_so() -> None:
    broken = scene(current=standing(release(), broken=True))
    stopped = rolled(broken, under_way(reserved(1)))
    assert stopped == under_way(state="stopped", why="release 2 is broken for this fleet: it does not build")
    assert rolled(scene(), stopped) == stopped


def test_a_failure_of_another_rollout_stops_nothing() -> None:
    old = update(1, "failed", rollout=7, reason="long ago")
    assert rolled(scene(updates=[old], policy={"at_once": 2}), under_way(taken(1, rollout=7))) == under_way(
        taken(1, rollout=7), reserved(2)
    )


def test_a_server_is_granted_once_and_only_while_it_waits_in_a_rollout_that_runs() -> None:
    waiting = under_way(reserved(1), reserved(2))
    now = Taken(server=server(1), rollout=1, granted=LATER)
    assert granted(waiting, server(1), scene()) == under_way(now, reserved(2))
    assert granted(None, server(1), scene()) is None
    assert granted(waiting, server(3), scene()) is None
    assert granted(under_way(taken(1)), server(1), scene()) is None
    assert granted(under_way(reserved(1), state="stopped"), server(1), scene()) is None


def test_the_failure_that_is_told_is_one_of_this_rollout() -> None:
    bad = update(2, "failed")
    seen = scene(updates=[update(1, "updated"), bad, update(3, "failed", rollout=7)])
    assert failure(seen, under_way()) == bad
    assert failure(scene(updates=[update(3, "failed", rollout=7), update(1)]), under_way()) is None


def away(number: int, by: str = ROLLOUT, over: datetime | None = None) -> Disruption:
    return Disruption(server=server(number), at=START, by=by, over=over)


def test_a_server_that_is_back_counts_no_more_against_the_budget() -> None:
    status = FleetStatus(
        state="converged",
        since=START,
        healthy=3,
        wanted=3,
        disruptions=(away(1), away(2), away(3, by="ann"), away(9), away(3, over=START)),
    )
    after = closed(scene(), under_way(taken(2)), status)
    assert after
    assert after.disruptions == (away(1, over=LATER), away(2), away(3, by="ann"), away(9), away(3, over=START))
    assert closed(scene(), under_way(taken(2)), after) is None
    assert closed(scene(), under_way(), None) is None


def test_a_server_that_is_reserved_again_at_once_is_back_and_will_be_charged_again() -> None:
    status = FleetStatus(state="converged", since=START, healthy=3, wanted=3, disruptions=(away(1),))
    after = closed(scene(), under_way(reserved(1)), status)
    assert after is not None
    assert after.disruptions == (away(1, over=LATER),)
