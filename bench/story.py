"""The demo's own figures: recovery against full provisioning, what the system adds, and the story's length."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson

from bench.measurement import Measurement, ratio
from bench.ports import free_port
from shared.names import SERVICES

COMMAND = "python -m bench story"


def measure() -> list[Measurement]:
    """Run the whole demo, in a folder and on a port of its own.

    Raises:
        subprocess.CalledProcessError: a stage failed; there is nothing to measure.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--port", str(free_port()), "--folder", f"{folder}/cloud", "--report", f"{folder}/report"]
        subprocess.run([sys.executable, "-m", "ops", "demo", *arguments], check=True)
        report = orjson.loads((Path(folder) / "report" / "report.json").read_bytes())
    return _measurements(report)


def _measurements(report: dict[str, Any]) -> list[Measurement]:
    full, recovery = report["full_provisioning_s"], report["kill_recovery_s"]
    added = report["control_plane_added_s"]
    return [
        Measurement(
            name="recovery from a kill, on the golden image",
            measured=recovery,
            unit="s",
            goal="ratio at most 0.1",
            command=COMMAND,
            rivals={"full provisioning in the same run": full},
            ratio=ratio(recovery, full),
            note=f"of which, in seconds: {report['kill_recovery_parts_s']}",
        ),
        Measurement(
            name="added by the system to a launch, median",
            measured=added["median"],
            unit="s",
            goal="at most 2",
            command=COMMAND,
            note=f"{added['launches']} launches, at most {added['max']} s",
        ),
        Measurement(
            name="catch-up after a release that changes 2 % of the files",
            measured=report["catch_up_s"],
            unit="s",
            goal="",
            command=COMMAND,
            rivals={"full provisioning in the same run": full},
            ratio=ratio(report["catch_up_s"], full),
        ),
        Measurement(
            name="memory of the largest service after the story",
            measured=max(report["memory_mb"][service] for service in SERVICES),
            unit="MB",
            goal="at most 120",
            command=COMMAND,
            note=f"{report['memory_mb']}",
        ),
        Measurement(
            name="the story",
            measured=round(sum(stage["seconds"] for stage in report["stages"]), 1),
            unit="s",
            goal="at most 300",
            command=COMMAND,
        ),
    ]
