"""Fleet descriptions are found by name, and only whole ones."""

from __future__ import annotations

import json

import pytest

from shared.documents import CorruptDocument
from shared.fleets import Fleets, UnknownFleet
from tests.fakes import FakeObjects

WEB = {
    "schema": 1,
    "fleet": "web",
    "stock": "ami-12345678",
    "capacity": {"min": 0, "desired": 3, "max": 6},
    "plan": [{"step": "health", "check": "http://{address}:8080/health"}],
    "health": {"url": "http://{address}:8080/health"},
}


@pytest.fixture
def objects() -> FakeObjects:
    objects = FakeObjects()
    objects.bodies["fleets/web/fleet.json"] = json.dumps(WEB).encode()
    return objects


async def test_a_fleet_is_read_by_its_name(objects: FakeObjects) -> None:
    assert (await Fleets(objects).get("web")).capacity.desired == 3


async def test_the_names_are_those_of_the_described_fleets(objects: FakeObjects) -> None:
    objects.bodies |= {
        "fleets/api/fleet.json": b"broken, but there",
        "fleets/web/image.json": b"{}",
        "fleets/web/runs/x/fleet.json": b"{}",
        "fleets/Odd Name/fleet.json": b"{}",
        "fleets/gone/membership.json": b"{}",
    }
    assert list(await Fleets(objects).names()) == ["api", "web"]
    assert list(await Fleets(objects).folders()) == ["api", "gone", "web"]
    assert objects.called("etags") == []


@pytest.mark.parametrize("name", ["api", "", "Web", "web\n", "../web", "web/runs", "a" * 64])
async def test_an_unknown_fleet_is_refused_with_a_sentence(objects: FakeObjects, name: str) -> None:
    with pytest.raises(UnknownFleet, match="there is no fleet"):
        await Fleets(objects).get(name)


async def test_a_name_that_cannot_be_is_not_looked_up(objects: FakeObjects) -> None:
    with pytest.raises(UnknownFleet):
        await Fleets(objects).get("../web")
    assert objects.calls == []


@pytest.mark.parametrize("body", [b"{", b"{}", json.dumps(WEB | {"schema": 2}).encode()])
async def test_a_corrupt_or_newer_description_is_reported(objects: FakeObjects, body: bytes) -> None:
    objects.bodies["fleets/web/fleet.json"] = body
    with pytest.raises(CorruptDocument, match=r"fleets/web/fleet\.json"):
        await Fleets(objects).get("web")


async def test_a_description_in_the_wrong_place_is_reported(objects: FakeObjects) -> None:
    objects.bodies["fleets/api/fleet.json"] = objects.bodies["fleets/web/fleet.json"]
    with pytest.raises(CorruptDocument, match="another fleet"):
        await Fleets(objects).get("api")
