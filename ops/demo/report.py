"""What the demo leaves behind: ``report.json`` for programs, and one self-contained ``report.html`` for people."""

from __future__ import annotations

import html
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from ops.demo.journal import Journal, Mark, ServerLine


@dataclass
class Stage:
    """One stage of the story. Times are seconds since the epoch."""

    name: str
    began: float
    ended: float = 0.0
    ok: bool = False
    reason: str = ""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


@dataclass
class Result:
    """What the story measured. Figures in seconds and bytes; None where a stage did not get that far."""

    stages: list[Stage] = field(default_factory=list)
    full_provisioning_s: float | None = None
    image_launch_s: float | None = None
    kill_recovery_s: float | None = None
    kill_recovery_parts: dict[str, float] = field(default_factory=dict)
    catch_up_s: float | None = None
    full_bytes: int | None = None
    catch_up_bytes: int | None = None
    requests_served: int = 0
    requests_failed: int = 0
    memory_mb: dict[str, float] = field(default_factory=dict)
    """Of each process of the system, when the last stage had ended."""

    @property
    def ok(self) -> bool:
        """Whether every stage ended well."""
        return bool(self.stages) and all(stage.ok for stage in self.stages)


def control_plane_added(journal: Journal) -> list[float]:
    """Return what the system added to each launch of a member that reached service, in seconds."""
    return sorted(added for server in journal.servers.values() if (added := server.added_s) is not None)


def as_json(result: Result, journal: Journal) -> dict[str, Any]:
    """Return the report for programs."""
    added = control_plane_added(journal)
    return {
        "ok": result.ok,
        "full_provisioning_s": _round(result.full_provisioning_s),
        "image_launch_s": _round(result.image_launch_s),
        "kill_recovery_s": _round(result.kill_recovery_s),
        "kill_recovery_parts_s": {name: _round(value) for name, value in result.kill_recovery_parts.items()},
        "catch_up_s": _round(result.catch_up_s),
        "full_provisioning_bytes": result.full_bytes,
        "catch_up_bytes": result.catch_up_bytes,
        "control_plane_added_s": {
            "median": _round(statistics.median(added) if added else None),
            "max": _round(max(added, default=None)),
            "launches": len(added),
        },
        "alerts": list(journal.alerts),
        "requests": {"served": result.requests_served, "failed": result.requests_failed},
        "memory_mb": {name: round(value, 1) for name, value in result.memory_mb.items()},
        "stages": [
            {"name": stage.name, "seconds": _round(stage.seconds), "ok": stage.ok, "reason": stage.reason}
            for stage in result.stages
        ],
        "servers": [_server(server) for server in journal.servers.values()],
    }


def rows(result: Result, journal: Journal) -> list[tuple[str, str]]:
    """Return the closing table: what, and how much."""
    added = control_plane_added(journal)
    full, recovery = result.full_provisioning_s, result.kill_recovery_s
    ratio = f"  (1/{full / recovery:.1f} of full provisioning)" if full and recovery else ""
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in result.kill_recovery_parts.items())
    return [
        ("full provisioning, launch to service", _seconds(full)),
        ("launch from image, launch to service", _seconds(result.image_launch_s)),
        ("recovery from a kill", _seconds(recovery) + ratio),
        ("  of which", parts or "-"),
        ("catch-up after a release, steps", _seconds(result.catch_up_s)),
        ("bytes moved, full / catch-up", f"{_megabytes(result.full_bytes)} / {_megabytes(result.catch_up_bytes)}"),
        ("added by the system to a launch", _added(added)),
        ("requests served / failed", f"{result.requests_served} / {result.requests_failed}"),
        ("alerts raised", str(len(journal.alerts))),
    ]


