"""The story's stages. Each acts as people or fate would, and asserts what is really there; any may fail the story."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from deploy.group import apply_group
from ops.demo.scene import Scene, StageFailed
from ops.example import monolith_release
from shared.names import ServiceName
from shared.records import Launch, Pointer, Rollout, manifest_key, rollout_key

FULL_TIMEOUT_S = 240.0
"""Three full provisionings at once, on two cores that others may use too."""

LAUNCH_TIMEOUT_S = 90.0
EVENT_TIMEOUT_S = 30.0

SYNCED_FILES_STEPS = frozenset({"monolith", "compile", "service", "health"})
"""The steps that a change below ``src/`` touches."""


async def launch_from_stock(scene: Scene) -> None:
    """Make the fleet, and measure how its first servers come about."""
    await apply_group(scene.fleet)
    launches = await launched_from_stock(scene)
    scene.result.full_provisioning_s = statistics.median(_launch_seconds(scene, each.server) for each in launches)
    scene.result.full_bytes = _moved(launches[0])


async def launched_from_stock(scene: Scene) -> list[Launch]:
    """Judge the first servers of a fleet that was just made; return the records of their launches."""
    serving = await scene.until("three servers at work", scene.at_strength, FULL_TIMEOUT_S)
    stock = await scene.cloud.servers.stock_image(scene.fleet.stock)
    launches = []
    for server in sorted(serving):
        launch = await _launch_record(scene, server)
        scene.check(launch.image == stock, f"{server} started from {launch.image}, not from the stock image {stock}")
        skipped = _steps(launch, "skipped")
        scene.check(not skipped, f"{server} skipped {sorted(skipped)} although its ledger was empty")
        scene.check((await scene.health(server))["monolith"] == "1", f"{server} does not serve release 1")
        launches.append(launch)
    return launches


async def bake(scene: Scene) -> None:
    """Have an image baked, and judge it."""
    await scene.publish_command(type="image.bake.requested", fleet=scene.fleet.fleet, by="demo")
    pointer = await scene.until("the pointer at a new image", scene.pointer, FULL_TIMEOUT_S)
    await _check_image(scene, pointer)
    bake = (await scene.bakes())[-1]
    done = {step.step for step in (bake.provision.steps if bake.provision else ()) if step.result == "done"}
    scene.check(len(done) == len(scene.fleet.plan), f"the bake ran only {sorted(done)}; it must run every step")


async def chaos_kill(scene: Scene) -> None:
    """Have chaos kill a server, and judge its replacement."""
    before = await scene.in_service()
    asked = len(scene.journal.messages)
    await scene.tick("chaos")
    at, request = await scene.until(
        "a kill request from chaos", _message(scene, "server.kill.requested", asked), EVENT_TIMEOUT_S
    )
    victim = str(request["server"])
    scene.check(request["by"] == "chaos", f"the kill was asked for by {request['by']}, not by chaos")
    server = await _replaced(scene, before, victim, LAUNCH_TIMEOUT_S)
    pointer = await scene.pointer()
    launch = await _launch_record(scene, server)
    scene.check(pointer is not None and launch.image == pointer.image, f"{server} is not from the golden image")
    ran = {name for name in _steps(launch, "done") if name not in {"health"}}
    scene.check(not ran, f"nothing had changed, and yet {server} ran {sorted(ran)}")
    _check_gone(scene, victim)
    line = scene.journal.servers[server]
    scene.result.image_launch_s = line.launch_s
    scene.result.kill_recovery_s = line.marks["in service"] - at
    scene.result.kill_recovery_parts = {
        "decision": line.marks["pending"] - at,
        "boot": line.boot_s or 0.0,
        "steps": line.steps_s,
        "rest": line.added_s or 0.0,
    }
    full, recovery = scene.result.full_provisioning_s or 0.0, scene.result.kill_recovery_s
    scene.screen.say(
        f"full provisioning {full:.1f} s; recovery from the kill {recovery:.1f} s: 1/{full / recovery:.1f}", "bold"
    )


async def new_release(scene: Scene) -> None:
    """Publish a release, and judge what a replacement does about it."""
    await _release(scene, "2")
    server = await _kill_one(scene)
    launch = await _launch_record(scene, server)
    done = _steps(launch, "done")
    scene.check(
        done == SYNCED_FILES_STEPS, f"{server} ran {sorted(done)}; the release touches {sorted(SYNCED_FILES_STEPS)}"
    )
    scene.check((await scene.health(server))["monolith"] == "2", f"{server} does not serve release 2")
    scene.result.catch_up_s = scene.journal.servers[server].steps_s
    scene.result.catch_up_bytes = _moved(launch)
    scene.screen.say("a second image is baked meanwhile, for the rollback later", "dim")
    await scene.publish_command(type="image.bake.requested", fleet=scene.fleet.fleet, by="demo")


async def disable(scene: Scene) -> None:
    """Disable a server, and judge what becomes of it."""
    before = await scene.in_service()
    victim = min(before)
    await scene.publish_command(
        type="server.disable.requested", fleet=scene.fleet.fleet, server=victim, by="demo", reason="looks odd"
    )
    await _replaced(scene, before, victim, LAUNCH_TIMEOUT_S)
    kept = (await scene.cloud.servers.instances([victim])).get(victim)
    scene.check(
        kept is not None and kept.state == "running", f"{victim} should be kept for a look, but it is not running"
    )
    scene.check("monolith" in await scene.health(victim), f"{victim} is kept aside but does not answer")


async def load(scene: Scene) -> None:
    """Let the load rise and fall, and judge who comes and who goes."""
    failed = len(scene.traffic.failures)
    metrics = asyncio.create_task(_publish_load(scene))
    try:
        scene.traffic.rate = 60.0
        scene.screen.say("load rises: 60 requests a second")
        six = await scene.until("six servers at work", _strength(scene, 6), LAUNCH_TIMEOUT_S)
        scene.traffic.rate = 12.0
        scene.screen.say("load falls: 12 requests a second")
        three = await scene.until("three servers at work", _strength(scene, 3), LAUNCH_TIMEOUT_S)
        leavers = six - three
        await scene.until("the three that leave to be gone", _all_gone(scene, leavers), LAUNCH_TIMEOUT_S)
    finally:
        metrics.cancel()
    for server in leavers:
        _check_announced_first(scene, server)
    new = scene.traffic.failures[failed:]
    scene.check(not new, f"{len(new)} requests failed while the fleet grew and shrank: {new[:1]}")


async def roll_back(scene: Scene) -> None:
    """Go back to the first image, and judge what the next launch uses."""
    first = await second_image(scene)
    await scene.publish_command(
        type="image.rollback.requested", fleet=scene.fleet.fleet, by="demo", reason="the new image is slow"
    )
    await rolled_back(scene, first)


async def second_image(scene: Scene) -> str | None:
    """Wait until the pointer is at another image than the first; return the first."""
    first = (await scene.bakes())[0].image
    await scene.until("the second image", _pointer_other_than(scene, first), FULL_TIMEOUT_S)
    return first


async def rolled_back(scene: Scene, first: str | None) -> None:
    """Judge a rollback to the first image that was just asked for, and what the next launch uses."""
    pointer = await scene.until("the pointer back at the first image", _pointer_at(scene, first), EVENT_TIMEOUT_S)
    await _check_image(scene, pointer)
    server = await _kill_one(scene)
    launch = await _launch_record(scene, server)
    scene.check(launch.image == first, f"{server} started from {launch.image}, not from the older image {first}")


async def broken_release(scene: Scene) -> None:
    """Publish a release that cannot be built, judge what it does and does not do, and mend it."""
    alerts = len(scene.journal.alerts)
    await _release(scene, "3")
    before = await scene.in_service()
    victim = min(before)
    server = await _kill_one(scene)
    launch = await _launch_record(scene, server)
    scene.check(launch.releases["monolith"] == "2", f"{server} runs {launch.releases}; release 2 went well last")
    scene.check((await scene.health(server))["monolith"] == "2", f"{server} does not serve release 2")
    await scene.until("the alert", _alert_after(scene, alerts), EVENT_TIMEOUT_S)
    alert = scene.journal.alerts[alerts]
    scene.check(alert.get("cause") == "release-monolith", f"the alert is about {alert.get('cause')!r}")
    scene.check(alert.get("step") == "compile", f"the alert blames {alert.get('step')!r}, not the step compile")
    scene.check(
        bool(alert.get("log_tail")) and bool(alert.get("next")), "the alert lacks the log's tail or what to type next"
    )
    _show_alert(scene, alert)
    untouched = before - {victim}
    scene.check(untouched <= await scene.in_service(), f"servers in service were touched: {untouched} were to stay")
    for server in untouched:
        scene.check((await scene.health(server))["monolith"] != "3", f"{server} serves the broken release")
    await _release(scene, "4")
    mended = await _kill_one(scene)
    scene.check((await scene.health(mended))["monolith"] == "4", f"{mended} does not serve the mended release")
    raised = len(scene.journal.alerts) - alerts
    scene.check(raised == 1, f"{raised} alerts were raised for one cause; it must be one")


async def roll_out(scene: Scene) -> None:
    """Bring the mended release to the servers in service, and judge who was away meanwhile and who was replaced."""
    before = await scene.in_service()
    failed, fewest = len(scene.traffic.failures), len(before)

    async def ended() -> Rollout | None:
        nonlocal fewest
        fewest = min(fewest, len(scene.traffic.members))
        rollout = await scene.documents.get(Rollout, rollout_key(scene.fleet.fleet))
        return rollout if rollout and rollout.state != "running" else None

    arguments = ("--component", "monolith", "--version", "4", "--rollout")
    await scene.ops("release", "set", "--fleet", scene.fleet.fleet, *arguments)
    rollout = await scene.until("the rollout to end", ended, LAUNCH_TIMEOUT_S)
    await scene.until("every server to serve again", scene.at_strength, EVENT_TIMEOUT_S)
    scene.check(rollout.state == "done", f"the rollout is {rollout.state}: {rollout.why}")
    allowed = len(before) - scene.fleet.policies.disruption.unavailable
    scene.check(fewest >= allowed, f"{fewest} servers served at one time; the disruption policy wants {allowed}")
    scene.check(await scene.in_service() == before, "servers were replaced; a rollout updates those that are there")
    for server in before:
        scene.check((await scene.health(server))["monolith"] == "4", f"{server} does not serve release 4")
    new = scene.traffic.failures[failed:]
    scene.check(not new, f"{len(new)} requests failed during the rollout: {new[:1]}")
    scene.screen.say(f"updated: {', '.join(sorted(each.server for each in rollout.ended))}; at least {fewest} served")


async def crash(scene: Scene) -> None:
    """Kill two services in the middle of a launch, and judge how it ends."""
    before = await scene.in_service()
    victim = min(before)
    await _ask_for_kill(scene, victim)
    server = await scene.until("a launch in the middle of its plan", _plan_under_way(scene, before), LAUNCH_TIMEOUT_S)
    crashed: tuple[ServiceName, ...] = ("provisioner", "registry")
    for service in crashed:
        scene.stack.kill_service(service)
    scene.screen.say(f"provisioner and registry are killed with SIGKILL while {server} runs its plan", "bold red")
    await scene.clock.sleep(1)
    for service in crashed:
        await scene.stack.start_service(service)
    scene.screen.say("both are started again")
    await scene.until("the launch to complete all the same", _without(scene, [victim]), LAUNCH_TIMEOUT_S)
    launch = await _launch_record(scene, server)
    scene.check(len(launch.attempts) == 1, f"{server} was provisioned {len(launch.attempts)} times; it must be once")
    ssm = await scene.clients.ssm()
    sent = (await ssm.list_commands(InstanceId=server))["Commands"]
    scene.check(len(sent) == 1, f"{len(sent)} commands were sent to {server}; it must be one")


Play = Callable[[Scene], Awaitable[None]]

STAGES: tuple[tuple[str, Play], ...] = (
    ("Three servers wanted, none there: three launch from the stock image and run the full plan", launch_from_stock),
    ("A bake from the stock image; the pointer moves to the new image", bake),
    ("Chaos asks for a kill; a new server from the golden image takes over", chaos_kill),
    ("A new release, 2 % of the files changed: a replacement runs only what it touches", new_release),
    ("An operator disables a server with one AWS CLI message: it is replaced and kept aside", disable),
    ("Load rises: three become six; it falls: three leave, each announced before it stops", load),
    ("An operator rolls the image back with one AWS CLI message: the next launch uses it", roll_back),
    ("A release whose build fails: launches go on with the last good one, and one alert says why", broken_release),
    ("The mended release comes to the servers in service, one at a time", roll_out),
    ("Provisioner and registry are killed in the middle of a launch: it completes, once", crash),
)


# What several stages do.


async def _release(scene: Scene, version: str) -> None:
    """Publish a version of the monolith and make it the fleet's current release, with our own command line."""
    folder = await asyncio.to_thread(monolith_release, scene.workspace, int(version), scene.scale)
    arguments = ("--component", "monolith", "--version", version)
    await scene.ops("release", "publish", *arguments, str(folder))
    await scene.ops("release", "set", "--fleet", scene.fleet.fleet, *arguments, "--launches-only")
    stored = await scene.cloud.objects.get(manifest_key("monolith", version))
    scene.check(stored is not None, f"release {version} of the monolith is not there")


