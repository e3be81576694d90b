"""How moving code grows: trees of three sizes, one with unchanged files doubled; draws ``bench/catchup.svg``.

It takes ten minutes, and room for the largest tree (see ``bench.catchup``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.catchup import PREFIX, SCALE, Results, compared, publishing, versions_of
from bench.measurement import Measurement, ratio
from bench.running import Ran

COMMAND = f"{PREFIX}python -m bench growth"
SIZES = (0.25, 0.5, 1.0)
"""Of full size."""
DOUBLED = 1
"""Which of them is measured again with twice the files that never change."""
PLOT = Path(__file__).with_name("catchup.svg")

_RUNS = ("catch-up", "catch-up, no spare tree", "catch-up, no delta", "nothing", "full")


def measure() -> list[Measurement]:
    """Measure each size, then one of them with twice the files that never change."""
    found = [_compared(size * SCALE) for size in SIZES]
    doubled = _compared(SIZES[DOUBLED] * SCALE, unchanged=2)
    PLOT.write_text(plot(found))
    return [
        *(_size(each, run) for each in found for run in _RUNS),
        *(publishing(each, "v3", f"growth, {each.files} files", COMMAND) for each in found),
        *(_doubled(found[DOUBLED], doubled, run) for run in _RUNS),
    ]


def _compared(scale: float, unchanged: float = 1.0) -> Results:
    with versions_of(scale, unchanged) as (folder, versions):
        return compared(folder, versions)


def _theirs(found: Results, run: str) -> Ran | None:
    return found.rivals.get(f"rsync -a, {run.split(',', maxsplit=1)[0]}")


def _size(found: Results, run: str) -> Measurement:
    ours, theirs = found.ours[run], _theirs(found, run)
    wall = round(ours.wall_s, 2)
    return Measurement(
        name=f"growth, {found.files} files, {run}: wall",
        measured=wall,
        unit="s",
        goal="",
        command=COMMAND,
        rivals={"rsync -a": round(theirs.wall_s, 2) if theirs else None},
        ratio=ratio(wall, round(theirs.wall_s, 2) if theirs else None),
        note=f"{found.tree}; the agent: {ours}; rsync: {theirs or 'not installed'}",
    )


def _doubled(once: Results, twice: Results, run: str) -> Measurement:
    before, after = once.ours[run], twice.ours[run]
    return Measurement(
        name=f"growth, unchanged files doubled, {run}: CPU",
        measured=round(after.cpu_s / before.cpu_s, 3),
        unit="times",
        goal="at most 1.1" if run == "catch-up" else "",
        command=COMMAND,
        note=f"{once.tree}: {before}; rsync {_theirs(once, run)}; {twice.tree}: {after}; rsync {_theirs(twice, run)}",
    )


# ---- the plot ----

_WIDTH, _HEIGHT, _LEFT, _TOP = 360, 260, 50, 40
_COLOURS = {"agent": "#1b6ca8", "agent, no spare tree": "#c0392b", "agent, no delta": "#7f8c8d", "rsync -a": "#27ae60"}


def plot(found: Sequence[Results]) -> str:
    """Draw seconds over files, a panel for catch-ups and one for full fetches."""
    catching = {
        "agent": _line(found, "catch-up"),
        "agent, no spare tree": _line(found, "catch-up, no spare tree"),
        "agent, no delta": _line(found, "catch-up, no delta"),
        "rsync -a": _line(found, "rsync -a, catch-up"),
    }
    fetching = {"agent": _line(found, "full"), "rsync -a": _line(found, "rsync -a, full")}
    panels = (_panel("v1 to v3", catching, 0), _panel("full fetch", fetching, _WIDTH + _LEFT))
    size = f'width="{2 * (_WIDTH + _LEFT) + 20}" height="{_HEIGHT + 2 * _TOP}"'
    style = "<style>text{font:12px sans-serif}</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{style}{"".join(panels)}</svg>\n'


def _line(found: Sequence[Results], run: str) -> list[tuple[int, float]]:
    runs = ((each.files, each.ours.get(run) or each.rivals.get(run)) for each in found)
    return [(files, ran.wall_s) for files, ran in runs if ran is not None]


def _panel(title: str, lines: dict[str, list[tuple[int, float]]], x: int) -> str:
    most_files = max(files for line in lines.values() for files, _ in line)
    most_s = max(seconds for line in lines.values() for _, seconds in line)

    def at(files: float, seconds: float) -> tuple[float, float]:
        return x + _LEFT + files / most_files * (_WIDTH - 20), _TOP + _HEIGHT - seconds / most_s * _HEIGHT

    (left, bottom), (right, top) = at(0, 0), at(most_files, most_s)
    drawn = [
        f'<text x="{left}" y="{_TOP - 15}" font-weight="bold">{title}</text>',
        f'<path d="M{left} {top} V{bottom} H{right}" fill="none" stroke="black"/>',
        f'<text x="{left - 45}" y="{top + 5}">{most_s:.2f} s</text>',
        f'<text x="{right - 60}" y="{bottom + 18}">{most_files} files</text>',
    ]
    for number, (name, line) in enumerate(lines.items()):
        colour, places = _COLOURS[name], [at(*point) for point in line]
        points = " ".join(f"{across:.1f},{down:.1f}" for across, down in places)
        drawn.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += [f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{colour}"/>' for across, down in places]
        drawn.append(f'<text x="{left + 10}" y="{top + 15 + 16 * number}" fill="{colour}">{name}</text>')
    return "".join(drawn)
