"""How many days of a fleet the simulation plays in a second of one core, and how that falls with the fleet's size."""

from __future__ import annotations

import subprocess
import sys
import time

from bench.measurement import Measurement

SIZES = (10, 100, 1000)
"""Servers."""

DAYS = 0.1
"""Played at each size: the fleet comes up, and is kept at strength for an hour and more."""


def measure() -> list[Measurement]:
    """Play a seed for each size, in a process of its own, and count its CPU seconds."""
    return [_measured(servers) for servers in SIZES]


def _measured(servers: int) -> Measurement:
    command = [
        sys.executable,
        "-m",
        "tests.simulation",
        "1",
        "--days",
        str(DAYS),
        "--servers",
        str(servers),
        "--no-rest",
    ]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = float(done.stdout.split("seed 1: ", 1)[1].split(" s of CPU", 1)[0])
    return Measurement(
        name=f"simulation_{servers}_servers",
        measured=round(DAYS / seconds, 6),
        unit="simulated days per second of one core",
        goal="",
        command="python -m bench simulation",
        note=f"{DAYS:g} days with all faults, {seconds:.1f} s of CPU, {time.perf_counter() - began:.1f} s in all",
    )
