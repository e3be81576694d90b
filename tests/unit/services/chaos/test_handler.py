from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from services.chaos.handler import Chaos
from shared.cloud import Denied, Incomplete, Unavailable
from shared.documents import CorruptDocument
from shared.events import AlarmChanged
from shared.fleets import UnknownFleet
from shared.messages import FleetConverged, ServerKillRequested, Tick
from shared.outcome import Done
from shared.records import FleetStatus, Pause, pause_key, status_key
from tests.fakes import START
from tests.unit.services.making import WEB, Stage, fleet, server


class Certain(random.Random):
    """Every coin says yes."""

    def random(self) -> float:
        return 0.0


class Web(Stage):
    """The fleet web: opted in, three servers, at strength."""

    def __init__(self, chaos: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self.describe(fleet({"chaos": {"enabled": True, **(chaos or {})}}))
        self.servers(1, 2, 3)
        self.put(status_key(WEB), FleetStatus(state="converged", since=START, healthy=3, wanted=3))

    def chaos(self, randomness: random.Random | None = None) -> Chaos:
        world = self.world
        return Chaos(
            groups=world.groups,
            publisher=world.publisher,
            alarms=world.alarms,
            clock=world.clock,
            randomness=randomness or Certain(),
            documents=self.documents,
            fleets=self.fleets,
            alerts=self.alerts,
        )

    def asked(self) -> list[ServerKillRequested]:
        return self.world.publisher.of(ServerKillRequested)


async def test_a_tick_asks_for_a_kill_in_the_name_of_chaos_and_does_nothing_itself() -> None:
    web = Web()
    outcome = await web.chaos().handle(Tick())
    (request,) = web.asked()
    assert (request.fleet, request.server, request.by, request.time) == (WEB, server(1), "chaos", START)
    assert isinstance(outcome, Done)
    assert server(1) in outcome.why
    assert {call.method for call in web.world.groups.calls} == {"describe"}


async def test_the_same_chance_draws_the_same_victim() -> None:
    victims = []
    for _ in range(2):
        web = Web()
        await web.chaos(random.Random(7)).handle(Tick(fleet=WEB))
        victims.append(web.asked()[0].server)
    assert victims[0] == victims[1]


async def test_an_operator_gets_a_kill_out_of_hours_and_without_the_coin_but_not_past_a_pause() -> None:
    web = Web()
    web.world.clock.step(hours=11)
    tails = random.Random(1)
    await web.chaos(tails).handle(Tick())
    assert web.asked() == []
    await web.chaos(tails).handle(Tick(fleet=WEB))
    assert len(web.asked()) == 1
    web.put(pause_key(WEB), Pause(what="chaos", by="ann"))
    await web.chaos(tails).handle(Tick(fleet=WEB))
    assert len(web.asked()) == 1


@pytest.mark.fault(36)
async def test_a_check_that_fails_means_no_kill() -> None:
    for fail in ("describe", "states", "get", "denied"):
        web = Web({"alarms": ["slow"]})
        web.world.alarms.known["slow"] = "OK"
        match fail:
            case "describe":
                web.world.groups.fail("describe", Incomplete("page 2 failed"))
            case "states":
                web.world.alarms.fail("states", Unavailable("no answer"))
            case "get":
                web.world.objects.fail("get", Unavailable("no answer"))
            case _:
                web.world.groups.fail("describe", Denied("expired"))
        outcome = await web.chaos().handle(Tick(fleet=WEB))
        assert web.asked() == []
        assert isinstance(outcome, Done)
        assert "no kill" in outcome.why


@pytest.mark.fault(42)
async def test_a_denied_check_is_alerted() -> None:
    web = Web()
    web.world.groups.fail("describe", Denied("expired"))
    await web.chaos().handle(Tick())
    assert web.raised() == ["chaos-denied"]


@pytest.mark.fault(9)
async def test_a_document_that_cannot_be_read_means_no_kill_there_and_other_fleets_are_considered() -> None:
    for key in (pause_key(WEB), status_key(WEB)):
        web = Web()
        web.world.objects.bodies[key] = b"{}"
        web.describe(fleet({"chaos": {"enabled": True}}, name="zoo"))
        web.world.groups.set(replace(web.world.groups.groups[WEB], fleet="zoo"))
        web.put(status_key("zoo"), FleetStatus(state="converged", since=START, healthy=3, wanted=3))
        await web.chaos().handle(Tick())
        assert [request.fleet for request in web.asked()] == ["zoo"]
        with pytest.raises(CorruptDocument):
            await web.chaos().handle(Tick(fleet=WEB))


async def test_an_unknown_fleet_is_raised_with_a_sentence() -> None:
    with pytest.raises(UnknownFleet, match="nobody"):
        await Web().chaos().handle(Tick(fleet="nobody"))


async def test_other_messages_kill_nobody() -> None:
    web = Web()
    for incoming in (AlarmChanged("slow", "OK", ""), FleetConverged(fleet=WEB, healthy=3, wanted=3)):
        assert isinstance(await web.chaos().handle(incoming), Done)
    assert web.asked() == []
