"""The processes of instances: started with marks in their environment, found again by the marks, ended and reaped.

A mark survives double forks and the death of the local cloud, so a later run can end what an earlier one left behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock

STATE_MARK = "LOCALCLOUD_STATE"
INSTANCE_MARK = "LOCALCLOUD_INSTANCE"

PAUSE_S = 0.05
"""Between two looks at the process table."""

GRACE_S = 1.0
"""From SIGTERM to SIGKILL: instances' processes hold nothing worth waiting longer for."""

PATIENCE_S = 15.0
"""A process that outlives SIGKILL by this long hangs in the kernel; say so instead of waiting for ever."""

_PR_SET_CHILD_SUBREAPER = 36


class WillNotEnd(Exception):
    """Processes are still there long after SIGKILL."""


def marks(state: Path, instance: str = "") -> dict[str, str]:
    """Return the environment variables by which a process of this local cloud, or of one instance, is found again."""
    found = {STATE_MARK: str(state)}
    if instance:
        found[INSTANCE_MARK] = instance
    return found


def marked(state: Path, instance: str = "") -> set[int]:
    """Return the live processes with these marks and all their descendants, but never this process."""
    wanted = {f"{name}={value}".encode() for name, value in marks(state, instance).items()}
    found = {pid for pid in _all_processes() if wanted <= _environment(pid)}
    return _with_descendants(found) - {os.getpid()}


def tree(root: int) -> set[int]:
    """Return a process, if it lives, and all its descendants."""
    return _with_descendants({root} & set(_parents()))


def alive(pids: Iterable[int]) -> set[int]:
    """Return those of the processes that live."""
    return set(pids) & set(_parents())


def children_of(root: int) -> set[int]:
    """Return all live descendants of a process."""
    return _with_descendants({root}) - {root}


def end(find: Callable[[], Iterable[int]], grace_s: float = GRACE_S) -> None:
    """End whatever ``find`` finds: SIGTERM, and SIGKILL after ``grace_s`` seconds, until it finds nothing.

    Raises WillNotEnd.
    """
    for attempt in range(int(PATIENCE_S / PAUSE_S)):
        found = list(find())
        if not found:
            return
        late = attempt * PAUSE_S >= grace_s
        for pid in found:
            if late or attempt == 0:
                _send(pid, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(PAUSE_S)
    raise WillNotEnd(f"processes {sorted(find())} are still there after SIGKILL")


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _all_processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _environment(pid: int) -> set[bytes]:
    """Return the environment that a process began with; empty for a zombie, or one that is not ours to read."""
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return set()


def _parents() -> dict[int, int]:
    """Return the parent of every process that is not a zombie."""
    found = {}
    for pid in _all_processes():
        try:
            state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            found[pid] = int(parent)
    return found


def _with_descendants(found: set[int]) -> set[int]:
    if not found:
        return found
    parents = _parents()
    grown = set(found)
    while more := {pid for pid, parent in parents.items() if parent in grown} - grown:
        grown |= more
    return grown


class Stopping(Exception):
    """The local cloud ends: nothing is started any more."""


class Processes:
    """Starts processes for one state folder, and reaps those that were orphaned by their parents."""

    def __init__(self, state: Path):
        self._state = state
        self._lock = Lock()
        self._started: list[subprocess.Popen[bytes]] = []
        self._stopping = False

    def adopt_orphans(self) -> None:
        """Have the kernel hand this process the orphans of its children, so that it can reap them."""
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def start(
        self,
        command: Sequence[str],
        *,
        output: int,
        errors: int = subprocess.STDOUT,
        instance: str = "",
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own, with the marks. The caller waits for it. Raises Stopping."""
        with self._lock:
            if self._stopping:
                raise Stopping
            self._started = [process for process in self._started if process.returncode is None]
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=folder,
                env={**(environment if environment is not None else os.environ), **marks(self._state, instance)},
                start_new_session=True,
            )
            self._started.append(process)
            return process

    def start_no_more(self) -> None:
        """Refuse to start anything from now on."""
        with self._lock:
            self._stopping = True

    def reap_orphans(self) -> None:
        """Reap the zombies that are nobody's to wait for."""
        with self._lock:
            own = {process.pid for process in self._started if process.returncode is None}
            while (pid := _next_zombie()) and pid not in own:
                os.waitpid(pid, os.WNOHANG)


def _next_zombie() -> int:
    """Return a child that ended and was not reaped yet, or 0."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return found.si_pid if found else 0
