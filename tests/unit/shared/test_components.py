from __future__ import annotations

import pytest

from shared.alerts import LOG_TAIL_LIMIT, REASON_LIMIT
from shared.components import CannotSet, Components, back_command, chosen, shortened
from shared.messages import AlertCleared, AlertRaised, ReleaseSet
from shared.records import Broken, Release, alert_key, current_release_key, release_history_key
from tests.unit.fleetworld import FleetWorld, Killed, killed_at


@pytest.fixture
async def world() -> FleetWorld:
    world = FleetWorld()
    for version in ("1", "2", "3"):
        world.publish(version)
    return world


async def put(world: FleetWorld, version: str, by: str = "ada", rollout: bool | None = None) -> Release:
    pointer, _ = await world.components.set("web", "monolith", version, by=by, reason="why", rollout=rollout)
    return pointer


async def condemn(world: FleetWorld, version: str, setting: int, good: str = "1") -> None:
    broken = Broken(version=version, setting=setting, at=world.now, by="launch", reason="it broke", step="compile")
    await world.components.condemn("web", "monolith", broken, good)


async def test_a_release_is_set_with_who_when_why_and_the_one_before_it(world: FleetWorld) -> None:
    await put(world, "1")
    world.clock.step(60)
    pointer = await put(world, "2", by="ben")
    assert (pointer.version, pointer.previous, pointer.by, pointer.reason) == ("2", "1", "ben", "why")
    assert pointer.since == world.now
    assert [each.version for each in await world.components.history("web", "monolith")] == ["2", "1"]
    assert [(each.version, each.setting) for each in world.publisher.of(ReleaseSet)] == [("1", 1), ("2", 2)]


async def test_setting_the_same_again_changes_nothing_and_is_said_under_the_same_id(world: FleetWorld) -> None:
    first = await put(world, "1")
    before = dict(world.objects.bodies)
    assert await put(world, "1", by="carl") == first
    assert world.objects.bodies == before
    assert len({each.id for each in world.publisher.of(ReleaseSet)}) == 1


async def test_what_does_not_exist_cannot_be_set_and_the_sentence_says_what_does(world: FleetWorld) -> None:
    with pytest.raises(CannotSet, match="no release 9 of monolith; published are 1, 2, 3"):
        await put(world, "9")
    with pytest.raises(CannotSet, match="no component 'tools'; it has monolith"):
        await world.components.set("web", "tools", "1", by="ada")
    with pytest.raises(CannotSet, match="no release before"):
        await world.components.undo("web", "monolith", by="ada")


async def test_going_back_and_back_again_swaps_the_last_two(world: FleetWorld) -> None:
    await put(world, "1")
    await put(world, "3")
    back, moved = await world.components.undo("web", "monolith", by="ada")
    assert (back.version, back.previous, moved, back.undo) == ("1", "3", True, True)
    again, _ = await world.components.undo("web", "monolith", by="ada")
    assert again.version == "3"


async def test_going_back_says_from_what_unless_somebody_says_why_and_follows_the_policy_unless_told_otherwise(
    world: FleetWorld,
) -> None:
    await put(world, "1")
    await put(world, "3")
    back, _ = await world.components.undo("web", "monolith", by="ada")
    assert (back.reason, back.rollout, back.since) == ("back from 3", True, world.now)
    again, _ = await world.components.undo("web", "monolith", by="ada", reason="it was not that", rollout=False)
    assert (again.reason, again.rollout) == ("it was not that", False)


async def test_going_back_is_no_going_back_once_another_release_was_set_meanwhile(world: FleetWorld) -> None:
    await put(world, "1")
    await put(world, "2")
    newer = Release(component="monolith", version="3", since=world.now, by="bob", generation=3, write_id="w")
    key = current_release_key("web", "monolith")

    def overtake() -> None:
        world.objects.bodies[key] = newer.model_dump_json(by_alias=True).encode()

    world.objects.meanwhile("put", overtake)
    left, moved = await world.components.undo("web", "monolith", by="ada")
    assert (left.version, moved) == ("3", False)


async def test_a_proof_says_what_went_well_and_since_when_and_clears_the_alert_that_stands(world: FleetWorld) -> None:
    await put(world, "1")
    await world.components.prove("web", {"monolith": "1"}, "launch 1")
    first = (await world.components.standing("web", "monolith")).verdict
    assert first
    assert (first.good, first.good_since, first.proof) == ("1", world.now, "launch 1")
    bad = await put(world, "2")
    await condemn(world, "2", bad.generation)
    await world.components.prove("web", {"monolith": "2"}, "while it is broken")
    assert world.publisher.of(AlertCleared) == []
    world.objects.bodies[alert_key("web", "release-other")] = world.objects.bodies[alert_key("web", "release-monolith")]
    await put(world, "3")
    world.objects.bodies[alert_key("web", "release-monolith")] = world.objects.bodies[alert_key("web", "release-other")]
    world.clock.step(60)
    await world.components.prove("web", {"monolith": "1"}, "an old launch")
    assert [each.cause for each in world.publisher.of(AlertCleared)] == ["release-monolith"]
    await world.components.prove("web", {"monolith": "3"}, "launch 3")
    assert [each.cause for each in world.publisher.of(AlertCleared)] == ["release-monolith"] * 2
    third = (await world.components.standing("web", "monolith")).verdict
    assert third
    assert (third.good, third.good_since, third.proof) == ("3", world.now, "launch 3")


