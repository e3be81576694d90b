import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ops.processes import Processes, StartFailed, wait_for_line

SLEEPER = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)",
]


def test_a_started_process_is_found_again_by_another_command(tmp_path: Path) -> None:
    started = Processes(tmp_path).start("one", SLEEPER, os.environ)
    try:
        assert [running.process.pid for running in Processes(tmp_path).running()] == [started.process.pid]
    finally:
        Processes(tmp_path).stop()


def test_stop_ends_all_and_names_what_ran(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("one", SLEEPER, os.environ)
    processes.start("two", SLEEPER, os.environ)

    assert processes.stop() == ["one", "two"]
    assert processes.running() == []
    assert processes.stop() == []


def test_stop_ends_only_the_named(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("one", SLEEPER, os.environ)
    processes.start("two", SLEEPER, os.environ)
    try:
        assert processes.stop(["two"]) == ["two"]
        assert [running.name for running in processes.running()] == ["one"]
    finally:
        processes.stop()


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.processes.STOP_TIMEOUT_S", 0.5)
    processes = Processes(tmp_path)
    wait_for_line(processes.start("deaf", DEAF, os.environ), "ready", 10)

    assert processes.stop() == ["deaf"]
    assert processes.running() == []


def test_a_stranger_with_the_recorded_pid_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL)
    try:
        (tmp_path / "old.json").write_text(json.dumps({"pid": stranger.pid, "started": 1.0}))

        assert Processes(tmp_path).stop() == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_start_that_fails_gives_the_process_s_own_last_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('port 4566 is in use'); raise SystemExit(2)"]
    started = Processes(tmp_path).start("cloud", command, os.environ)

    with pytest.raises(StartFailed, match="port 4566 is in use"):
        wait_for_line(started, "ready", 10)
