"""``python -m tests.simulation SEED``: run a seed, and say what happened."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.faults import FAMILIES
from tests.simulation.run import run
from tests.simulation.world import Options


def main() -> int:
    """Run one seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=main.__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--days", type=float, default=1.0)
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--faults", default=",".join(FAMILIES))
    parser.add_argument("--trace", action="store_true")
    arguments = parser.parse_args()
    families = tuple(each for each in FAMILIES if each in arguments.faults.split(","))
    began = time.perf_counter()
    result, world = run(Options(arguments.seed, arguments.days, arguments.servers, families))
    if arguments.trace:
        print("\n".join(map(str, world.trace.lines)))
    print(f"{time.perf_counter() - began:.1f} s, {result.calls} calls, {result.lines} lines, {result.digest[:16]}")
    print(result.state)
    if result.violation is not None:
        print("\n".join(world.trace.last(40)))
        print(result.violation)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
