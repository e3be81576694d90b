"""A nightly bake does not fail because of one broken component release."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.messages import AlertRaised, ImageBakeFailed, ImageReady
from shared.records import manifest_key
from tests.unit.fleetworld import STOCK, FleetWorld, breaks, killed_at, proven
from tests.unit.services.baker.test_handler import bake, images_come, of_role, play


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "agent.py"
    path.write_text("pass\n")
    return path


def broken(world: FleetWorld) -> None:
    images_come(world)
    breaks("monolith 2")(world)


def all_broken(world: FleetWorld) -> None:
    breaks("monolith 1", "monolith 2")(world)


def once(world: FleetWorld) -> None:
    """The first run fails by accident."""
    images_come(world)
    first = [sent for sent in world.commands.sent][:1]
    if first == world.running:
        breaks("monolith 2")(world)
    else:
        breaks()(world)


async def test_a_bake_goes_on_with_the_last_good_release_on_a_fresh_server_from_stock(agent: Path) -> None:
    world = await proven("2")
    await play(world, agent, broken)
    record = await bake(world)
    assert (record.stage, record.releases) == ("ready", {"monolith": "1"})
    spoiled, used = of_role(world, "builder")
    assert record.spoiled == (spoiled.server,)
    assert (record.builder, used.image) == (used.server, STOCK)
    assert {each.state for each in of_role(world, "builder")} == {"terminated"}
    assert record.provision is not None
    assert {step.result for step in record.provision.steps} == {"done"}, "every step of the plan ran on it"
    assert len(world.publisher.of(ImageReady)) == 1
    [alert] = world.publisher.of(AlertRaised)
    assert (alert.cause, alert.step, alert.log_tail) == ("release-monolith", "compile", "no such file")


async def test_a_release_is_tried_as_often_as_in_a_launch_before_it_is_fallen_back_from(agent: Path) -> None:
    world = await proven("2")
    await play(world, agent, once)
    record = await bake(world)
    assert (record.stage, record.releases, len(record.failed)) == ("ready", {"monolith": "2"}, 1)
    assert (await world.components.standing("web", "monolith")).good == "2"
    assert world.publisher.of(AlertRaised) == []


async def test_where_the_last_good_release_fails_too_the_bake_fails_and_no_release_is_blamed(agent: Path) -> None:
    world = await proven("2")
    await play(world, agent, all_broken)
    assert (await bake(world)).stage == "failed"
    assert [alert.cause for alert in world.publisher.of(AlertRaised)] == ["bake"]
    assert "none is to blame" in world.publisher.of(ImageBakeFailed)[0].reason
    assert (await world.components.standing("web", "monolith")).broken is None
    assert {each.state for each in of_role(world, "builder")} == {"terminated"}


async def test_a_release_without_its_manifest_does_not_fail_the_bake(agent: Path) -> None:
    world = await proven("2")
    del world.objects.bodies[manifest_key("monolith", "2")]
    await play(world, agent, broken)
    assert ((await bake(world)).stage, (await bake(world)).releases) == ("ready", {"monolith": "1"})
    assert [alert.cause for alert in world.publisher.of(AlertRaised)] == ["release-monolith"]


@pytest.mark.parametrize("applied", [False, True])
async def test_killed_at_any_call_the_bake_falls_back_once_and_leaves_no_server(agent: Path, applied: bool) -> None:
    clean = await proven("2")
    with killed_at(clean, 0, applied=applied) as calls:
        await play(clean, agent, broken)
        count = calls()
    for number in range(1, count + 1):
        world = await proven("2")
        with killed_at(world, number, applied=applied):
            await play(world, agent, broken)
        record = await bake(world)
        assert (record.stage, record.releases, len(record.spoiled)) == ("ready", {"monolith": "1"}, 1), number
        assert {each.state for each in of_role(world, "builder")} == {"terminated"}, number
        assert record.builder not in record.spoiled, number
        assert len({alert.id for alert in world.publisher.of(AlertRaised)}) == 1, number


async def test_a_builder_that_ec2_still_shows_as_running_is_not_taken_up_again(
    agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await proven("2")
    terminate = world.servers.terminate

    async def late(server: str) -> None:
        if (await bake(world)).stage == "ready":
            await terminate(server)

    monkeypatch.setattr(world.servers, "terminate", late)
    await play(world, agent, broken)
    record = await bake(world)
    assert (record.stage, len(of_role(world, "builder"))) == ("ready", 2)
    assert record.builder not in record.spoiled
