"""How long the first set-up takes: a fresh clone, no environment, until everything is installed."""

from __future__ import annotations

import subprocess
import tempfile

from bench.measurement import Measurement
from shared.clock import SystemClock


def measure() -> list[Measurement]:
    """Clone this repository into an empty folder and set it up. The package index is as far away as it is."""
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", ".", folder], check=True)
        began = clock.monotonic()
        subprocess.run(["make", "--silent", ".venv/ready"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        seconds = clock.monotonic() - began
    return [
        Measurement(
            name="first set-up in a fresh clone",
            measured=round(seconds, 1),
            unit="s",
            goal="at most 90, with a warm package mirror",
            command="python -m bench first_setup",
        )
    ]
