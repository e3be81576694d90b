"""Cuts a run of the agent off at every single thing that it does to the file system, one after the other.

Usage: python -m tests.unit.agent.cuts PLAN ROOT. Each cut starts from a fresh copy of ROOT, is made by ``os._exit`` in
a forked process, and is followed by a run that is left alone. Prints JSON: a list of [the tree after the cut, the
fingerprint in the ledger after the cut, the exit status of the second run, the tree after it, what lies beside it].
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

from agent import agent
from tests.unit.agent.bench import described

CUT = 99
WATCHED = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.chmod", "open"}


def main(plan: str, root: Path) -> None:
    """Cut at the first operation, the second, and so on until a run comes through."""
    found: list[Any] = []
    while True:
        copy = root.with_name(f"cut-{len(found)}")
        shutil.copytree(root, copy, symlinks=True)
        status = run(plan, copy, cut_at=len(found) + 1)
        if status == 0:
            break
        assert status == CUT, f"status {status} at cut {len(found)}"
        seen = [described(copy / "srv/app"), fingerprint(copy)]
        again = run(plan, copy)
        leftovers = sorted(path.name for path in (copy / "srv/.app.trees").iterdir())
        found.append([*seen, again, described(copy / "srv/app"), leftovers])
        agent.remove(os.fsencode(copy))
    print(json.dumps(found))


def run(plan: str, root: Path, cut_at: int = 0) -> int:
    """Run the agent in a forked process; return its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        if cut_at:
            sys.addaudithook(Scissors(cut_at))
        os._exit(agent.main(["run", plan, "--root", str(root)]))


def fingerprint(root: Path) -> str | None:
    """The fingerprint of the step ``code`` if it is done according to the ledger."""
    fingerprint: str | None = agent.Ledger(str(root)).read().get("code", {}).get("fingerprint")
    return fingerprint


class Scissors:
    """Ends the process just before its n-th operation on the file system."""

    def __init__(self, cut_at: int) -> None:
        self._left = cut_at
        self._lock = threading.Lock()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in WATCHED or (event == "open" and not is_write(arguments)):
            return
        with self._lock:
            self._left -= 1
            if not self._left:
                os._exit(CUT)


def is_write(arguments: tuple[Any, ...]) -> bool:
    """Whether an ``open`` event is for writing."""
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
