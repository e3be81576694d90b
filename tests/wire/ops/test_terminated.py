"""A command that is told to end by SIGTERM ends everything that it has started."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.ports import free_port
from localcloud import processes as cloud_processes
from ops.processes import Processes
from ops.stack import CLOUD, PROCESSES
from tests.wire.running import REPOSITORY, until

TERMINATED = 128 + signal.SIGTERM


@pytest.mark.parametrize("command", ["up", "demo"])
@pytest.mark.parametrize("started", ["localcloud", "reconciler"])
def test_sigterm_ends_everything_that_was_started(tmp_path: Path, command: str, started: str) -> None:
    folder = tmp_path / "stack"
    report = ("--report", str(tmp_path / "report")) if command == "demo" else ()
    run = (sys.executable, "-m", "ops", command, "--folder", str(folder), "--port", str(free_port()), *report)
    with subprocess.Popen(run, cwd=REPOSITORY, stdout=subprocess.DEVNULL) as process:
        records = Processes(folder / PROCESSES)
        until(lambda: any(each.name == started for each in records.running()), 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == TERMINATED
    assert records.running() == []
    assert cloud_processes.marked(folder.resolve() / CLOUD) == set()
