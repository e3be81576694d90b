from __future__ import annotations

from pathlib import Path

import pytest

from ops.rollouts import explain, explain_server, show
from ops.showing import _table, _told
from shared.records import FleetStatus, Refusal, alert_key, status_key
from tests.unit.fleetworld import breaks
from tests.unit.services.test_rollout import SERVERS, begin, serving, under_way


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "agent.py"
    path.write_text("pass\n")
    return path


async def test_while_a_server_is_on_its_way_the_others_wait(agent: Path) -> None:
    world, _ = await under_way(agent)
    view = await show(world.cloud, "web")
    assert view.state == "running"
    assert [each.rollout for each in view.servers] == ["in progress", "waiting", "waiting"]
    assert {each.releases["monolith"] for each in view.servers} == {"1"}


async def test_after_it_everybody_is_current(agent: Path) -> None:
    world = await serving()
    await begin(world, agent, breaks())
    view = await show(world.cloud, "web")
    assert (view.state, view.releases) == ("done", {"monolith": "2"})
    assert [each.rollout for each in view.servers] == ["current"] * 3
    assert all("monolith 2" in line for line in _table(view)[2:])


async def test_a_stopped_rollout_shows_who_failed_and_why_and_explain_says_what_is_broken(agent: Path) -> None:
    world = await serving()
    await begin(world, agent, breaks("monolith 2"))
    view = await show(world.cloud, "web")
    assert [each.rollout for each in view.servers] == ["failed", "waiting", "waiting"]
    assert "compile failed" in view.servers[0].reason
    found = await explain(world.cloud, world.components, world.clock, "web")
    [component] = found["components"]
    assert (component["current"], component["good"], component["launches_use"]) == ("2", "1", "1")
    assert "compile failed" in component["broken"]
    [alert] = found["alerts"]
    assert alert["next"].startswith("python -m ops release set --fleet web --component monolith --version 1  # back")
    assert found["strength"] == {"wanted": 3, "in_service": 3, "healthy": 3, "state": "converged"}
    assert found["budget"]["left"] == "19 of 20 within the hour; 2 healthy servers above the floor"
    told = "\n".join(_told(found))
    assert "launches_use: 1" in told
    server = await explain_server(world.cloud, "web", SERVERS[0])
    assert server["update"].startswith("rollout 1: undone")
    assert [each["result"] for each in server["attempts"]] == ["failed", "failed", "ok"]


async def test_an_alert_is_explained_with_the_command_that_people_were_sent() -> None:
    world = await serving()
    await world.alerts.raise_alert("web", "retirement-held", "5 of 6 images are due at once", "aws sns publish ...")
    world.objects.bodies[alert_key("web", "old")] = (
        b'{"schema":1,"fleet":"web","cause":"old","reason":"it was raised long ago","raised":"2026-03-04T00:00:00Z"}'
    )
    old, held = (await explain(world.cloud, world.components, world.clock, "web"))["alerts"]
    assert held["next"] == "aws sns publish ..."
    assert alert_key("web", "old") in old["next"]


async def test_a_fleet_at_rest_is_explained_too() -> None:
    world = await serving()
    found = await explain(world.cloud, world.components, world.clock, "web")
    assert (found["rollout"], found["alerts"], found["paused"]) == (None, [], "")
    assert found["image"]["why"].startswith("no image was promoted yet")


async def test_refused_requests_are_explained() -> None:
    world = await serving()
    refusal = Refusal(
        request="m1",
        type="server.kill.requested",
        server=SERVERS[0],
        by="ann",
        at=world.now,
        reason="the floor is 3",
    )
    status = FleetStatus(state="converged", since=world.now, healthy=3, wanted=3, refusals=(refusal,))
    await world.documents.change(FleetStatus, status_key("web"), lambda _: status)
    found = await explain(world.cloud, world.components, world.clock, "web")
    assert found["refused"] == [
        f"server.kill.requested of {SERVERS[0]} by ann at {world.now:%Y-%m-%d %H:%M:%S}: the floor is 3"
    ]
