"""What goes wrong, drawn from the seed before anything runs: a list that can be replayed and shortened."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from shared.names import SERVICES

Family = Literal["calls", "processes", "messages", "servers", "cloud", "clocks"]
FAMILIES: tuple[Family, ...] = ("calls", "processes", "messages", "servers", "cloud", "clocks")
"""Kinds of faults that can be asked for."""

DAY_S = 86_400.0


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong. What ``target`` and ``amount`` mean depends on ``kind``."""

    at: float
    """Seconds since the beginning; a fault of a call strikes the next one that fits."""
    family: Family
    kind: str
    target: str = ""
    """A service, a queue, or a zone; empty: anyone."""
    method: str = ""
    """Of a port; empty: any that the kind fits."""
    amount: float = 0.0
    """Seconds, mostly."""
    steps: int = 0
    """Of a kill: after how many awaits of the service it strikes; 0: at a call of a port instead."""

    def __str__(self) -> str:
        where = " ".join(each for each in (self.target, self.method) if each)
        after = f" after {self.steps} awaits" if self.steps else ""
        return f"{self.kind} {where} {self.amount:.0f}{after}".strip()


WRITES: Mapping[str, tuple[str, ...]] = {
    "reconciler": ("put", "put", "publish", "terminate", "mark_unhealthy", "detach", "tag", "queue.delete"),
    "provisioner": ("put", "put", "publish", "complete", "heartbeat", "commands.send", "queue.send", "queue.delete"),
    "baker": ("put", "put", "publish", "launch", "create_image", "tag", "terminate", "commands.send", "queue.send"),
    "registry": ("put", "put", "publish", "set_template_image", "complete", "queue.send", "queue.delete"),
    "janitor": ("put", "publish", "tag", "deregister", "terminate", "delete"),
    "chaos": ("publish", "queue.delete"),
}
"""What each service changes: faults are drawn for these, so that they meet what matters."""

READS: Mapping[str, tuple[str, ...]] = {
    "reconciler": ("describe", "instances", "tagged", "folders", "etags", "probe", "get", "states"),
    "provisioner": ("describe", "instances", "templates", "status", "find", "online", "get", "etags"),
    "baker": ("instances", "tagged", "image", "status", "find", "online", "get", "etags", "stock_image"),
    "registry": ("describe", "instances", "images", "image", "templates", "get", "etags"),
    "janitor": ("describe", "instances", "tagged", "images", "templates", "get", "etags"),
    "chaos": ("describe", "get", "states"),
}
"""What each service asks."""

LAGGING = ("describe", "instances", "tagged", "images", "image", "templates", "status", "find")
"""Answers that may be of a moment ago; S3 is strongly consistent."""

CALL_KINDS = ("error", "lost", "lost", "late", "late", "retried", "echo", "throttled", "stale", "stale", "partial")
PROCESS_KINDS = ("kill", "kill", "kill", "strike", "strike", "strike", "strike", "pause", "pause", "twin")


def draw(seed: int, days: float, families: Collection[Family]) -> tuple[Fault, ...]:
    """Draw the faults of a run, in order. The same for the same arguments."""
    chance = random.Random(f"{seed} faults")
    drawn = [fault for family in FAMILIES for fault in _DRAW[family](chance, days)]
    return tuple(sorted((each for each in drawn if each.family in families), key=lambda each: each.at))


def _moments(chance: random.Random, days: float, a_day: float) -> list[float]:
    """Return about so many moments a day, evenly drawn; none in the first minutes."""
    count = int(a_day * days * chance.uniform(0.5, 1.5) + chance.random())
    return sorted(chance.uniform(120, days * DAY_S) for _ in range(count))


def _calls(chance: random.Random, days: float) -> list[Fault]:
    found = [_call(chance, at) for at in _moments(chance, days, 200)]
    for at in _moments(chance, days, 2):
        kind = chance.choice(("storm", "lagging", "denied", "blind"))
        found.append(Fault(at, "calls", kind, chance.choice(SERVICES), amount=chance.uniform(30, 900)))
    return found


def _call(chance: random.Random, at: float) -> Fault:
    service, kind = chance.choice(SERVICES), chance.choice(CALL_KINDS)
    reading = kind in ("stale", "partial") or (kind in ("error", "throttled") and chance.random() < 0.5)
    methods = READS[service] if reading else WRITES[service]
    if kind == "stale":
        methods = tuple(each for each in methods if each in LAGGING)
    amount = {"late": 120, "echo": 60, "stale": 15}.get(kind, 0) * chance.uniform(0.01, 1)
    return Fault(at, "calls", kind, service, chance.choice(methods), amount)


def _processes(chance: random.Random, days: float) -> list[Fault]:
    found = [_process(chance, at) for at in _moments(chance, days, 80)]
    for at in _moments(chance, days, 0.4):
        found.append(Fault(at, "processes", "outage", amount=chance.uniform(600, 6 * 3600)))
    return found


def _process(chance: random.Random, at: float) -> Fault:
    """Draw a kill at a call, a strike at an await (many come in a burst of work, so up to thousands later), or else."""
    service, kind = chance.choice(SERVICES), chance.choice(PROCESS_KINDS)
    if kind in ("kill", "strike"):
        down = chance.choice((2, 10, 60, 600)) * chance.uniform(0.5, 1.5)
        method = chance.choice(("", *WRITES[service])) if kind == "kill" else ""
        return Fault(at, "processes", kind, service, method, down, int(2 ** chance.uniform(0, 10)) * (kind == "strike"))
    return Fault(at, "processes", kind, service, amount=chance.choice((30, 300, 3600)) * chance.uniform(0.5, 1.5))


def _messages(chance: random.Random, days: float) -> list[Fault]:
    found = []
    for at in _moments(chance, days, 60):
        kind = chance.choice(("duplicate", "duplicate", "delay", "lose"))
        amount = chance.choice((5, 60, 3600, 4 * 3600)) * chance.uniform(0.2, 1) if kind != "lose" else 0.0
        found.append(Fault(at, "messages", kind, f"autoprovisioner-{chance.choice(SERVICES)}", amount=amount))
    return found


def _servers(chance: random.Random, days: float) -> list[Fault]:
    kinds = ("sick", "vanish", "hung", "stopped", "next-lost", "next-mute", "next-sick")
    return [Fault(at, "servers", chance.choice(kinds), amount=chance.random()) for at in _moments(chance, days, 5)]


def _cloud(chance: random.Random, days: float) -> list[Fault]:
    found = []
    for at in _moments(chance, days, 3):
        kind = chance.choice(
            ("zone-dark", "zone-lost", "full", "image-fails", "image-broken", "incident", "unknown-alarm")
        )
        target = chance.choice(("us-east-1a", "us-east-1b", "us-east-1c")) if kind.startswith("zone") else ""
        found.append(Fault(at, "cloud", kind, target, amount=chance.uniform(60, 3600)))
    for at in _moments(chance, days, 0.5):
        found.append(Fault(at, "cloud", "image-breaks", amount=chance.uniform(3600, 4 * 3600)))
    return found


def _clocks(chance: random.Random, days: float) -> list[Fault]:
    return [
        Fault(at, "clocks", "skew", chance.choice(SERVICES), amount=chance.choice((-600, -30, 0, 30, 600)))
        for at in _moments(chance, days, 4)
    ]


_DRAW: Mapping[Family, Callable[[random.Random, float], Sequence[Fault]]] = {
    "calls": _calls,
    "processes": _processes,
    "messages": _messages,
    "servers": _servers,
    "cloud": _cloud,
    "clocks": _clocks,
}
