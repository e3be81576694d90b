"""A launch goes on with the last good release where the one that is set is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.components import Standing
from shared.events import LifecycleAction
from shared.fleet import Fleet
from shared.messages import AlertCleared, AlertRaised, ServerProvisionFailed
from shared.names import LAUNCH_HOOK
from shared.records import Launch, launch_key, manifest_key
from tests.unit.fleetworld import FIRST, FLEET, FleetWorld, breaks, killed_at, proven
from tests.unit.services.provisioner.test_handler import completions, launch, make, plan_runs, play, state

SECOND = "i-00000000000000002"
TWO = {
    **FLEET,
    "plan": [
        {"step": "tools", "sync": "tools", "to": "opt/tools"},
        {"step": "code", "sync": "monolith", "to": "srv/monolith"},
        {"step": "compile", "run": "scripts/compile.sh", "script": "true", "needs": ["code"]},
        {"step": "health", "check": "http://{address}/health", "needs": ["compile", "tools"]},
    ],
}


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "agent.py"
    path.write_text("pass\n")
    return path


async def launching(*versions: str) -> FleetWorld:
    """A fleet where release 1 went well, and these were set since; a server launches."""
    world = await proven(*versions)
    world.server()
    return world


async def standing(world: FleetWorld, component: str = "monolith") -> Standing:
    return await world.components.standing("web", component)


def raised(world: FleetWorld) -> list[str]:
    return [alert.cause for alert in world.publisher.of(AlertRaised)]


async def launches(world: FleetWorld, agent: Path, server: str) -> Launch:
    world.server(server)
    event = LifecycleAction("web", server, LAUNCH_HOOK, "t", "launching")
    await play(world, agent, breaks("monolith 2"), event)
    found = await world.documents.get(Launch, launch_key("web", server))
    assert found is not None
    return found


async def test_a_broken_release_does_not_block_the_launch_and_is_told_once_with_step_log_and_next(agent: Path) -> None:
    world = await launching("2")
    await play(world, agent, breaks("monolith 2"))
    record = await launch(world)
    assert (record.result, record.releases, completions(world)) == ("ready", {"monolith": "1"}, ["CONTINUE"])
    assert [each.result for each in record.attempts] == ["failed", "failed", "ok"]
    [alert] = world.publisher.of(AlertRaised)
    assert (alert.cause, alert.step, alert.log_tail) == ("release-monolith", "compile", "no such file")
    assert "release 2 of monolith is broken for fleet web, which goes on with 1" in alert.reason
    assert "release set --fleet web --component monolith --version 1" in alert.next
    found = await standing(world)
    assert (found.good, found.chosen) == ("1", "1")
    assert found.broken is not None
    assert found.broken.by == f"the launch of {FIRST}"


async def test_the_next_launches_use_the_last_good_release_at_once_and_raise_nothing(agent: Path) -> None:
    world = await launching("2")
    await play(world, agent, breaks("monolith 2"))
    record = await launches(world, agent, SECOND)
    assert ([each.result for each in record.attempts], record.releases) == (["ok"], {"monolith": "1"})
    assert raised(world) == ["release-monolith"]


async def test_a_mended_release_is_taken_and_the_alert_cleared(agent: Path) -> None:
    world = await launching("2")
    await play(world, agent, breaks("monolith 2"))
    await world.release("3")
    record = await launches(world, agent, SECOND)
    assert record.releases == {"monolith": "3"}
    assert (await standing(world)).good == "3"
    assert [each.cause for each in world.publisher.of(AlertCleared)] == ["release-monolith"]


async def test_setting_the_broken_release_anew_gives_it_another_chance(agent: Path) -> None:
    world = await launching("2")
    await play(world, agent, breaks("monolith 2"))
    await world.components.set("web", "monolith", "2", by="ada")
    world.server(SECOND)
    await play(world, agent, plan_runs, LifecycleAction("web", SECOND, LAUNCH_HOOK, "t", "launching"))
    assert (await standing(world)).good == "2"


async def test_where_the_last_good_release_fails_too_no_release_is_to_blame(agent: Path) -> None:
    world = await launching("2")
    await play(world, agent, breaks("monolith 1", "monolith 2"))
    assert completions(world) == ["ABANDON"]
    assert raised(world) == ["provision-compile"]
    [told] = world.publisher.of(ServerProvisionFailed)
    assert "none is to blame" in told.reason
    assert (await standing(world)).broken is None
    assert "release set" not in world.publisher.of(AlertRaised)[0].next


async def test_where_nothing_changed_since_it_last_went_well_the_launch_is_given_up_as_ever(agent: Path) -> None:
    world = await launching()
    await play(world, agent, breaks("monolith 1"))
    record = await launch(world)
    assert (record.result, len(record.attempts), record.fallbacks) == ("failed", 2, ())
    assert raised(world) == ["provision-compile"]


async def test_a_first_release_that_is_broken_fails_loudly(agent: Path) -> None:
    world = FleetWorld()
    await world.release("1")
    world.server()
    await play(world, agent, breaks("monolith 1"))
    assert (completions(world), raised(world)) == (["ABANDON"], ["provision-compile"])


@pytest.mark.parametrize("manifest", [None, b"{}"])
async def test_a_manifest_that_is_missing_or_damaged_falls_back_without_a_try(
    agent: Path, manifest: bytes | None
) -> None:
    world = await launching("2")
    if manifest is None:
        del world.objects.bodies[manifest_key("monolith", "2")]
    else:
        world.objects.bodies[manifest_key("monolith", "2")] = manifest
    await play(world, agent)
    record = await launch(world)
    assert (record.result, record.releases, len(record.attempts)) == ("ready", {"monolith": "1"}, 1)
    assert [(each.cause, each.step) for each in world.publisher.of(AlertRaised)] == [("release-monolith", "code")]


async def test_without_either_manifest_a_person_is_called_and_the_server_waits(agent: Path) -> None:
    world = await launching("2")
    for version in ("1", "2"):
        del world.objects.bodies[manifest_key("monolith", version)]
    await make(world, agent).handle(LifecycleAction("web", FIRST, LAUNCH_HOOK, "t", "launching"))
    assert raised(world) == ["provision-plan"]
    assert completions(world) == []


async def test_a_release_set_meanwhile_is_tried_before_anything_is_given_up(agent: Path) -> None:
    world = await launching("2")
    event = LifecycleAction("web", FIRST, LAUNCH_HOOK, "t", "launching")
    for _ in range(2):
        await make(world, agent).handle(event)
        breaks("monolith 2")(world)
    await world.release("3")
    await play(world, agent, breaks("monolith 2"))
    record = await launch(world)
    assert (record.releases, record.fallbacks) == ({"monolith": "3"}, ())
    assert [each.result for each in record.attempts] == ["failed", "failed", "ok"]
    assert raised(world) == []


async def two_components(monolith: str, tools: str) -> FleetWorld:
    world = FleetWorld()
    world.describe(Fleet.model_validate(TWO))
    for component, versions in (("monolith", ("1", monolith)), ("tools", ("1", tools))):
        for version in versions:
            world.publish(version, component)
            await world.components.point("web", component, version, by="test")
            await world.components.prove("web", {component: "1"}, "a launch")
    world.server()
    return world


async def test_only_components_that_the_failed_step_depends_on_fall_back(agent: Path) -> None:
    world = await two_components("2", "2")
    await play(world, agent, breaks("monolith 2"))
    assert (await launch(world)).releases == {"monolith": "1", "tools": "2"}
    assert raised(world) == ["release-monolith"]
    assert (await standing(world, "tools")).good == "2", "the other component is not held up"


async def test_a_sync_that_fails_blames_its_own_component(agent: Path) -> None:
    world = await two_components("2", "2")
    await play(world, agent, breaks("tools 2", step="tools"))
    assert (await launch(world)).releases == {"monolith": "2", "tools": "1"}
    assert raised(world) == ["release-tools"]


async def test_where_several_changed_all_of_them_fall_back_and_the_alert_says_so(agent: Path) -> None:
    world = await two_components("2", "2")
    await play(world, agent, breaks("monolith 2", step="health"))
    assert (await launch(world)).releases == {"monolith": "1", "tools": "1"}
    assert sorted(raised(world)) == ["release-monolith", "release-tools"]
    assert all("one of them is to blame" in alert.reason for alert in world.publisher.of(AlertRaised))


async def test_a_failure_outside_of_the_plan_blames_no_release(agent: Path) -> None:
    world = await launching("2")

    def cut_off(world: FleetWorld) -> None:
        for sent in world.running:
            world.report(sent, "failed", (), "the agent was killed")

    await play(world, agent, cut_off)
    assert (completions(world), raised(world)) == (["ABANDON"], ["provision-command"])


@pytest.mark.parametrize("applied", [False, True])
async def test_killed_at_any_call_the_launch_falls_back_once_and_is_told_once(agent: Path, applied: bool) -> None:
    clean = await launching("2")
    with killed_at(clean, 0, applied=applied) as calls:
        await play(clean, agent, breaks("monolith 2"))
        count = calls()
    for number in range(1, count + 1):
        world = await launching("2")
        with killed_at(world, number, applied=applied):
            await play(world, agent, breaks("monolith 2"))
        record = await launch(world)
        assert (record.result, record.releases, state(world)) == ("ready", {"monolith": "1"}, "InService"), number
        assert len(record.attempts) == 3, number
        assert len(record.fallbacks) == 1, number
        assert {alert.id for alert in world.publisher.of(AlertRaised)} != set(), number
        assert len({alert.id for alert in world.publisher.of(AlertRaised)}) == 1, number
        assert (await standing(world)).chosen == "1", number
