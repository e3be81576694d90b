from __future__ import annotations

from datetime import timedelta

import pytest

from services.registry.releases import ReleaseRequests
from shared.messages import ReleaseSet, ReleaseSetRequested, ReleaseUndoRequested
from shared.outcome import Done, Reject
from shared.records import Broken, Release, current_release_key
from tests.fakes import START
from tests.unit.fleetworld import FleetWorld, Killed, killed_at


def undo(world: FleetWorld) -> ReleaseUndoRequested:
    return ReleaseUndoRequested(fleet="web", component="monolith", by="ada", time=world.now)


def asked(version: str, **more: object) -> ReleaseSetRequested:
    return ReleaseSetRequested.model_validate(
        {"fleet": "web", "component": "monolith", "version": version, "by": "ada", "time": START, **more}
    )


@pytest.fixture
async def world() -> FleetWorld:
    world = FleetWorld()
    for version in ("1", "2"):
        world.publish(version)
    return world


def encoded(release: Release) -> bytes:
    return release.model_dump_json(by_alias=True).encode()


def make(world: FleetWorld) -> ReleaseRequests:
    return ReleaseRequests(world.components)


async def current(world: FleetWorld) -> tuple[str, int]:
    pointer = (await world.components.standing("web", "monolith")).current
    assert pointer is not None
    return pointer.version, pointer.generation


async def test_a_person_sets_a_release_by_message_and_goes_back(world: FleetWorld) -> None:
    await make(world).asked(asked("1"))
    world.clock.step(hours=1)
    assert isinstance(await make(world).asked(asked("2", time=world.now)), Done)
    assert await current(world) == ("2", 2)
    assert isinstance(await make(world).asked(undo(world)), Done)
    assert await current(world) == ("1", 3)


async def test_what_cannot_be_set_is_rejected_with_a_sentence(world: FleetWorld) -> None:
    assert await make(world).asked(asked("9")) == Reject("there is no release 9 of monolith; published are 1, 2")
    assert isinstance(await make(world).asked(undo(world)), Reject)


async def test_the_same_request_again_sets_no_release_twice(world: FleetWorld) -> None:
    await make(world).asked(asked("1"))
    world.clock.step(hours=1)
    await make(world).asked(asked("2", time=world.now))
    broken = Broken(version="2", setting=2, at=world.now, by="launch", reason="it broke")
    await world.components.prove("web", {"monolith": "1"}, "launch")
    await world.components.condemn("web", "monolith", broken, "1")
    world.clock.step(seconds=5)
    await make(world).asked(asked("2", time=world.now))
    assert await current(world) == ("2", 2), "a second delivery is no second chance"
    await make(world).asked(undo(world))
    world.clock.step(seconds=5)
    await make(world).asked(undo(world))
    assert await current(world) == ("1", 3), "a second delivery does not swap back"


@pytest.mark.fault(11)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_of_two_requests_the_one_asked_for_later_counts_whichever_comes_first(
    world: FleetWorld, order: tuple[int, int]
) -> None:
    two = (asked("2", by="ben"), asked("1", time=START + timedelta(minutes=1)))
    world.clock.step(minutes=5)
    for each in order:
        assert isinstance(await make(world).asked(two[each]), Done)
        world.clock.step(minutes=5)
    assert (await current(world))[0] == "1"


@pytest.mark.fault(4, 11)
async def test_a_request_does_not_change_what_was_asked_for_later_while_it_was_carried_out(world: FleetWorld) -> None:
    await make(world).asked(asked("1"))
    later = Release(
        generation=2, component="monolith", version="1", since=world.now, asked=START + timedelta(hours=1), by="ben"
    )
    key = current_release_key("web", "monolith")
    world.objects.meanwhile("put", lambda: world.objects.bodies.update({key: encoded(later)}))
    await make(world).asked(asked("2", time=START + timedelta(minutes=30)))
    assert await current(world) == ("1", 2)


@pytest.mark.fault(4, 11)
@pytest.mark.parametrize("reads", range(6))
async def test_going_back_undoes_nothing_that_was_asked_for_later_and_set_meanwhile(
    world: FleetWorld, reads: int
) -> None:
    await make(world).asked(asked("1"))
    world.clock.step(hours=1)
    await make(world).asked(asked("2", time=world.now))
    request = undo(world)
    later = Release(
        generation=3,
        component="monolith",
        version="3",
        since=world.now,
        asked=world.now + timedelta(hours=1),
        by="ben",
        previous="2",
    )
    key = current_release_key("web", "monolith")

    def at_read(number: int) -> None:
        def happens() -> None:
            if number:
                at_read(number - 1)
            else:
                world.objects.bodies[key] = encoded(later)

        world.objects.meanwhile("get", happens)

    at_read(reads)
    await make(world).asked(request)
    assert (await current(world))[0] == "3"


async def test_a_release_that_somebody_sets_at_the_command_line_stands_whatever_his_clock_says(
    world: FleetWorld,
) -> None:
    await make(world).asked(asked("1", time=START + timedelta(minutes=4)))
    await world.components.set("web", "monolith", "2", by="ops")
    assert (await current(world))[0] == "2"
    await make(world).asked(asked("1", time=START + timedelta(minutes=3), by="ben"))
    assert (await current(world))[0] == "2"


@pytest.mark.parametrize("applied", [False, True])
async def test_killed_at_any_call_a_request_that_comes_again_is_carried_out_once(applied: bool) -> None:
    for number in range(1, 40):
        world = FleetWorld()
        for version in ("1", "2"):
            world.publish(version)
        await make(world).asked(asked("1"))
        world.clock.step(hours=1)
        await make(world).asked(asked("2", time=world.now))
        with killed_at(world, number, applied=applied) as calls:
            request = undo(world)
            try:
                await make(world).asked(request)
            except Killed:
                await make(world).asked(request)
            if calls() < number:
                break
        assert await current(world) == ("1", 3), number
        assert [each.setting for each in world.publisher.of(ReleaseSet)][-1] == 3, number
    assert number > 8
