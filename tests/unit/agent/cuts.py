"""Cuts a run of the agent off at every single thing that it does to the file system, one after the other.

Usage: python -m tests.unit.agent.cuts PLAN ROOT. Each cut starts from a fresh copy of ROOT, ends the agent and all its
steps as a loss of power does, and is followed by a run that is left alone. Prints JSON: a list of [the tree after the
cut, the fingerprints in the ledger after the cut, the exit status of the second run, the tree after it, what lies
beside it, the fingerprints in the ledger in the end].
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from agent import agent
from tests.unit.agent.bench import described

PR_SET_CHILD_SUBREAPER = 36
WATCHED = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.chmod", "open"}
WATCHED |= {"os.fork", "os.exec"}


def main(plan: str, root: Path) -> None:
    """Cut at the first operation, the second, and so on until a run comes through."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what the agent leaves behind is ours to wait for
    found: list[Any] = []
    while True:
        copy = root.with_name(f"cut-{len(found)}")
        shutil.copytree(root, copy, symlinks=True)
        status = run(plan, copy, cut_at=len(found) + 1)
        if status == 0:
            break
        assert status == -signal.SIGKILL, f"status {status} at cut {len(found)}"
        seen = [described(copy / "srv/app"), fingerprints(copy)]
        again = run(plan, copy)
        leftovers = sorted(path.name for path in (copy / "srv/.app.trees").iterdir())
        found.append([*seen, again, described(copy / "srv/app"), leftovers, fingerprints(copy)])
        agent.remove(os.fsencode(copy))
    print(json.dumps(found))


def run(plan: str, root: Path, cut_at: int = 0) -> int:
    """Run the agent in a forked process; return its exit status once all that it started has ended."""
    child = os.fork()
    if not child:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            if cut_at:
                sys.addaudithook(Scissors(cut_at))
            os._exit(agent.main(["run", plan, "--root", str(root)]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for note in (root / agent.HOME / "running").glob("*"):
        agent.signal_group(int(note.name), signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    return status


def fingerprints(root: Path) -> dict[str, str]:
    """The fingerprints of the steps that are done according to the ledger."""
    return {step: entry["fingerprint"] for step, entry in agent.Ledger(str(root)).read().items()}


class Scissors:
    """Ends the agent just before the n-th operation on the file system, whichever of its processes is at it."""

    def __init__(self, cut_at: int) -> None:
        self._agent = os.getpid()
        self._left = mmap.mmap(-1, 8)
        self._left[:] = cut_at.to_bytes(8, "big")
        self._between_threads = threading.Lock()
        self._between_processes = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in WATCHED or (event == "open" and not is_write(arguments)):
            return
        with self._between_threads:
            fcntl.lockf(self._between_processes, fcntl.LOCK_EX)
            left = int.from_bytes(self._left[:], "big") - 1
            if not left:
                os.kill(self._agent, signal.SIGKILL)
                os._exit(1)
            self._left[:] = max(left, 0).to_bytes(8, "big")
            fcntl.lockf(self._between_processes, fcntl.LOCK_UN)


def is_write(arguments: tuple[Any, ...]) -> bool:
    """Whether an ``open`` event is for writing."""
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