async def _kill_one(scene: Scene) -> str:
    """Ask for the first server in service to be killed; return its replacement, in service."""
    before = await scene.in_service()
    victim = min(before)
    await _ask_for_kill(scene, victim)
    server = await _replaced(scene, before, victim, LAUNCH_TIMEOUT_S)
    _check_announced_first(scene, victim)
    return server


async def _ask_for_kill(scene: Scene, victim: str) -> None:
    await scene.publish_command(
        type="server.kill.requested", fleet=scene.fleet.fleet, server=victim, by="demo", reason="part of the story"
    )


async def _replaced(scene: Scene, before: set[str], victim: str, timeout_s: float) -> str:
    """Wait until the fleet is at strength without the victim; return the one new server."""
    after = await scene.until(f"a replacement of {victim}", _without(scene, [victim]), timeout_s)
    new = after - before
    scene.check(len(new) == 1, f"one server was to be replaced, but {sorted(new)} are new")
    server = new.pop()
    await scene.until(f"{server}'s report", _reported(scene, server), EVENT_TIMEOUT_S)
    return server


async def _launch_record(scene: Scene, server: str) -> Launch:
    launch = await scene.until(f"the record of {server}'s launch", _launch_ready(scene, server), EVENT_TIMEOUT_S)
    scene.check(bool(launch.attempts), f"the record of {server}'s launch has no attempt")
    return launch