def write(folder: Path, result: Result, journal: Journal) -> Path:
    """Write both files into ``folder`` and return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_bytes(orjson.dumps(as_json(result, journal), option=orjson.OPT_INDENT_2))
    page = folder / "report.html"
    page.write_text(_page(result, journal), encoding="utf-8")
    return page


def _server(server: ServerLine) -> dict[str, Any]:
    return {
        "server": server.server,
        "role": server.role,
        "image": server.image,
        "marks": server.marks,
        "boot_s": _round(server.boot_s),
        "steps_s": _round(server.steps_s),
        "launch_s": _round(server.launch_s),
        "added_s": _round(server.added_s),
        "updates": server.updates,
        "steps": [step.model_dump(mode="json", exclude={"log_tail", "fingerprint"}) for step in server.steps],
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _megabytes(value: int | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"


def _added(added: Sequence[float]) -> str:
    if not added:
        return "-"
    return f"median {statistics.median(added):.1f} s, max {max(added):.1f} s, {len(added)} launches"


# The page. One SVG, drawn here: no script, nothing fetched.

_LEFT, _RIGHT, _ROW, _TOP = 190, 24, 22, 64
_WIDTH = 1180

_PHASES: tuple[tuple[Mark, tuple[Mark, ...], str, str], ...] = (
    ("pending", ("running", "terminated"), "boot", "boots"),
    ("running", ("in service", "failed", "leaving", "terminated"), "plan", "runs its plan"),
    ("failed", ("terminated",), "bad", "was given up"),
    ("in service", ("aside", "leaving", "announced", "terminated"), "serve", "serves"),
    ("aside", ("terminated",), "aside", "kept aside for a look"),
    ("leaving", ("terminated",), "leave", "announced as gone, drains, ends"),
)

_STYLE = """
:root { color-scheme: light dark; --ink:#1c2430; --dim:#687385; --line:#dfe4ea; --paper:#fff;
  --boot:#9db2cf; --plan:#e8a33d; --serve:#3f9d6b; --aside:#8f6fc4; --leave:#c96a5b; --bad:#c0392b; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6eaf0; --dim:#97a3b4; --line:#303846; --paper:#161b22; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
p.lead { color: var(--dim); margin-top: 0 }
table { border-collapse: collapse } td, th { padding: .25rem 1.2rem .25rem 0; text-align: left; vertical-align: top }
tr { border-bottom: 1px solid var(--line) } td.n { text-align: right; font-variant-numeric: tabular-nums }
.bad { color: var(--bad); font-weight: 600 } .wide { overflow-x: auto }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink) } svg .dim { fill: var(--dim) }
svg line { stroke: var(--line) } .boot { fill: var(--boot) } .plan { fill: var(--plan) } .serve { fill: var(--serve) }
.aside { fill: var(--aside) } .bad { fill: var(--bad) } .leave { fill: var(--leave) }
.legend span { margin-right: 1.4rem; white-space: nowrap }
.legend i { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .4rem }
pre { background: color-mix(in srgb, var(--ink) 6%, transparent); padding: .8rem;
  white-space: pre-wrap; font-size: 13px }
