"""``python -m bench [NAME ...]``: run benchmarks, print their figures, and write ``bench/results.json``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from bench import catchup, consumer, delay, first_setup, growth, idle, simulation, startup, story
from bench.measurement import Measurement

RESULTS = Path(__file__).with_name("results.json")

BENCHMARKS: dict[str, Callable[[], list[Measurement]]] = {
    "catchup": catchup.measure,
    "consumer": consumer.measure,
    "delay": delay.measure,
    "first_setup": first_setup.measure,
    "growth": growth.measure,
    "idle": idle.measure,
    "movers": catchup.measure_others,
    "simulation": simulation.measure,
    "startup": startup.measure,
    "story": story.measure,
}


def main(names: Sequence[str]) -> int:
    """Run the named benchmarks, or all; results of the others are kept. Return 2 for a name that there is none of."""
    console = Console(highlight=False)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        console.print(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}", style="red")
        return 2
    kept = {each["name"]: each for each in (orjson.loads(RESULTS.read_bytes()) if RESULTS.exists() else [])}
    found: dict[str, dict[str, object]] = {}
    for name in names or BENCHMARKS:
        console.print(f"running {name}", style="bold")
        for measurement in BENCHMARKS[name]():
            found[measurement.name] = measurement.as_dict()
        RESULTS.write_bytes(orjson.dumps(list((kept | found).values()), option=orjson.OPT_INDENT_2) + b"\n")
    console.print(_table(list(found.values())))
    return 0


def _table(results: Sequence[dict[str, object]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("what", "measured", "unit", "rivals", "ratio", "goal"):
        table.add_column(title, justify="right" if title in {"measured", "ratio"} else "left")
    for each in results:
        rivals = ", ".join(f"{name} {value}" for name, value in dict(each["rivals"]).items())  # type: ignore[call-overload]
        cells = (each["name"], each["measured"], each["unit"], rivals, each["ratio"], each["goal"])
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
