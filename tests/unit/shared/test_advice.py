from __future__ import annotations

import pytest

from shared.advice import components_of, next_command
from shared.fleet import Fleet
from shared.hints import show_command
from tests.unit.fleetworld import FLEET, FleetWorld

TWO = Fleet.model_validate(
    {
        **FLEET,
        "plan": [
            {"step": "code", "sync": "monolith", "to": "srv/monolith"},
            {"step": "data", "sync": "maps", "to": "srv/maps"},
            {"step": "compile", "run": "c.sh", "needs": ["code"]},
            {"step": "index", "run": "i.sh", "needs": ["compile"], "inputs": {"maps": ["**"]}},
            {"step": "health", "check": "http://{address}/", "needs": ["index"]},
        ],
    }
)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("data", {"maps"}),
        ("compile", {"monolith"}),
        ("health", {"monolith", "maps"}),
        ("unheard-of", {"monolith", "maps"}),
        (None, {"monolith", "maps"}),
    ],
)
def test_a_step_depends_on_what_it_syncs_reads_and_needs(step: str | None, expected: set[str]) -> None:
    assert set(components_of(TWO, step)) == expected


async def test_the_way_back_is_to_the_release_before_the_present_one() -> None:
    world = FleetWorld()
    await world.release("1")
    await world.release("2")
    command = await next_command(world.documents, world.fleet, "compile", "some/key.json")
    assert command.startswith("python -m ops release set --fleet web --component monolith --version 1 ")


async def test_where_no_release_was_before_the_record_is_shown() -> None:
    world = FleetWorld()
    await world.release("1")
    command = await next_command(world.documents, world.fleet, "compile", "some/key.json")
    assert command == show_command("some/key.json")
    assert "s3://${AUTOPROVISIONER_BUCKET:-autoprovisioner}/some/key.json" in command
