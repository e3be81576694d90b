"""``python -m shared.healthcheck``: for containers; exit code 0 while the poll loop's heartbeat file is fresh."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from shared.clock import Clock, SystemClock

FRESH_S = 60
"""Three long polls: the poll loop touches the file before each."""


def is_fresh(file: Path, clock: Clock) -> bool:
    """Whether the file is there and was touched within ``FRESH_S`` seconds."""
    try:
        touched = file.stat().st_mtime
    except OSError:
        return False
    return clock.now().timestamp() - touched < FRESH_S


if __name__ == "__main__":
    named = os.environ.get("AUTOPROVISIONER_HEARTBEAT_FILE", "")
    sys.exit(0 if named and is_fresh(Path(named), SystemClock()) else 1)