async def _check_image(scene: Scene, pointer: Pointer) -> None:
    image = await scene.cloud.servers.image(pointer.image)
    scene.check(image is not None and image.state == "available", f"the pointer names {pointer.image}: not available")

    async def template_follows() -> bool:
        templates = await scene.cloud.servers.templates(scene.fleet.fleet)
        return any(version.default and version.image == pointer.image for version in templates)

    await scene.until(f"the launch template to name {pointer.image}", template_follows, EVENT_TIMEOUT_S)


def _check_gone(scene: Scene, server: str) -> None:
    _check_announced_first(scene, server)


def _check_announced_first(scene: Scene, server: str) -> None:
    marks = scene.journal.servers[server].marks
    announced, ended = marks.get("announced"), marks.get("shutting-down", marks.get("terminated"))
    scene.check(announced is not None, f"{server} was never announced as gone")
    scene.check(
        ended is None or (announced is not None and announced < ended),
        f"{server} ended before it was announced as gone",
    )


def _show_alert(scene: Scene, alert: Any) -> None:
    tail = str(alert["log_tail"]).strip().splitlines()[-3:]
    for line in (f"step    {alert['step']}", f"reason  {alert['reason']}", *(f"log     {each}" for each in tail)):
        scene.screen.say("    " + line, "red")
    scene.screen.say(f"    next    {alert['next']}", "red")


