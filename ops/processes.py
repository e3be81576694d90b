"""Long-running processes of one stack on this machine: started, recorded on disk, and ended by their own pids.

Each is recorded as ``<folder>/<name>.json`` with its pid and the moment it started, so that a later command can end
what an earlier one started, even after ``kill -9``, and never ends a stranger that was given the same pid.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from shared.clock import SystemClock

STOP_TIMEOUT_S = 25.0
"""Services hand back what they hold within 20 s; a little more for the machine."""


class StartFailed(Exception):
    """A process ended, or did not say that it is ready. The message is one sentence for a person."""


@dataclass(frozen=True)
class Running:
    """A recorded process that was seen running when this was made."""

    name: str
    process: psutil.Process
    log: Path


class Processes:
    """The processes recorded in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Running:
        """Start a program (its path first) in a session of its own, its output going to ``<folder>/<name>.log``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{name}.log"
        output = (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        files = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), output, (os.POSIX_SPAWN_DUP2, 1, 2)]
        # Not subprocess: its objects complain when they are let go of before the process ends, which is the point here.
        pid = os.posix_spawn(command[0], list(command), dict(environment), file_actions=files, setsid=True)
        process = psutil.Process(pid)
        record = {"pid": pid, "started": process.create_time(), "command": list(command)}
        (self.folder / f"{name}.json").write_text(json.dumps(record))
        return Running(name, process, log)

    def running(self) -> list[Running]:
        """Return those recorded processes that still run."""
        records = sorted(self.folder.glob("*.json"))
        found = [(record, _find(json.loads(record.read_text()))) for record in records]
        return [Running(record.stem, process, record.with_suffix(".log")) for record, process in found if process]

    def memory_mb(self) -> dict[str, float]:
        """Return the resident memory of each recorded process that runs."""
        return {running.name: running.process.memory_info().rss / 1e6 for running in self.running()}

    def kill(self, name: str) -> None:
        """End a process with SIGKILL, as a crash would, and wait until it is gone."""
        victims = [running.process for running in self.running() if running.name == name]
        for process in victims:
            process.kill()
        psutil.wait_procs(victims, STOP_TIMEOUT_S)

    def stop(self, names: Sequence[str] | None = None) -> list[str]:
        """End the named processes (all when None) with SIGTERM, then SIGKILL; return the names of those that ran."""
        chosen = [running for running in self.running() if names is None or running.name in names]
        for running in chosen:
            running.process.terminate()
        _, stubborn = psutil.wait_procs([running.process for running in chosen], STOP_TIMEOUT_S)
        for process in stubborn:
            process.kill()
        psutil.wait_procs(stubborn, STOP_TIMEOUT_S)
        for running in chosen:
            (self.folder / f"{running.name}.json").unlink(missing_ok=True)
        return [running.name for running in chosen]


def wait_for_line(running: Running, text: str, timeout_s: float) -> None:
    """Wait until the process has logged a line with this text.

    Raises:
        StartFailed: it ended first, or was silent too long.
    """
    clock = SystemClock()
    deadline = clock.monotonic() + timeout_s
    while clock.monotonic() < deadline:
        said = running.log.read_text(errors="replace")
        if text in said:
            return
        if not _alive(running.process):
            raise StartFailed((said.strip().splitlines() or [f"{running.name} ended without a word"])[-1])
        time.sleep(0.05)
    raise StartFailed(f"{running.name} was not ready after {timeout_s:.0f} s; see {running.log}")


def _find(record: Mapping[str, float]) -> psutil.Process | None:
    try:
        process = psutil.Process(int(record["pid"]))
    except psutil.NoSuchProcess:
        return None
    return process if process.create_time() == record["started"] and _alive(process) else None


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
