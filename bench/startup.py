"""How long a restart takes: from the start of the interpreter to the first receive, and what each import costs."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys

from bench.measurement import Measurement
from bench.queueserver import QueueServer, cpu_s, queue_server, running
from shared.clock import SystemClock
from shared.names import SERVICES, ServiceName

COMMAND = "python -m bench startup"
ROUNDS = 5
DEAREST = 12
_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| ( *)(\S+)")


def measure() -> list[Measurement]:
    """Start every service against a queue server that answers at once."""
    with queue_server() as server:
        return [_figure(service, [_start(server, service, turn) for turn in range(ROUNDS)]) for service in SERVICES]


def _figure(service: ServiceName, starts: list[tuple[float, float]]) -> Measurement:
    imports = _imports(service)
    wall_s, used_s = (round(statistics.median(figures), 2) for figures in zip(*starts, strict=True))
    return Measurement(
        name=f"{service}: start to first receive",
        measured=wall_s,
        unit="s",
        goal="below 1.0",
        command=COMMAND,
        note=f"median of {len(starts)}; {used_s} s of it processor time; imports, each alone, ms: {imports}",
    )


def _start(server: QueueServer, service: ServiceName, turn: int) -> tuple[float, float]:
    """Return the seconds until the queue server saw the first receive, and the processor time by then."""
    queue = f"{service}-{turn}"
    began = SystemClock().monotonic()
    with running([sys.executable, "-m", f"services.{service}"], server.environment(queue)) as process:
        seen = server.until(queue, "first_receive", True)
        return float(seen["first_receive"]) - began, cpu_s(process)


def _imports(service: ServiceName) -> str:
    """Name the dearest packages, each with all of its own modules but without those of others."""
    command = [sys.executable, "-X", "importtime", "-c", f"import services.{service}.__main__"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    own: dict[str, float] = {}
    for match in _LINE.finditer(said):
        package = match[4].partition(".")[0]
        own[package] = own.get(package, 0) + int(match[1]) / 1000
    dearest = sorted(own.items(), key=lambda item: -item[1])[:DEAREST]
    return ", ".join(f"{package} {cost:.0f}" for package, cost in [*dearest, ("all", sum(own.values()))])