async def test_a_verdict_of_broken_names_what_goes_on_and_keeps_what_was_good(world: FleetWorld) -> None:
    first = await put(world, "2")
    more = {"reason": "it broke", "log_tail": "boom", "step": "compile"}
    broken = Broken.model_validate(
        {"version": "2", "setting": first.generation, "at": world.now, "by": "launch", **more}
    )
    await world.components.condemn("web", "monolith", broken, "1")
    standing = await world.components.standing("web", "monolith")
    assert (standing.good, standing.broken) == ("1", broken)
    [alert] = world.publisher.of(AlertRaised)
    why = "release 2 of monolith is broken for fleet web, which goes on with 1: it broke"
    assert (alert.reason, alert.step, alert.log_tail) == (why, "compile", "boom")
    assert alert.next == back_command("web", "monolith", "1", "2")
    await world.components.prove("web", {"monolith": "3"}, "x")
    second = await put(world, "3")
    await condemn(world, "3", second.generation, good="2")
    assert (await world.components.standing("web", "monolith")).good == "1"


async def test_what_is_kept_of_a_long_failure_is_the_beginning_of_the_reason_and_the_end_of_the_log(
    world: FleetWorld,
) -> None:
    reason, log = "r" * REASON_LIMIT + "end", "begin" + "l" * LOG_TAIL_LIMIT
    long = Broken(version="2", setting=1, at=world.now, by="launch", reason=reason, log_tail=log)
    short = shortened(long)
    assert (short.reason, short.log_tail) == ("r" * REASON_LIMIT, "l" * LOG_TAIL_LIMIT)


async def test_the_policy_says_whether_servers_in_service_follow_unless_somebody_does(world: FleetWorld) -> None:
    assert (await put(world, "1")).rollout
    assert not (await put(world, "2", rollout=False)).rollout
    again = await put(world, "2", rollout=True)
    assert (again.rollout, again.previous) == (True, "1")


async def test_only_a_release_that_is_set_becomes_the_last_good_one(world: FleetWorld) -> None:
    await put(world, "2")
    await world.components.prove("web", {"monolith": "1"}, "an old launch")
    assert (await world.components.standing("web", "monolith")).good == "1", "better than none"
    await world.components.prove("web", {"monolith": "2"}, "a launch")
    await world.components.prove("web", {"monolith": "1"}, "a launch that began before")
    assert (await world.components.standing("web", "monolith")).good == "2"


async def test_a_broken_release_is_replaced_by_the_last_good_one_until_it_is_set_anew(world: FleetWorld) -> None:
    await put(world, "1")
    await world.components.prove("web", {"monolith": "1"}, "a launch")
    bad = await put(world, "2")
    await condemn(world, "2", bad.generation)
    await condemn(world, "2", bad.generation)
    standings = await world.components.standings(world.fleet)
    assert chosen(standings) == {"monolith": "1"}
    [alert] = world.publisher.of(AlertRaised)
    assert (alert.cause, alert.step) == ("release-monolith", "compile")
    assert "release set --fleet web --component monolith --version 1" in alert.next

    again = await put(world, "2")
    assert again.generation == bad.generation + 1
    assert chosen(await world.components.standings(world.fleet)) == {"monolith": "2"}
    assert [each.cause for each in world.publisher.of(AlertCleared)] == ["release-monolith"]


async def test_a_verdict_on_what_is_no_longer_set_counts_for_nothing(world: FleetWorld) -> None:
    old = await put(world, "2")
    await put(world, "3")
    await condemn(world, "2", old.generation)
    assert (await world.components.standing("web", "monolith")).broken is None
    assert world.publisher.of(AlertRaised) == []


async def test_a_launch_that_went_well_with_a_broken_release_does_not_make_it_good(world: FleetWorld) -> None:
    await put(world, "1")
    await world.components.prove("web", {"monolith": "1"}, "a launch")
    bad = await put(world, "2")
    await condemn(world, "2", bad.generation)
    await world.components.prove("web", {"monolith": "2"}, "a launch that was quicker")
    standing = await world.components.standing("web", "monolith")
    assert (standing.good, standing.chosen) == ("1", "1")


async def test_a_pointer_that_an_operator_wrote_by_hand_is_obeyed_and_kept_in_the_history(world: FleetWorld) -> None:
    await put(world, "1")
    key = current_release_key("web", "monolith")
    edited = Release(component="monolith", version="3", since=world.now, by="hand", generation=2)
    world.objects.bodies[key] = edited.model_dump_json(by_alias=True).encode()
    assert (await world.components.standing("web", "monolith")).chosen == "3"
    await put(world, "2")
    assert release_history_key("web", "monolith", 2) in world.objects.bodies
    assert [each.version for each in await world.components.history("web", "monolith")] == ["2", "3", "1"]


@pytest.mark.parametrize("applied", [False, True])
async def test_killed_at_any_call_and_asked_again_a_release_is_set_told_and_in_the_history(applied: bool) -> None:
    for number in range(1, 40):
        world = FleetWorld()
        for version in ("1", "2"):
            world.publish(version)
        await put(world, "1")
        with killed_at(world, number, applied=applied) as calls:
            try:
                await put(world, "2")
            except Killed:
                await put(restarted(world), "2")
            if calls() < number:
                break
        assert [each.version for each in await world.components.history("web", "monolith")] == ["2", "1"], number
        assert {each.version for each in world.publisher.of(ReleaseSet)} == {"1", "2"}, number
    assert number > 8


def restarted(world: FleetWorld) -> FleetWorld:
    """The world with a process that was started anew."""
    world.components = Components(world.objects, world.publisher, world.clock)
    return world
