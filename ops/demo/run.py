"""Runs the story: starts everything, plays the stages, ends everything, and leaves the report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from rich.table import Table

from deploy.fleet import read_fleet
from ops.demo import report
from ops.demo.journal import Journal
from ops.demo.report import Stage
from ops.demo.scene import Played, Scene, StageFailed
from ops.demo.screen import Screen
from ops.demo.story import STAGES, Play
from ops.demo.traffic import Traffic
from ops.demo.witness import listen, open_witness
from ops.example import first_releases
from ops.settings import OperatorSettings
from ops.stack import TOPIC_PREFIX, Stack
from shared.aws import Cloud, open_cloud
from shared.aws.session import Clients, open_clients
from shared.clock import SystemClock
from shared.cloud import CloudError
from shared.documents import CorruptDocument, Documents
from shared.fleet import Fleet


async def run_demo(folder: Path, port: int, description: Path, report_folder: Path, scale: float = 1.0) -> int:
    """Play the story; return 0 when every stage ended well, 1 otherwise. Everything that was started is ended.

    ``scale`` is how much code the servers have, see ``first_releases``.

    Raises:
        FleetError: the description is wrong; nothing was started.
        StartFailed: the local cloud did not start.
    """
    stack = Stack(folder, port)
    async with _scene(stack, description, scale) as scene:
        await play_stages(scene, STAGES)
        scene.result.memory_mb = stack.processes.memory_mb()
        scene.result.requests_served = scene.traffic.served
        scene.result.requests_failed = len(scene.traffic.failures)
        page = await asyncio.to_thread(report.write, report_folder, scene.result, scene.journal)
    _close(scene, page)
    return 0 if scene.result.ok and len(scene.result.stages) == len(STAGES) else 1


async def play_stages(scene: Scene, stages: Sequence[tuple[str, Play]]) -> None:
    """Play the stages in order, up to the first that fails; the scene's result has how each ended."""
    for number, (name, play) in enumerate(stages, 1):
        scene.screen.headline(f"{number}. {name}")
        if not await _play(scene, name, play):
            return


async def _play(scene: Scene, name: str, play: Play) -> bool:
    stage = Stage(name, scene.now())
    scene.result.stages.append(stage)
    try:
        await play(scene)
        stage.ok = True
    except (StageFailed, CloudError, CorruptDocument) as error:
        stage.reason = str(error)
    stage.ended = scene.now()
    scene.screen.refresh()
    verdict, style = ("ok", "bold green") if stage.ok else (f"FAILED: {stage.reason}", "bold red")
    scene.screen.say(f"{verdict}, {stage.seconds:.1f} s", style)
    return stage.ok


@asynccontextmanager
async def _scene(stack: Stack, description: Path, scale: float) -> AsyncIterator[Scene]:
    """Start everything that the story plays on; end it afterwards, whatever happened."""
    fleet = read_fleet(description)
    clock = SystemClock()
    screen = Screen(Journal(), clock)
    stack.enter()
    screen.headline("Set-up")
    screen.say("starting the local cloud: EC2, Auto Scaling, SSM, S3, SQS, SNS, EventBridge, CloudWatch on one port")
    stack.start_cloud()  # not in a thread: cancelled meanwhile, nobody would end what it started
    try:
        async with open_clients() as clients, open_cloud(OperatorSettings.read(), "ops", clock) as cloud:
            screen.say("creating topics, queues and rules from the template, and starting the six services")
            await stack.start_services(screen.say)
            screen.say("generating and publishing the first releases: tens of thousands of files")
            await first_releases(cloud, clock, fleet, stack.folder / "releases", scale)
            scene = make_scene(stack, clients, cloud, fleet, screen, stack.folder / "releases", scale)
            async with watched(scene):
                yield scene
    finally:
        screen.say("ending everything")
        await asyncio.to_thread(stack.stop)


def make_scene(
    stack: Played, clients: Clients, cloud: Cloud, fleet: Fleet, screen: Screen, workspace: Path, scale: float = 1.0
) -> Scene:
    """Return the scene of a story on a stack."""
    traffic = Traffic(cloud.objects, fleet.fleet, urlsplit(fleet.health.url).port or 80, screen.clock)
    documents = Documents(cloud.objects)
    return Scene(
        stack, clients, cloud, documents, fleet, screen.journal, screen, traffic, screen.clock, workspace, scale
    )


@asynccontextmanager
async def watched(scene: Scene) -> AsyncIterator[None]:
    """Have a witness write the journal, the screen follow it, and users ask for pages, until the block ends."""
    witness = await open_witness(scene.clients, TOPIC_PREFIX)
    with scene.screen:
        for work in (listen(scene.clients, witness, scene.journal), scene.watch(), scene.traffic.run()):
            scene.background.append(asyncio.create_task(work))
        try:
            yield
        finally:
            await _cancel(scene.background)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result


def _close(scene: Scene, page: Path) -> None:
    table = Table(title="What was measured", box=None, title_justify="left", show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in report.rows(scene.result, scene.journal):
        table.add_row(name, value)
    scene.screen.console.print()
    scene.screen.console.print(table)
    total = sum(stage.seconds for stage in scene.result.stages)
    well = sum(stage.ok for stage in scene.result.stages)
    scene.screen.console.print(f"\n{well} of {len(STAGES)} stages ended well, in {total:.0f} s. The time line: {page}")
