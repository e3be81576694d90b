"""A service's looks at fleets: one fleet's trouble does not hide the others'."""

from __future__ import annotations

import pytest

from shared.cloud import Denied, Throttled
from shared.documents import CorruptDocument
from shared.fleets import UnknownFleet
from shared.messages import AlertCleared, AlertRaised
from shared.outcome import Done
from shared.sweeps import Looked, Sweeps
from tests.unit.services.making import Stage, fleet


class Fleets(Stage):
    """Three fleets, and what befalls whoever looks at one of them."""

    def __init__(self, **trouble: Exception) -> None:
        super().__init__()
        for name in ("a", "b", "c"):
            self.describe(fleet(name=name))
        self.trouble = trouble
        self.looked: list[str] = []
        self.sweeps = Sweeps(self.alerts, self.fleets, "registry")

    async def look(self, name: str) -> Looked:
        self.looked.append(name)
        if name in self.trouble:
            raise self.trouble[name]
        return Looked("fine", frozenset({"mended"}))

    def alerted(self) -> list[tuple[str, str]]:
        return [(each.fleet, each.cause) for each in self.world.publisher.of(AlertRaised)]


async def test_a_tick_that_names_no_fleet_looks_at_every_one() -> None:
    fleets = Fleets()
    assert await fleets.sweeps.some(None, fleets.look) == Done("a: fine; b: fine; c: fine")


async def test_a_tick_that_names_a_fleet_looks_at_that() -> None:
    fleets = Fleets()
    assert await fleets.sweeps.some("b", fleets.look) == Done("fine")
    assert fleets.looked == ["b"]


async def test_without_fleets_there_is_nothing_to_do() -> None:
    empty = Stage()
    sweeps = Sweeps(empty.alerts, empty.fleets, "registry")
    assert await sweeps.some(None, Fleets().look) == Done("there are no fleets")


async def test_each_document_that_cannot_be_read_calls_a_person_and_the_tick_is_done_with() -> None:
    """Else a tick a minute ends as a dead letter until somebody has mended the document."""
    fleets = Fleets(a=CorruptDocument("fleets/a/image.json", "bad"), c=CorruptDocument("fleets/c/pause.json", "bad"))
    for _ in range(2):
        outcome = await fleets.sweeps.some(None, fleets.look)
        assert outcome == Done("a: fleets/a/image.json: bad; b: fine; c: fleets/c/pause.json: bad")
    assert fleets.alerted() == [("a", "corrupt-image"), ("c", "corrupt-pause")]


async def test_what_cannot_be_read_and_is_no_fleets_is_raised() -> None:
    fleets = Fleets(a=CorruptDocument("releases/app/garbage.json", "bad"))
    with pytest.raises(CorruptDocument):
        await fleets.sweeps.some(None, fleets.look)
    assert fleets.looked == ["a", "b", "c"]


async def test_a_tick_that_names_a_fleet_of_which_something_cannot_be_read_waits() -> None:
    fleets = Fleets(a=CorruptDocument("fleets/a/image.json", "bad"))
    with pytest.raises(CorruptDocument):
        await fleets.sweeps.some("a", fleets.look)


async def test_a_call_that_failed_is_raised_once_all_were_looked_at_whatever_cannot_be_read() -> None:
    fleets = Fleets(a=CorruptDocument("fleets/a/image.json", "bad"), b=Throttled("slow down"))
    with pytest.raises(Throttled):
        await fleets.sweeps.some(None, fleets.look)
    assert fleets.looked == ["a", "b", "c"]
    assert fleets.alerted() == [("a", "corrupt-image")]


async def test_a_fleet_that_was_removed_is_passed_over() -> None:
    fleets = Fleets(a=UnknownFleet("a"))
    assert await fleets.sweeps.some(None, fleets.look) == Done("b: fine; c: fine")


async def test_a_denied_call_calls_a_person_until_one_is_not_denied() -> None:
    fleets = Fleets(a=Denied("no"))
    with pytest.raises(Denied):
        await fleets.sweeps.some(None, fleets.look)
    assert fleets.alerted() == [("a", "registry-denied")]
    fleets.trouble.clear()
    await fleets.sweeps.some(None, fleets.look)
    assert [each.cause for each in fleets.world.publisher.of(AlertCleared)] == ["registry-denied"]


async def test_what_a_look_finds_to_be_over_is_cleared_with_one_request_that_finds_what_stands() -> None:
    fleets = Fleets()
    for cause in ("mended", "another"):
        await fleets.alerts.raise_alert("a", cause, "bad", "mend it")
    fleets.world.objects.calls.clear()
    await fleets.sweeps.one("a", fleets.look)
    assert [each.cause for each in fleets.world.publisher.of(AlertCleared)] == ["mended"]
    assert len(fleets.world.objects.called("etags")) == 1
    assert len(fleets.world.objects.called("get")) == 1


async def test_a_look_that_fails_leaves_all_alerts_standing() -> None:
    fleets = Fleets(a=Throttled("slow down"))
    await fleets.alerts.raise_alert("a", "mended", "bad", "mend it")
    with pytest.raises(Throttled):
        await fleets.sweeps.one("a", fleets.look)
    assert not fleets.world.publisher.of(AlertCleared)