"""


def _page(result: Result, journal: Journal) -> str:
    verdict = "Every stage ended well." if result.ok else "<span class=bad>A stage failed.</span>"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>AutoProvisioner: the demo</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>',
        f'<h1>AutoProvisioner: the demo</h1><p class="lead">{verdict}</p>',
        _figures(result, journal),
        "<h2>Time line of every server</h2>",
        _legend(),
        f'<div class="wide">{_timeline(result, journal)}</div>',
        "<h2>Stages</h2>",
        _stages(result),
        "<h2>Alerts</h2>",
        _alerts(journal),
        "</body></html>",
    ]
    return "\n".join(parts)


def _figures(result: Result, journal: Journal) -> str:
    cells = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows(result, journal)
    )
    return f"<table>{cells}</table>"


def _legend() -> str:
    spans = "".join(
        f'<span><i style="background:var(--{colour})"></i>{label}</span>' for _, _, colour, label in _PHASES
    )
    return f'<p class="legend">{spans}</p>'


def _timeline(result: Result, journal: Journal) -> str:
    servers = sorted(journal.servers.values(), key=lambda server: min(server.marks.values(), default=0.0))
    first = min((stage.began for stage in result.stages), default=0.0)
    last = max((stage.ended for stage in result.stages), default=first + 1)
    scale = (_WIDTH - _LEFT - _RIGHT) / max(1.0, last - first)
    height = _TOP + _ROW * len(servers) + 10

    def x(at: float) -> float:
        return _LEFT + (min(max(at, first), last) - first) * scale

    drawn = [_grid(first, last, x, height), _stage_bands(result, x, height)]
    for row, server in enumerate(servers):
        drawn.append(_lane(server, x, _TOP + row * _ROW, last))
    return f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img">{"".join(drawn)}</svg>'


def _grid(first: float, last: float, x: Any, height: int) -> str:
    drawn = []
    for tick in range(0, int(last - first) + 1, 30):
        at = x(first + tick)
        drawn.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 8}" y2="{height}"/>')
        drawn.append(f'<text class="dim" x="{at:.1f}" y="{_TOP - 14}" text-anchor="middle">{tick} s</text>')
    return "".join(drawn)


def _stage_bands(result: Result, x: Any, height: int) -> str:
    drawn = []
    for number, stage in enumerate(result.stages, 1):
        left, right = x(stage.began), x(stage.ended)
        shade = ' fill-opacity="0.05"' if number % 2 else ' fill-opacity="0"'
        title = f"<title>{number}. {html.escape(stage.name)}</title>"
        drawn.append(
            f'<rect x="{left:.1f}" y="18" width="{right - left:.1f}" height="{height - 18}"{shade}>{title}</rect>'
        )
        drawn.append(f'<text x="{(left + right) / 2:.1f}" y="32" text-anchor="middle">{number}{title}</text>')
    return "".join(drawn)


def _lane(server: ServerLine, x: Any, y: int, last: float) -> str:
    label = f"{server.server[:13]} {server.role if server.role != 'member' else ''}"
    drawn = [f'<text x="0" y="{y + 14}">{html.escape(label)}</text>']
    for begin, ends, colour, name in _PHASES:
        if begin not in server.marks:
            continue
        start = server.marks[begin]
        end = min((server.marks[mark] for mark in ends if server.marks.get(mark, 0.0) > start), default=last)
        told = _told_steps(server) if colour == "plan" else ""
        drawn.append(
            _bar(colour, start, end, x, y, f"{server.server} ({server.image}) {name}: {end - start:.1f} s{told}")
        )
    for start, end in server.updates:
        drawn.append(_bar("plan", start, end, x, y, f"{server.server} is brought up to date: {end - start:.1f} s"))
    return "".join(drawn)


def _bar(colour: str, start: float, end: float, x: Any, y: int, title: str) -> str:
    width = max(1.5, x(end) - x(start))
    return (
        f'<rect class="{colour}" x="{x(start):.1f}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 7}" rx="2">'
        f"<title>{html.escape(title)}</title></rect>"
    )


def _told_steps(server: ServerLine) -> str:
    """List the steps' times, a line each, for the tool tip."""
    return "".join(f"\n{step.step}: {step.result}, {step.seconds:.1f} s" for step in server.steps)


def _stages(result: Result) -> str:
    cells = "".join(
        f'<tr><td class="n">{number}</td><td>{html.escape(stage.name)}'
        f"{f'<br><span class=bad>{html.escape(stage.reason)}</span>' if stage.reason else ''}</td>"
        f'<td class="n">{stage.seconds:.1f} s</td><td>{"ok" if stage.ok else "<span class=bad>failed</span>"}</td></tr>'
        for number, stage in enumerate(result.stages, 1)
    )
    return f"<table>{cells}</table>"


def _alerts(journal: Journal) -> str:
    return "".join(_alert(alert) for alert in journal.alerts) or "<p>None.</p>"


def _alert(alert: Mapping[str, Any]) -> str:
    said = html.escape(f"{alert['reason']}\n\n{alert.get('log_tail', '')}\n\nNext: {alert['next']}")
    return f"<p><b>{html.escape(str(alert['cause']))}</b></p><pre>{said}</pre>"
