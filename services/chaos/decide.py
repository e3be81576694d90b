"""Whom to kill, when, or why not. Pure: no I/O, no clock, and chance is passed in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared import pauses
from shared.cloud import AlarmState, Group
from shared.fleet import ChaosPolicy, Fleet
from shared.records import FleetStatus, Pause

BY = "chaos"
"""Who asks, in requests and in the disruptions that the reconciler records."""

TICK = timedelta(minutes=15)
"""How often the schedule in ``deploy/messaging.yaml`` fires; the daily probability is spread over the ticks."""

SATURDAY = 5


@dataclass(frozen=True)
class View:
    """What is known of a fleet at ``now``."""

    fleet: Fleet
    group: Group
    pause: Pause | None
    alarms: Mapping[str, AlarmState]
    status: FleetStatus | None
    now: datetime


@dataclass(frozen=True)
class Kill:
    """Ask for this server to be killed."""

    server: str
    reason: str


@dataclass(frozen=True)
class Leave:
    """Kill nobody."""

    reason: str


def consider(view: View, coin: float, pick: float, *, asked: bool) -> Kill | Leave:
    """Decide on one tick. Pure. ``coin`` and ``pick`` are drawn evenly from 0 up to 1.

    ``asked``: an operator wants a kill now, whatever the hour and the coin; every safety check still counts.
    """
    against = unsafe(view) or (None if asked else not_now(view, coin))
    if against is not None:
        return Leave(against)
    candidates = sorted(member.server for member in view.group.members if member.in_service)
    if not candidates:
        return Leave("nobody is in service")
    victim = candidates[int(pick * len(candidates))]
    return Kill(victim, f"drawn from {len(candidates)} servers, " + ("on request" if asked else "by the daily coin"))


def unsafe(view: View) -> str | None:
    """Say what makes a kill unsafe now, if anything; unknown counts as unsafe. Pure."""
    name, policy = view.fleet.fleet, view.fleet.policies.chaos
    if not policy.enabled:
        return f"the fleet {name} has not opted in"
    if not view.group.managed:
        return f"the group {name} lacks our ownership tag"
    if view.pause is not None and pauses.stands(view.pause, view.now):
        return pauses.sentence(view.pause)
    firing = [
        f"{each} is {view.alarms.get(each, 'unknown')}" for each in policy.alarms if view.alarms.get(each) != "OK"
    ]
    if firing:
        return f"an incident may be under way: {', '.join(firing)}"
    return _weak(view.group, view.status)


def _weak(group: Group, status: FleetStatus | None) -> str | None:
    strong = [member for member in group.members if member.in_service and member.healthy]
    if len(strong) != len(group.members) or len(strong) != group.desired:
        return f"not at strength: {len(strong)} of {group.desired} in service, {len(group.members)} in the group"
    if status is None or status.state != "converged":
        return f"the reconciler calls the fleet {status.state if status is not None else 'nothing yet'}"
    if group.suspended:
        return f"processes of the group are suspended: {', '.join(sorted(group.suspended))}"
    return None


def not_now(view: View, coin: float) -> str | None:
    """Say why this tick kills nobody: the hour, enough for today, or the coin. Pure."""
    policy = view.fleet.policies.chaos
    begin, end = policy.hours
    if view.now.weekday() >= SATURDAY or (view.now.hour - begin) % 24 >= working_hours(policy):
        return f"not between {begin} and {end} o'clock UTC of a working day"
    killed = _killed_today(view)
    if killed >= math.ceil(policy.kills_per_day):
        return f"{killed} killed within a day already"
    chance = probability(policy)
    return f"the coin says no, at {chance:.0%} a tick" if coin >= chance else None


def _killed_today(view: View) -> int:
    known = view.status.disruptions if view.status is not None else ()
    return sum(1 for each in known if each.by == BY and view.now - each.at < timedelta(days=1))


def probability(policy: ChaosPolicy) -> float:
    """Return the chance of a kill in one tick, so that a working day has ``kills_per_day`` on average. Pure."""
    ticks = timedelta(hours=working_hours(policy)) / TICK
    return min(1.0, policy.kills_per_day / ticks)


def working_hours(policy: ChaosPolicy) -> int:
    """Return how many hours of a day may see a kill; from and up to the same hour means all. Pure."""
    begin, end = policy.hours
    return (end - begin) % 24 or 24
