"""The story on LocalStack and the local cloud, with the commands and the environment that docker-compose.yml gives."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from deploy.fleet import read_fleet
from ops.demo import story
from ops.demo.journal import Journal
from ops.demo.run import make_scene, play_stages, watched
from ops.demo.scene import Scene
from ops.demo.screen import Screen
from ops.demo.story import Play
from ops.settings import OperatorSettings
from shared.aws import open_cloud
from shared.aws.session import open_clients
from shared.clock import SystemClock
from shared.names import SERVICES
from shared.records import Release, current_release_key
from tests import localstack
from tests.composefile import REPOSITORY, read_compose_file, seconds
from tests.story.composed import Composed

README = REPOSITORY / "README.md"
SCALE = "0.1"
BOOTSTRAP_S = 90
"""Three to ten seconds on a machine that does nothing else."""


async def launch(scene: Scene) -> None:
    await story.launched_from_stock(scene)


async def roll_back(scene: Scene) -> None:
    """As the README says it."""
    said = re.search(
        r"^    (aws sns publish (?:.*\\\n)*.*image\.rollback\.requested.*)$", README.read_text(), re.MULTILINE
    )
    assert said, "the README does not say how to roll back"
    first = await story.second_image(scene)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    asked = await asyncio.create_subprocess_shell(said[1], env=scene.stack.environment() | {"PATH": path})
    assert await asked.wait() == 0
    await story.rolled_back(scene, first)


def stages() -> tuple[tuple[str, Play], ...]:
    """The demo's, with two done compose's way, and the kill of services early: later launches are too quick for it."""
    otherwise: dict[Play, Play] = {story.launch_from_stock: launch, story.roll_back: roll_back}
    *most, crash = ((name, otherwise.get(play, play)) for name, play in story.STAGES)
    return (most[0], crash, *most[1:])


@pytest.fixture
def composed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Composed]:
    """LocalStack, the local cloud, the bootstrap's work and the services, in the file's order."""
    file = read_compose_file({"EXAMPLE_SCALE": SCALE})
    for name, value in file.services["localstack"].variables({}).items():
        monkeypatch.setitem(localstack.FLAGS, name, value)
    made = Composed(file, tmp_path / "stack")
    try:
        order = TopologicalSorter({name: set(service.depends_on) for name, service in file.services.items()})
        assert list(order.static_order())[:3] == ["localstack", "localcloud", "bootstrap"]
        made.start_localstack()
        made.start("localcloud")
        made.wait_until_healthy("localcloud")
        print(made.run("bootstrap", BOOTSTRAP_S))
        for variable in [name for name in os.environ if name.startswith(("AWS_", "AUTOPROVISIONER_"))]:
            monkeypatch.delenv(variable)
        for variable, value in made.environment().items():
            monkeypatch.setenv(variable, value)
        yield made
    finally:
        made.close()


@pytest.mark.story
@pytest.mark.timeout(600)
async def test_the_story_goes_well_on_what_compose_starts(composed: Composed) -> None:
    clock = SystemClock()
    fleet = read_fleet(REPOSITORY / "examples" / "web" / "fleet.yaml")
    async with open_clients() as clients, open_cloud(OperatorSettings.read(), "ops", clock) as cloud:
        scene = make_scene(
            composed, clients, cloud, fleet, Screen(Journal(), clock), composed.folder / "releases", float(SCALE)
        )
        async with watched(scene):
            for service in SERVICES:
                composed.start(service)
            await play_stages(scene, stages())
        again = await asyncio.to_thread(composed.run, "bootstrap", BOOTSTRAP_S)
        monolith = await scene.documents.get(Release, current_release_key(fleet.fleet, "monolith"))

    assert [(stage.name, stage.reason) for stage in scene.result.stages if not stage.ok] == []
    assert len(scene.result.stages) == len(story.STAGES)
    assert scene.traffic.failures == []
    assert all(composed.healthy(service) for service in SERVICES)
    assert "nothing to change" in again
    assert monolith
    assert monolith.version == "4", "the second bootstrap set the fleet back to its first release"
    grace_s = min(seconds(composed.file.services[service].stop_grace_period) for service in SERVICES)
    assert composed.stop_services() < grace_s
