"""Running a program and telling what it took."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

TIMEOUT_S = 600

# A program's peak memory begins with that of whoever starts it: so that is a small process, which measures it too.
_STARTER = """
import json, os, sys, time
began = time.perf_counter()
_, status, used = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ), 0)
wall = time.perf_counter() - began
print()
print(json.dumps([wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000]))
sys.exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)
"""


@dataclass(frozen=True)
class Ran:
    """What a program took, its children included; ``peak_mb`` is of the largest of its processes, at least 10."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    wire_mb: float | None = None
    requests: int | None = None

    def __str__(self) -> str:
        said = f"{self.wall_s:.2f} s, CPU {self.cpu_s:.2f} s, peak {self.peak_mb:.0f} MB"
        said += "" if self.wire_mb is None else f", wire {self.wire_mb:.2f} MB"
        return said if self.requests is None else f"{said}, {self.requests} requests"


def say(what: str) -> None:
    """Tell who waits what is going on."""
    print(f"  {what}", file=sys.stderr, flush=True)


def run(command: Sequence[str], **environment: str) -> tuple[Ran, str]:
    """Run a program to its end; return what it took and what it printed."""
    starter = [sys.executable, "-S", "-c", _STARTER, *command]
    done = subprocess.run(
        starter, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=True, env={**os.environ, **environment}
    )
    said, _, figures = done.stdout.rstrip().rpartition("\n")
    return Ran(*json.loads(figures)), said


def median(runs: Sequence[Ran]) -> Ran:
    """Return the median of each time, the highest peak, and of the rest the last."""
    wall_s, cpu_s = (statistics.median(getattr(each, name) for each in runs) for name in ("wall_s", "cpu_s"))
    return replace(runs[-1], wall_s=wall_s, cpu_s=cpu_s, peak_mb=max(each.peak_mb for each in runs))


@contextmanager
def undone(folder: Path) -> Iterator[None]:
    """Remove the files that are written into a folder inside, so that the same can be measured again."""
    before = {path for path in folder.rglob("*") if path.is_file()}
    yield
    for path in folder.rglob("*"):
        if path.is_file() and path not in before:
            path.unlink()
