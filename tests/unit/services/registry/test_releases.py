from __future__ import annotations

from datetime import timedelta

import pytest

from services.registry.releases import ReleaseRequests
from shared.messages import ReleaseSet, ReleaseSetRequested, ReleaseUndoRequested
from shared.outcome import Done, Reject
from shared.records import Broken
from tests.unit.fleetworld import FleetWorld, Killed, killed_at

UNDO = ReleaseUndoRequested(fleet="web", component="monolith", by="ada")


def asked(version: str, **more: object) -> ReleaseSetRequested:
    return ReleaseSetRequested.model_validate(
        {"fleet": "web", "component": "monolith", "version": version, "by": "ada", **more}
    )


@pytest.fixture
async def world() -> FleetWorld:
    world = FleetWorld()
    for version in ("1", "2"):
        world.publish(version)
    return world


def make(world: FleetWorld) -> ReleaseRequests:
    return ReleaseRequests(world.components, world.clock)


async def current(world: FleetWorld) -> tuple[str, int]:
    pointer = (await world.components.standing("web", "monolith")).current
    assert pointer is not None
    return pointer.version, pointer.generation


async def test_a_person_sets_a_release_by_message_and_goes_back(world: FleetWorld) -> None:
    await make(world).asked(asked("1"))
    world.clock.step(hours=1)
    assert isinstance(await make(world).asked(asked("2")), Done)
    assert await current(world) == ("2", 2)
    assert isinstance(await make(world).asked(UNDO), Done)
    assert await current(world) == ("1", 3)


async def test_what_cannot_be_set_is_rejected_with_a_sentence(world: FleetWorld) -> None:
    assert await make(world).asked(asked("9")) == Reject("there is no release 9 of monolith; published are 1, 2")
    assert isinstance(await make(world).asked(UNDO), Reject)


async def test_the_same_request_again_sets_no_release_twice(world: FleetWorld) -> None:
    await make(world).asked(asked("1"))
    world.clock.step(hours=1)
    await make(world).asked(asked("2"))
    broken = Broken(version="2", setting=2, at=world.now, by="launch", reason="it broke")
    await world.components.prove("web", {"monolith": "1"}, "launch")
    await world.components.condemn("web", "monolith", broken, "1")
    await make(world).asked(asked("2"))
    assert await current(world) == ("2", 2), "a second delivery is no second chance"
    await make(world).asked(UNDO)
    await make(world).asked(UNDO)
    assert await current(world) == ("1", 3), "a second delivery does not swap back"


async def test_a_request_from_before_the_present_setting_is_overtaken(world: FleetWorld) -> None:
    await make(world).asked(asked("2"))
    await make(world).asked(asked("1", time=world.now - timedelta(minutes=1), by="ben"))
    assert (await current(world))[0] == "2"


@pytest.mark.parametrize("applied", [False, True])
async def test_killed_at_any_call_a_request_that_comes_again_is_carried_out_once(applied: bool) -> None:
    for number in range(1, 40):
        world = FleetWorld()
        for version in ("1", "2"):
            world.publish(version)
        await make(world).asked(asked("1"))
        world.clock.step(hours=1)
        await make(world).asked(asked("2"))
        with killed_at(world, number, applied=applied) as calls:
            try:
                await make(world).asked(UNDO)
            except Killed:
                await make(world).asked(UNDO)
            if calls() < number:
                break
        assert await current(world) == ("1", 3), number
        assert [each.setting for each in world.publisher.of(ReleaseSet)][-1] == 3, number
    assert number > 8
