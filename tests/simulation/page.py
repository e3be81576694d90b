"""One HTML page for a run: servers, pointer, bakes and services on a time line, with what went wrong drawn in."""

from __future__ import annotations

import html
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from tests.simulation.fleet import NAME
from tests.simulation.loop import START
from tests.simulation.run import Result
from tests.simulation.trace import Line
from tests.simulation.world import World

TEMPLATE = Path(__file__).with_name("page.html")

MARKS = {
    "fault": "fault",
    "struck": "struck",
    "befalls": "fault",
    "operator": "operator",
    "alert": "alert",
    "takes-out": "takes-out",
    "violation": "violation",
    "late": "struck",
    "alarm": "alarm",
}
"""Kinds of lines that become marks, and what a mark looks like."""

TOLD = {
    *MARKS,
    "publish",
    "launched",
    "terminated",
    "vanished",
    "image",
    "ran",
    "deregistered",
    "kill",
    "start",
    "rest",
}
"""Kinds of lines that the list below the time line shows."""


def page(result: Result, world: World) -> str:
    """Return the page. It needs nothing from elsewhere."""
    lines = world.trace.lines
    story = {
        "title": f"seed {result.options.seed}",
        "outcome": str(result.violation) if result.violation else "all invariants held",
        "held": result.violation is None,
        "began": START.timestamp(),
        "length": lines[-1].at if lines else 1.0,
        "servers": _servers(lines),
        "services": _services(lines),
        "pointer": _pointer(lines),
        "bakes": list(_bakes(world)),
        "strength": _strength(lines),
        "marks": [[each.at, MARKS[each.kind], each.who, each.text] for each in lines if each.kind in MARKS],
        "lines": [[each.at, each.kind, each.who, each.text[:300]] for each in lines if each.kind in TOLD],
        "calls": result.calls,
    }
    data = orjson.dumps(story).decode().replace("<", "\\u003c")
    return TEMPLATE.read_text().replace("{{title}}", html.escape(str(story["title"]))).replace("{{data}}", data)


def _servers(lines: list[Line]) -> list[dict[str, Any]]:
    """Return every server with the times at which its state changed."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        if line.kind == "launched":
            server, image = line.text.split(" from ", 1)
            found[server] = {"server": server, "image": image, "states": [[line.at, "Pending"]]}
        elif line.kind in ("terminated", "vanished"):
            found[line.text]["states"].append([line.at, "gone"])
        elif line.kind == "ends" and line.text in found:
            found[line.text]["states"].append([line.at, "Terminating"])
        elif line.kind == "group":
            _members(line, found)
    return list(found.values())


def _members(line: Line, found: dict[str, dict[str, Any]]) -> None:
    told = line.text.split(": ", 1)[1]
    now = dict(each.split(" ", 1) for each in told.split(", ")) if told else {}
    for server, each in found.items():
        state, last = now.get(server), each["states"][-1][1]
        if state is not None and last not in (state, "gone"):
            each["states"].append([line.at, state])
        elif state is None and last == "InService":
            each["states"].append([line.at, "kept aside"])


def _services(lines: list[Line]) -> dict[str, list[list[Any]]]:
    """Return each service's processes: from when to when."""
    found: dict[str, list[list[Any]]] = {}
    open_: dict[str, list[Any]] = {}
    for line in lines:
        if line.kind == "start":
            open_[line.who] = [line.at, None, line.who]
            found.setdefault(line.who.split("#", 1)[0], []).append(open_[line.who])
        elif line.kind == "kill":
            open_[line.who][1] = line.at
    return found


def _pointer(lines: list[Line]) -> list[list[Any]]:
    moves: dict[int, list[Any]] = {}
    for line in lines:
        if line.kind == "publish" and '"type":"image.promoted"' in line.text:
            fields = line.text
            image = fields.split('"image":"', 1)[1].split('"', 1)[0]
            generation = int(fields.split('"generation":', 1)[1].split(",", 1)[0])
            moves.setdefault(generation, [line.at, image, generation, fields])
    return list(moves.values())


def _bakes(world: World) -> Iterator[list[Any]]:
    for key in world.bucket.keys(f"fleets/{NAME}/bakes/"):
        stored = world.bucket.get(key)
        bake = orjson.loads(stored.body) if stored else {}
        ended = _second(bake["ended"]) if bake.get("ended") else None
        yield [_second(bake["requested"]), ended, bake["stage"], f"{bake['bake']}: {bake['stage']} {bake['failure']}"]


def _second(moment: str) -> float:
    return (datetime.fromisoformat(moment) - START).total_seconds()


def _strength(lines: list[Line]) -> list[list[float]]:
    """Return how many servers were wanted and in service, whenever that changed."""
    return [
        [line.at, int(line.text.split(" ", 1)[0]), line.text.count(" InService")]
        for line in lines
        if line.kind == "group"
    ]