def _steps(launch: Launch, result: str) -> set[str]:
    return {step.step for step in launch.attempts[-1].steps if step.result == result}


def _moved(launch: Launch) -> int:
    return sum(step.bytes for attempt in launch.attempts for step in attempt.steps)


def _launch_seconds(scene: Scene, server: str) -> float:
    seconds = scene.journal.servers[server].launch_s
    if seconds is None:
        raise StageFailed(f"nobody told when {server} was launched and in service")
    return seconds


async def _publish_load(scene: Scene) -> None:
    """Tell CloudWatch every second how many requests each server answers; it raises the alarms by itself."""
    scaling = scene.fleet.scaling
    if scaling is None:
        raise StageFailed("the fleet's description has no scaling")
    cloudwatch = await scene.clients.cloudwatch()
    while True:
        await cloudwatch.put_metric_data(
            Namespace=scaling.namespace,
            MetricData=[
                {
                    "MetricName": scaling.metric,
                    "Dimensions": [{"Name": "AutoScalingGroupName", "Value": scene.fleet.fleet}],
                    "Timestamp": scene.clock.now(),
                    "Value": scene.traffic.per_server(),
                }
            ],
        )
        await scene.clock.sleep(1)


# Conditions: each returns something to wait with.


def _without(scene: Scene, servers: Sequence[str]) -> Callable[[], Awaitable[set[str] | None]]:
    return lambda: scene.at_strength(without=servers)


