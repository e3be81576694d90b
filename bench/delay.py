"""From publishing to the start of a handler on an idle service, beside what the emulator takes for a raw long poll."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import quantiles

from bench.measurement import Measurement, ratio
from bench.ports import free_port
from bench.stamps import MARK
from deploy.messaging import apply_messaging, service_environment
from ops.settings import OperatorSettings
from ops.stack import Stack
from shared.aws import open_cloud
from shared.clock import Clock, SystemClock
from shared.messages import ImageBakeRequested, ServerKillRequested
from shared.names import ServiceName

COMMAND = "python -m bench delay"
MESSAGES = 300
APART_S = 0.1
"""Long enough for each message to find a service that waits."""

WARM_UP = 20
PATIENCE_S = 60.0

CONSUMES: dict[str, ServiceName] = {"service": "reconciler", "raw": "baker"}
"""Who consumes whose queue: each gets messages of one type only."""


def measure() -> list[Measurement]:
    """Publish in turn to a service and to a raw loop on a queue of its own, on the local cloud."""
    return asyncio.run(_measure(SystemClock()))


async def _measure(clock: Clock) -> list[Measurement]:
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "cloud", free_port())
        stack.enter()
        try:
            stack.start_cloud()
            await apply_messaging()
            for role, service in CONSUMES.items():
                environment = stack.environment() | await service_environment(service)
                stack.processes.start(role, [sys.executable, "-m", "bench.stamps", role], environment)
            await _publish(clock, WARM_UP)
            await _told(stack, clock, WARM_UP)
            await _publish(clock, MESSAGES)
            delays = await _told(stack, clock, WARM_UP + MESSAGES)
        finally:
            stack.stop()
    return [_figure("median", 50, delays), _figure("99th percentile", 99, delays)]


def _figure(what: str, percent: int, delays: Mapping[str, list[float]]) -> Measurement:
    found = {role: round(1000 * quantiles(each[WARM_UP:], n=100)[percent - 1], 1) for role, each in delays.items()}
    return Measurement(
        name=f"publish to handler, idle, {what}",
        measured=found["service"],
        unit="ms",
        goal="the emulator's own floor",
        command=COMMAND,
        rivals={"a raw long poll": found["raw"]},
        ratio=ratio(found["service"], found["raw"]),
        note=f"{MESSAGES} messages each, through the local cloud's SNS and SQS, {APART_S} s apart; publishing included",
    )


async def _publish(clock: Clock, messages: int) -> None:
    async with open_cloud(OperatorSettings.read(), "bench", clock) as cloud:
        for number in range(messages):
            moment = f"{clock.monotonic():.6f}"
            await cloud.publisher.publish(ServerKillRequested(fleet="web", server=f"i-{number:017x}", reason=moment))
            await asyncio.sleep(APART_S)
            moment = f"{clock.monotonic():.6f}"
            await cloud.publisher.publish(ImageBakeRequested(fleet="web", reason=moment))
            await asyncio.sleep(APART_S)


async def _told(stack: Stack, clock: Clock, messages: int) -> dict[str, list[float]]:
    """Return the delays by role, once there are so many of each."""
    deadline = clock.monotonic() + PATIENCE_S
    while clock.monotonic() < deadline:
        delays = {role: _delays(stack.log(role)) for role in CONSUMES}
        if all(len(each) >= messages for each in delays.values()):
            return delays
        await asyncio.sleep(0.1)
    raise TimeoutError(f"not all of {messages} messages were told within {PATIENCE_S:.0f} s")


def _delays(log: Path) -> list[float]:
    return [float(line.removeprefix(MARK)) for line in log.read_text().splitlines() if line.startswith(MARK)]
