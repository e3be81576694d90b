"""People are told once for each fleet and cause, and told for certain."""

from __future__ import annotations

import pytest

from shared.alerts import Alerts
from shared.cloud import Unavailable
from shared.documents import Documents
from shared.messages import AlertCleared, AlertRaised
from tests.fakes import FakeClock, FakeObjects, FakePublisher


class World:
    def __init__(self) -> None:
        self.objects = FakeObjects()
        self.publisher = FakePublisher()
        self.clock = FakeClock()
        self.alerts = Alerts(Documents(self.objects), self.publisher, self.clock)

    async def raise_it(self, fleet: str = "web", cause: str = "bake-failed") -> bool:
        return await self.alerts.raise_alert(
            fleet, cause, "the build failed", "ops bake web", step="build", log_tail="make: error"
        )

    @property
    def raised(self) -> list[AlertRaised]:
        return self.publisher.of(AlertRaised)


@pytest.fixture
def world() -> World:
    return World()


async def test_an_alert_says_what_why_and_what_to_do(world: World) -> None:
    assert await world.raise_it()
    [alert] = world.raised
    assert (alert.fleet, alert.cause, alert.step) == ("web", "bake-failed", "build")
    assert (alert.reason, alert.next, alert.log_tail) == ("the build failed", "ops bake web", "make: error")
    assert alert.time == world.clock.now()


@pytest.mark.fault(43)
async def test_the_same_trouble_is_told_once(world: World) -> None:
    assert await world.raise_it()
    assert not await world.raise_it()
    assert len(world.raised) == 1


async def test_other_fleets_and_causes_are_told_too(world: World) -> None:
    await world.raise_it()
    assert await world.raise_it(fleet="api")
    assert await world.raise_it(cause="launch-failed")
    assert len(world.raised) == 3


async def test_what_was_cleared_is_told_anew(world: World) -> None:
    await world.raise_it()
    assert await world.alerts.clear("web", "bake-failed")
    assert [(each.fleet, each.cause) for each in world.publisher.of(AlertCleared)] == [("web", "bake-failed")]
    assert await world.raise_it()
    assert len(world.raised) == 2


async def test_clearing_what_does_not_stand_says_nothing(world: World) -> None:
    assert not await world.alerts.clear("web", "bake-failed")
    assert world.publisher.published == []


async def test_of_the_alerts_with_a_prefix_those_that_are_over_are_cleared_after_one_listing(world: World) -> None:
    for fleet, cause in [("web", "slow-build"), ("web", "slow-code"), ("web", "bake-failed"), ("api", "slow-build")]:
        await world.raise_it(fleet=fleet, cause=cause)
    world.objects.calls.clear()
    await world.alerts.clear_where("web", lambda cause: cause != "slow-code", "slow-")
    assert [(each.fleet, each.cause) for each in world.publisher.of(AlertCleared)] == [("web", "slow-build")]
    assert len(world.objects.called("get")) == 1
    await world.alerts.clear_where("web", lambda cause: cause != "slow-code")
    assert [each.cause for each in world.publisher.of(AlertCleared)] == ["slow-build", "bake-failed"]


async def test_an_alert_that_could_not_be_published_is_published_by_the_next_who_raises_it(world: World) -> None:
    world.publisher.fail("publish", Unavailable("down"))
    with pytest.raises(Unavailable):
        await world.raise_it()
    assert await world.raise_it()
    assert len(world.raised) == 1
    assert not await world.raise_it()


async def test_an_alert_that_may_have_been_published_twice_has_one_id(world: World) -> None:
    world.publisher.fail("publish", Unavailable("the reply was lost"), applied=True)
    with pytest.raises(Unavailable):
        await world.raise_it()
    await world.raise_it()
    first, second = world.raised
    assert first.id == second.id


async def test_clearing_that_could_not_be_published_is_done_by_the_next(world: World) -> None:
    await world.raise_it()
    world.publisher.fail("publish", Unavailable("down"))
    with pytest.raises(Unavailable):
        await world.alerts.clear("web", "bake-failed")
    assert await world.alerts.clear("web", "bake-failed")


async def test_long_texts_are_cut_where_it_hurts_least(world: World) -> None:
    await world.alerts.raise_alert("web", "x", "r" * 5000, "n" * 5000, log_tail="a" * 9000 + "the end")
    [alert] = world.raised
    assert len(alert.reason) == len(alert.next) == 2000
    assert len(alert.log_tail) == 8000
    assert alert.log_tail.endswith("the end")
