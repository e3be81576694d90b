"""``python -m tests.simulation SEED``: run a seed, and say what happened."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.simulation.faults import FAMILIES
from tests.simulation.page import page
from tests.simulation.run import Result, run
from tests.simulation.shrink import shrink
from tests.simulation.world import Options, Violation, World

EXAMPLES = """examples:
  python -m tests.simulation 7                          a day with everything that goes wrong
  python -m tests.simulation 7 --page seed-7.html       the same, to look at in a browser
  python -m tests.simulation 7 --faults calls,messages  only these
  python -m tests.simulation 7 --trace                  every line of what happened
  python -m tests.simulation 1 --seeds 50 --days 30     fifty seeds of thirty days: make soak
"""


def main() -> int:
    """Run a seed, or several. The exit code is 0 when all invariants held, 1 when one did not."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description=main.__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("seed", type=int, help="where chance begins; the same seed runs the same, byte for byte")
    parser.add_argument("--seeds", type=int, default=1, help="run so many, counting up, on two processes")
    parser.add_argument("--days", type=float, default=1.0)
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--faults", default=",".join(FAMILIES), help=f"of {','.join(FAMILIES)}, or none")
    parser.add_argument("--no-rest", action="store_true", help="stop after the days, without bringing all to rest")
    parser.add_argument("--trace", action="store_true", help="print every line of what happened")
    parser.add_argument("--page", type=Path, help="write a page for a browser")
    parser.add_argument("--shrink", action="store_true", help="make a violation smaller, in at most sixty runs")
    arguments = parser.parse_args()
    asked = arguments.faults.split(",")
    families = tuple(each for each in FAMILIES if each in asked)
    if unknown := [each for each in asked if each not in (*FAMILIES, "none")]:
        parser.error(f"there are no faults {unknown[0]!r}; there are {', '.join(FAMILIES)}, none")
    options = [
        Options(seed, arguments.days, arguments.servers, families, rest=not arguments.no_rest)
        for seed in range(arguments.seed, arguments.seed + arguments.seeds)
    ]
    return _several(options) if len(options) > 1 else _one(options[0], arguments)


def replay(options: Options) -> str:
    """Return the line that runs the same again."""
    families = ",".join(options.families) or "none"
    line = f"python -m tests.simulation {options.seed} --days {options.days:g} --servers {options.servers}"
    return line if families == ",".join(FAMILIES) else f"{line} --faults {families}"


def _several(options: list[Options]) -> int:
    failed, occurred = 0, Counter[str]()
    with ProcessPoolExecutor(2) as pool:
        for ran in pool.map(_result, options):
            failed += not _told(ran)
            occurred.update(ran[0].occurred)
    print("what went wrong: " + ", ".join(f"{kind} {times}" for kind, times in sorted(occurred.items())))
    print(f"{len(options) - failed} of {len(options)} seeds held")
    return 1 if failed else 0


Ran = tuple[Result, str, float]


def _result(options: Options) -> Ran:
    began = time.process_time()
    result, world = run(options)
    return result, _story(result.violation, world), time.process_time() - began


def _told(ran: Ran) -> bool:
    result, story, seconds = ran
    print(
        f"seed {result.options.seed}: {seconds:.1f} s of CPU, {result.calls} calls, trace {result.digest[:16]}"
        + (f"\n{story}" if story else ""),
        flush=True,
    )
    return result.violation is None


def _story(violation: Violation | None, world: World) -> str:
    if violation is None:
        return ""
    last = "\n".join(world.trace.last(40))
    return (
        f"{last}\n\nseed {violation.options.seed}, step {violation.calls}: {violation}\n"
        f"again: {replay(violation.options)}"
    )


def _one(options: Options, arguments: argparse.Namespace) -> int:
    began = time.process_time()
    result, world = run(options)
    if arguments.trace:
        print("\n".join(map(str, world.trace.lines)))
    held = _told((result, _story(result.violation, world), time.process_time() - began))
    if arguments.page:
        arguments.page.write_text(page(result, world))
        print(f"see {arguments.page}")
    if result.violation is not None and arguments.shrink:
        smallest = shrink(result.violation, print)
        print("\n".join(f"  {each.at:>9.0f} s  fault  {each}" for each in smallest.drawn_faults))
        print("\n".join(f"  {each.at:>9.0f} s  deed   {each}" for each in smallest.drawn_deeds))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
