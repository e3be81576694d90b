"""What a message costs the consumer's process, side by side with a raw loop and with frameworks, in one run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from bench import rivals
from bench.measurement import Measurement, ratio
from bench.queueserver import QueueServer, cpu_s, queue_server, running

COMMAND = "python -m bench consumer"
MESSAGES = 5000
WARM_UP = 200
ROUNDS = 3
IDLE_S = 60.0
SETTLE_S = 1.0
BODY_BYTES = 800
NOTE = (
    f"{MESSAGES} messages after {WARM_UP} for warming up, median of {ROUNDS} rounds; user and system time between the "
    "first message and the last, by psutil from outside; ours with its JSON logs, a line a message, to /dev/null"
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
class Found:
    """What the rounds of one contender gave."""

    cpu_ms: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)
    body_bytes: int = 0


def measure() -> list[Measurement]:
    """Measure all in turn, three rounds; then what idling costs ours."""
    rivals.install()
    found = {contender.name: Found() for contender in (OURS, RAW, *FRAMEWORKS)}
    with queue_server() as server:
        for turn in range(ROUNDS):
            for contender in (OURS, RAW, *FRAMEWORKS):
                _round(server, contender, f"{contender.name.replace(' ', '-')}-{turn}", found[contender.name])
        idle = _idle(server)
    return [*_figures(found), *idle]


def _round(server: QueueServer, contender: Contender, queue: str, found: Found) -> None:
    environment = server.environment(queue)
    bodies: Sequence[str] = _bodies()
    if contender.program:
        subprocess.run(contender.command(server, queue, "send"), env=environment, check=True)
        bodies = [server.fill(queue, [], 1)]
    found.body_bytes = len(bodies[0])
    with running(contender.command(server, queue, "consume"), environment) as process:
        server.fill(queue, bodies, WARM_UP // len(bodies))
        server.until(queue, "left", 0)
        time.sleep(SETTLE_S)
        before, requests = cpu_s(process), _handling(server, queue)
        server.fill(queue, bodies, MESSAGES // len(bodies))
        server.until(queue, "left", 0)
        time.sleep(SETTLE_S)
        found.cpu_ms.append(1000 * (cpu_s(process) - before) / MESSAGES)
        found.requests.append(1000 * (_handling(server, queue) - requests) / MESSAGES)


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


def _figures(found: dict[str, Found]) -> list[Measurement]:
    cpu = {name: round(statistics.median(each.cpu_ms), 3) for name, each in found.items()}
    asked = {name: round(statistics.median(each.requests), 1) for name, each in found.items()}
    ours, raw = OURS.name, RAW.name
    frameworks = {each.name: cpu[each.name] for each in FRAMEWORKS}
    sizes = ", ".join(f"{name} {each.body_bytes}" for name, each in found.items())
    note = f"{NOTE}; bytes of a body: {sizes}"
    others = {name: value for name, value in asked.items() if name != ours}
    return [
        _cpu("a message's processor time, to a raw loop", cpu[ours], {raw: cpu[raw]}, "ratio at most 1.25", note),
        _cpu("a message's processor time, to frameworks", cpu[ours], dict(frameworks), "ratio below 0.333", note),
        Measurement("requests for 1,000 messages, busy", asked[ours], "", "at most 220", COMMAND, dict(others)),
    ]


def _cpu(name: str, measured: float, rival: dict[str, float | None], goal: str, note: str) -> Measurement:
    best = min(value for value in rival.values() if value is not None)
    return Measurement(name, measured, "ms", goal, COMMAND, rival, ratio(measured, best), note)


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
