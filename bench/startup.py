"""How long a restart takes: from the start of the interpreter to the first receive, and what each import costs.

All modules are compiled before, as in the container image.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping

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
    with queue_server() as server, tempfile.TemporaryDirectory() as compiled:
        return [_figure(server, service, compiled) for service in SERVICES]


def _figure(server: QueueServer, service: ServiceName, compiled: str) -> Measurement:
    environments = [_environment(server, f"{service}-{turn}", compiled) for turn in range(ROUNDS + 1)]
    # The first start compiles what the service alone imports, and does not count.
    starts = [_start(server, service, turn, each) for turn, each in enumerate(environments)][1:]
    wall_s, used_s = (round(statistics.median(figures), 2) for figures in zip(*starts, strict=True))
    return Measurement(
        name=f"{service}: start to first receive",
        measured=wall_s,
        unit="s",
        goal="below 1.0",
        command=COMMAND,
        note=f"median of {len(starts)}, at most {max(starts)[0]:.2f}; {used_s} s of it processor time; "
        f"imports, each alone, ms: {_imports(service, environments[0])}",
    )


def _environment(server: QueueServer, queue: str, compiled: str) -> dict[str, str]:
    told = server.environment(queue) | {"PYTHONPYCACHEPREFIX": compiled}
    told.pop("PYTHONDONTWRITEBYTECODE", None)
    return told


def _start(server: QueueServer, service: ServiceName, turn: int, environment: Mapping[str, str]) -> tuple[float, float]:
    """Return the seconds until the queue server saw the first receive, and the processor time by then."""
    began = SystemClock().monotonic()
    with running([sys.executable, "-m", f"services.{service}"], environment) as process:
        seen = server.until(f"{service}-{turn}", "first_receive", True)
        return float(seen["first_receive"]) - began, cpu_s(process)


def _imports(service: ServiceName, environment: Mapping[str, str]) -> str:
    """Name the dearest packages, each with all of its own modules but without those of others."""
    command = [sys.executable, "-X", "importtime", "-c", f"import services.{service}.__main__"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    own: dict[str, float] = {}
    for match in _LINE.finditer(said):
        package = match[4].partition(".")[0]
        own[package] = own.get(package, 0) + int(match[1]) / 1000
    dearest = sorted(own.items(), key=lambda item: -item[1])[:DEAREST]
    return ", ".join(f"{package} {cost:.0f}" for package, cost in [*dearest, ("all", sum(own.values()))])
