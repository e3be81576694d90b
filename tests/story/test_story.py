"""The whole story with real processes, as ``make demo`` plays it, on servers that have half of the code."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ops.demo.story import STAGES

STORY_TIMEOUT_S = 600
SCALE = "0.5"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.story
@pytest.mark.timeout(STORY_TIMEOUT_S + 30)
def test_every_stage_of_the_demo_ends_well_and_nothing_is_left_running(tmp_path: Path) -> None:
    folder, report = tmp_path / "cloud", tmp_path / "report"
    arguments = ["--port", str(_free_port()), "--folder", str(folder), "--report", str(report), "--scale", SCALE]

    ended = subprocess.run(
        [sys.executable, "-m", "ops", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=STORY_TIMEOUT_S,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout
    told = json.loads((report / "report.json").read_text())
    assert [stage["ok"] for stage in told["stages"]] == [True] * len(STAGES)
    assert {
        "full_provisioning_s",
        "image_launch_s",
        "kill_recovery_s",
        "catch_up_s",
        "control_plane_added_s",
        "alerts",
    } <= told.keys()
    assert [alert["step"] for alert in told["alerts"]] == ["compile"]
    assert told["requests"]["failed"] == 0
    assert told["requests"]["served"] > 100
    assert "<svg" in (report / "report.html").read_text()
    assert _processes_of(folder.resolve()) == []
    shutil.rmtree(folder.resolve())  # it may be in memory


def _processes_of(folder: Path) -> list[str]:
    """Name the processes whose command line or environment speaks of the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            text = " ".join([*process.cmdline(), *process.environ().values()])
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if str(folder) in text:
            found.append(text[:200])
    return found
