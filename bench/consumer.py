"""What a message costs the consumer's process, side by side with a raw loop and with frameworks, in one run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import orjson
import psutil

from bench import rivals
from bench.measurement import Measurement
from bench.queueserver import QueueServer, cpu_s, queue_server, running

COMMAND = "python -m bench consumer"
MESSAGES = 500
TURNS = 30
WARM_UP = 1000
WAKING = 100
"""Messages before each turn that do not count: after a large program a process finds the caches cold."""
IDLE_S = 60.0
SETTLE_S = 0.3
BODY_BYTES = 800
NOTE = (
    f"all run at once and get {MESSAGES} messages in turn, {TURNS} times, so that what else the machine does befalls "
    f"all alike, after {WAKING} that do not count; the least of the turns' user and system time, since others' work "
    "only adds to it; ours with its JSON logs, a line a message, to /dev/null"
)


@dataclass(frozen=True)
class Contender:
    """A program that consumes: our own by its module, a rival by its text, for which ``pad`` fills up the body."""

    name: str
    module: str = ""
    program: str = ""
    pad: int = 0

    def command(self, server: QueueServer, queue: str, role: str) -> list[str]:
        """Return what to run."""
        if self.program:
            return [str(rivals.PYTHON), "-c", self.program, role, server.url, queue, str(self.pad)]
        return [sys.executable, "-m", self.module, server.queue_url(queue)]


OURS = Contender("ours", module="bench.idle_service")
RAW = Contender("raw aiobotocore", module="bench.raw_loop")
FRAMEWORKS = (
    Contender("taskiq-aio-sqs", program=rivals.TASKIQ, pad=670),
    Contender("celery", program=rivals.CELERY),
    Contender("dramatiq-sqs", program=rivals.DRAMATIQ, pad=425),
)


@dataclass
class Running:
    """A contender's process, what it is sent, and what its turns gave."""

    process: psutil.Process
    queue: str
    bodies: Sequence[str]
    cpu_ms: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)


def measure() -> list[Measurement]:
    """Measure all in turn; then what idling costs ours."""
    rivals.install()
    with queue_server() as server:
        with ExitStack() as processes:
            found = {each.name: _started(server, each, processes) for each in (OURS, RAW, *FRAMEWORKS)}
            for _ in range(TURNS):
                for running in found.values():
                    _turn(server, running)
        idle = _idle(server)
    return [*_figures(found), *idle]


def _started(server: QueueServer, contender: Contender, processes: ExitStack) -> Running:
    """Start a contender, and have it handle enough for everything to be loaded."""
    queue = contender.name.replace(" ", "-")
    environment = server.environment(queue)
    bodies: Sequence[str] = _bodies()
    if contender.program:
        subprocess.run(contender.command(server, queue, "send"), env=environment, check=True)
        bodies = [server.fill(queue, [], 1)]
    process = processes.enter_context(running(contender.command(server, queue, "consume"), environment))
    started = Running(process, queue, bodies)
    _feed(server, started, WARM_UP)
    return started


def _feed(server: QueueServer, running: Running, messages: int) -> None:
    """Send messages, and wait until they are handled."""
    server.fill(running.queue, running.bodies, messages // len(running.bodies))
    server.until(running.queue, "left", 0)


def _turn(server: QueueServer, running: Running) -> None:
    _feed(server, running, WAKING)
    time.sleep(SETTLE_S)
    before, requests = cpu_s(running.process), _handling(server, running.queue)
    _feed(server, running, MESSAGES)
    time.sleep(SETTLE_S)
    running.cpu_ms.append(1000 * (cpu_s(running.process) - before) / MESSAGES)
    running.requests.append(1000 * (_handling(server, running.queue) - requests) / MESSAGES)


def _bodies() -> list[str]:
    """Return a hundred requests about different servers, since those about one are handled one after another."""
    return [_body(f"i-{number:017x}") for number in range(100)]


def _body(server: str) -> str:
    envelope = {
        "type": "server.kill.requested",
        "id": f"for-{server}",
        "time": "2026-01-31T02:00:00Z",
        "source": "bench",
    }
    fields = envelope | {"fleet": "web", "server": server, "by": "bench", "reason": ""}
    fields["reason"] = "x" * (BODY_BYTES - len(orjson.dumps(fields)))
    return orjson.dumps(fields).decode()


def _handling(server: QueueServer, queue: str) -> int:
    return sum(server.look(queue)["requests"].values())


def _figures(found: dict[str, Running]) -> list[Measurement]:
    asked = {name: round(statistics.median(each.requests), 1) for name, each in found.items()}
    others = {name: value for name, value in asked.items() if name != OURS.name}
    return [
        _cpu("a message's processor time, to a raw loop", found, (RAW,), "ratio at most 1.25"),
        _cpu("a message's processor time, to frameworks", found, FRAMEWORKS, "ratio below 0.333"),
        Measurement("requests for 1,000 messages, busy", asked[OURS.name], "", "at most 220", COMMAND, dict(others)),
    ]


def _cpu(name: str, found: dict[str, Running], against: Sequence[Contender], goal: str) -> Measurement:
    cpu = {name: round(min(each.cpu_ms), 3) for name, each in found.items()}
    best = min((each.name for each in against), key=lambda each: cpu[each])
    ratios = [ours / theirs for ours, theirs in zip(found[OURS.name].cpu_ms, found[best].cpu_ms, strict=True)]
    low, middle, high = (round(each, 3) for each in statistics.quantiles(ratios, n=4))
    sizes = ", ".join(f"{name} {len(each.bodies[0])}" for name, each in found.items())
    note = f"{NOTE}; median of the turns' ratios {middle}, half of them from {low} to {high}; bytes of a body: {sizes}"
    rivals_of = {each.name: cpu[each.name] for each in against}
    ratio = round(cpu[OURS.name] / cpu[best], 3)
    return Measurement(name, cpu[OURS.name], "ms", goal, COMMAND, dict(rivals_of), ratio, note)


def _idle(server: QueueServer) -> list[Measurement]:
    queue = "idle"
    with running(OURS.command(server, queue, "consume"), server.environment(queue)) as process:
        server.until(queue, "first_receive", True)
        time.sleep(SETTLE_S)
        before, requests = cpu_s(process), _handling(server, queue)
        time.sleep(IDLE_S)
        cpu_ms, asked = 1000 * (cpu_s(process) - before), _handling(server, queue) - requests
    return [
        Measurement("requests a minute, idle", asked, "", "3: polls of 20 s", COMMAND),
        Measurement("processor time a minute, idle", round(cpu_ms), "ms", "below 600 (1 % of a core)", COMMAND),
    ]