def _strength(scene: Scene, wanted: int) -> Callable[[], Awaitable[set[str] | None]]:
    async def look() -> set[str] | None:
        serving = await scene.at_strength()
        return serving if serving and len(serving) == wanted else None

    return look


def _message(scene: Scene, kind: str, after: int) -> Callable[[], Awaitable[tuple[float, Any] | None]]:
    async def look() -> tuple[float, Any] | None:
        return next((each for each in scene.journal.messages[after:] if each[1]["type"] == kind), None)

    return look


def _alert_after(scene: Scene, number: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return len(scene.journal.alerts) > number

    return look


def _reported(scene: Scene, server: str) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        line = scene.journal.servers.get(server)
        return line is not None and line.finished and line.launch_s is not None

    return look


def _launch_ready(scene: Scene, server: str) -> Callable[[], Awaitable[Launch | None]]:
    async def look() -> Launch | None:
        launch = await scene.launch(server)
        return launch if launch and launch.result == "ready" else None

    return look


def _pointer_at(scene: Scene, image: str | None) -> Callable[[], Awaitable[Pointer | None]]:
    async def look() -> Pointer | None:
        pointer = await scene.pointer()
        return pointer if pointer and pointer.image == image else None

    return look


def _pointer_other_than(scene: Scene, image: str | None) -> Callable[[], Awaitable[Pointer | None]]:
    async def look() -> Pointer | None:
        pointer = await scene.pointer()
        return pointer if pointer and pointer.image != image else None

    return look


def _all_gone(scene: Scene, servers: set[str]) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return all(scene.journal.server(server).gone for server in servers)

    return look


def _plan_under_way(scene: Scene, before: set[str]) -> Callable[[], Awaitable[str | None]]:
    async def look() -> str | None:
        for server, line in scene.journal.servers.items():
            if server not in before and line.image and line.role == "member" and line.busy and line.step:
                return server
        return None

    return look
