"""What to do about a fleet, and what not. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Literal

from shared import pauses, quarantine
from shared.cloud import AlarmState, Group, Instance, LifecycleState
from shared.fleet import Fleet
from shared.messages import ServerDisableRequested, ServerKillRequested, ServerReplaced
from shared.outbox import to_announce
from shared.records import Announced, Announcement, Disruption, FleetStatus, Pause, Refusal

ROLLOUT = "rollout"
"""Who takes a server out of service for a while, when releases come to servers in service."""

CHAOS = "chaos"
"""Who asks, when the chaos service does."""

SAME_FOR = timedelta(minutes=1)
"""A disruption that is begun again within this is the same one: its effect failed, or nobody knows of it."""

REMEMBERED = timedelta(days=1)
"""How long disruptions stay in the status; chaos counts its kills of a day there."""

UNCLAIMED_AFTER = timedelta(seconds=30)
"""A provisioner takes up a launch within seconds; past this its message is taken to be lost."""

UNCLAIMED_UNTIL = timedelta(minutes=3)
"""Past this it is not said again: a provisioner that is back looks at every waiting server by itself, and each sweep of
an outage would leave it one message more to work off first."""

STALE_AFTER = timedelta(minutes=10)
"""A chaos kill was right for the moment when it was drawn; the fleet may be another by now."""

NEEDED_PROCESSES = frozenset({"Launch", "Terminate"})
"""Processes of the group without which nothing that we take out is replaced."""

How = Literal["terminated", "detached", "marked-unhealthy"]


@dataclass(frozen=True)
class View:
    """A fleet as it was observed at ``now``."""

    fleet: Fleet
    group: Group
    instances: Mapping[str, Instance]
    """Those of the members that EC2 knows."""
    quarantined: tuple[Instance, ...]
    """Instances with the fleet's tags and a quarantine tag."""
    health: Mapping[str, bool | None]
    """Of members in service: True is well, False failed every probe in a row, None or absent is unknown."""
    claimed: frozenset[str]
    """Waiting servers that a provisioner has taken up."""
    pause: Pause | None
    now: datetime
    updating: frozenset[str] = frozenset()
    """Members in service that are being brought up to date: nobody asks them how they are."""
    failed: frozenset[str] = frozenset()
    """Members in service that could be brought neither up to date nor back."""

    @cached_property
    def staying(self) -> frozenset[str]:
        """Members in service that neither the group nor EC2 is about to take away."""
        return frozenset(
            member.server
            for member in self.group.members
            if member.in_service and member.healthy and not self._dying(member.server)
        )

    @cached_property
    def lost(self) -> frozenset[str]:
        """Members in service that are about to go."""
        return frozenset(each.server for each in self.group.members if each.in_service) - self.staying

    @cached_property
    def sick(self) -> frozenset[str]:
        """Members in service whose health page failed every time."""
        return frozenset(server for server in self.staying if self.health.get(server) is False)

    @cached_property
    def well(self) -> frozenset[str]:
        """Members in service known to be healthy."""
        return frozenset(server for server in self.staying if self.health.get(server) is True)

    @property
    def missing(self) -> int:
        """How many servers the group has yet to bring into service."""
        return max(0, self.group.desired - len(self.staying))

    def _dying(self, server: str) -> bool:
        instance = self.instances.get(server)
        return instance is not None and instance.state not in ("pending", "running")


@dataclass(frozen=True)
class TakeOut:
    """Take a server out of service; the group replaces it."""

    server: str
    how: How
    by: str
    reason: str


@dataclass(frozen=True)
class BringUpToDate:
    """Take a server out of service for as long as it takes to run its plan."""

    server: str
    by: str
    reason: str


@dataclass(frozen=True)
class EndQuarantine:
    """Terminate a server that was kept aside long enough."""

    server: str
    reason: str


@dataclass(frozen=True)
class AnnounceUnclaimed:
    """Say that nobody takes up a launch."""

    server: str
    reason: str


@dataclass(frozen=True)
class Refuse:
    """Do not do it. ``passing``: the reason goes away by itself, nobody has to be called."""

    reason: str
    passing: bool = False


@dataclass(frozen=True)
class Nothing:
    """There is nothing to do (any more)."""

    reason: str


@dataclass(frozen=True)
class Hold:
    """Do nothing to the fleet and call a person."""

    cause: str
    reason: str
    next: str


HOLD_CAUSES = ("group-unmanaged", "too-many-sick", "health-blind")
"""Every cause that ``hold`` gives."""

Sweep = TakeOut | EndQuarantine | AnnounceUnclaimed


@dataclass(frozen=True)
class Word:
    """What is to be said of the fleet."""

    state: Literal["converged", "degraded"]
    healthy: int
    wanted: int
    reason: str


def word(view: View) -> Word:
    """Say how the fleet is. Pure. A server whose health nobody knows counts as healthy."""
    healthy, wanted = len(view.staying - view.sick), view.group.desired
    if healthy >= wanted:
        return Word("converged", healthy, wanted, f"{healthy} of {wanted} healthy")
    others = [f"{each.server} is {each.state}" for each in view.group.members if not each.in_service]
    lost = [f"{each.server} is going" for each in view.group.members if each.server in view.lost]
    sick = [f"{server} fails its health check" for server in sorted(view.sick)]
    told = "; ".join([*sick, *lost, *others][:20]) or "the group has yet to launch"
    return Word("degraded", healthy, wanted, f"{healthy} of {wanted} healthy: {told}")


def status_after(view: View, old: FleetStatus | None) -> FleetStatus:
    """Return the status that says how the fleet is; the same object's values when nothing changed. Pure."""
    said = word(view)
    if old is None:
        return FleetStatus(state=said.state, since=view.now, healthy=said.healthy, wanted=said.wanted)
    since = old.since if old.state == said.state else view.now
    update = {"state": said.state, "since": since, "healthy": said.healthy, "wanted": said.wanted}
    return old.model_copy(update=update)


def hold(view: View) -> Hold | None:
    """Say why nothing may be done to this fleet at all, if so. Pure."""
    name = view.fleet.fleet
    look = f"aws autoscaling describe-auto-scaling-groups --auto-scaling-group-names {name}"
    if not view.group.managed:
        return Hold("group-unmanaged", f"the group {name} lacks our ownership tag: it is left alone", look)
    asked = view.staying - view.updating
    if asked and all(view.health.get(server) is None for server in asked):
        reason = f"no health page of the {len(asked)} servers in service gives an answer: health is blind"
        return Hold("health-blind", reason, f"curl -v {view.fleet.health.url}")
    # One sick server is always repaired: a share alone would strand fleets of one.
    most = max(1.0, view.fleet.policies.disruption.breaker * len(view.staying))
    if len(view.sick) > most:
        reason = f"{len(view.sick)} of {len(view.staying)} servers in service look sick at once: {_listed(view.sick)}"
        return Hold("too-many-sick", reason, look)
    return None


def sweep(view: View) -> tuple[Sweep, ...]:
    """List what a look at the whole fleet asks for; the budget is asked at each. Pure."""
    if not view.group.managed:
        return ()
    announcements = _unclaimed(view)
    if pauses.of_automation(view.pause, view.now):
        return announcements
    repairs = () if hold(view) else tuple(_mark(view, server) for server in sorted(view.sick | _unknown(view)))
    return (*announcements, *repairs, *_expired(view))


def _unknown(view: View) -> frozenset[str]:
    """Members in service of which nobody knows what they run."""
    return view.failed & view.staying


def _mark(view: View, server: str) -> TakeOut:
    why = "its health page failed every time it was asked"
    if server in view.failed:
        why = "it could be brought neither up to date nor back to what it ran before"
    return TakeOut(server, "marked-unhealthy", "reconciler", why)


def is_to_be_claimed(instance: Instance, now: datetime) -> bool:
    """Whether a waiting server should have been taken up, and it is still worth while to say that it was not. Pure."""
    return UNCLAIMED_AFTER < now - instance.launched <= UNCLAIMED_UNTIL


def _unclaimed(view: View) -> tuple[AnnounceUnclaimed, ...]:
    waiting = [each.server for each in view.group.members if each.state == LifecycleState.PENDING_WAIT]
    known = {server: view.instances[server] for server in waiting if server in view.instances}
    at_once = view.fleet.policies.launch.at_once
    return tuple(
        AnnounceUnclaimed(
            server, f"waits since {(view.now - instance.launched).total_seconds():.0f} s and nobody took it up"
        )
        for server, instance in known.items()
        if server not in view.claimed and is_to_be_claimed(instance, view.now)
        if view.group.waiting_before(server) < at_once  # else it waits for its turn
    )


def _expired(view: View) -> tuple[EndQuarantine, ...]:
    keep = timedelta(hours=view.fleet.policies.quarantine.hours)
    return tuple(
        EndQuarantine(each.server, f"kept aside since {since:%Y-%m-%d %H:%M} UTC")
        for each in view.quarantined
        if (since := quarantine.since(each.tags)) is not None
        and view.now - since >= keep
        and view.group.member(each.server) is None
    )


Request = ServerKillRequested | ServerDisableRequested


def answer(view: View, request: Request, alarms: Mapping[str, AlarmState]) -> TakeOut | Refuse | Nothing:
    """Say what a request comes to, before the budget is asked. Pure.

    ``alarms`` are the states of the fleet's incident alarms; they are looked at for chaos only.
    """
    member = view.group.member(request.server)
    if member is None:
        return Nothing(f"{request.server} is not in the group {view.fleet.fleet} (any more)")
    if request.server in view.lost or member.state.startswith(("Terminat", "Detach")):
        return Nothing(f"{request.server} is leaving already")
    if not member.in_service:
        return Refuse(f"{request.server} is {member.state}: only a server in service can be taken out")
    against = _held_back(view, request) or (chaos_refusal(view, request, alarms) if is_chaos(request) else None)
    if against is not None:
        return Refuse(against)
    how: How = "detached" if isinstance(request, ServerDisableRequested) else "terminated"
    return TakeOut(request.server, how, request.by, request.reason or "no reason given")


def _held_back(view: View, request: Request) -> str | None:
    """Say what forbids to take this server out, if so; a person may still remove a sick one when many are."""
    held = hold(view)
    if held is not None and (held.cause == "group-unmanaged" or request.server not in view.sick):
        return held.reason
    if view.pause is not None and pauses.stands(view.pause, view.now) and _pause_binds(view.pause, request):
        return f"{pauses.sentence(view.pause)}; {request.server} stays"
    return None


def unknown(view: View, request: Request) -> str | None:
    """Say why a person's request can be neither granted nor refused yet, if so; chaos is simply refused. Pure."""
    held = hold(view)
    return held.reason if held is not None and held.cause == "health-blind" and not is_chaos(request) else None


def is_chaos(request: Request) -> bool:
    """Whether the chaos service is behind the request. Pure."""
    return CHAOS in (request.by, request.source)


def _pause_binds(pause: Pause, request: Request) -> bool:
    return pause.what == "automation" or is_chaos(request)


def chaos_refusal(view: View, request: Request, alarms: Mapping[str, AlarmState]) -> str | None:
    """Say why chaos may not kill now, if so; unknown counts as no. Pure."""
    policy = view.fleet.policies.chaos
    if not policy.enabled:
        return f"the fleet {view.fleet.fleet} has not opted in to chaos"
    if request.time is None or abs(view.now - request.time) > STALE_AFTER:
        return "the chaos request is undated or stale"
    for name in policy.alarms:
        if alarms.get(name) != "OK":
            return f"the alarm {name} is {alarms.get(name, 'unknown')}"
    settled = all(member.in_service for member in view.group.members)
    if not settled or len(view.well) < view.group.desired:
        return f"the fleet is not at strength: {len(view.well)} of {view.group.desired} known to be healthy"
    return None


def budget_refusal(view: View, status: FleetStatus | None, server: str) -> Refuse | None:
    """Say why the disruption budget does not allow to take this server out now, if so. Pure.

    A disruption that was recorded for this very server is not counted against it: doing it again is the same one.
    """
    policy = view.fleet.policies.disruption
    halted = NEEDED_PROCESSES & set(view.group.suspended)
    if halted:
        return Refuse(f"the group's process {_listed(halted)} is suspended: nothing would replace {server}")
    recent = _recent(status, view.now)
    counted = len({each.server for each in recent if each.server != server or each.over is not None})
    if counted >= policy.hourly:
        return Refuse(f"{counted} servers were taken out within the hour; the policy allows {policy.hourly}")
    others = frozenset(each.server for each in recent if each.over is None) - {server}
    under_way = (others & view.staying) | (view.updating - {server})
    left = len(view.well - under_way - {server})
    if server not in view.sick | view.failed and left < policy.floor:
        return Refuse(f"without {server} {left} healthy servers would be left; the floor is {policy.floor}")
    away = len(under_way) + min(view.missing, len(others - view.staying))
    if away >= policy.unavailable:
        return Refuse(f"{away} servers are missing because of us; the policy allows {policy.unavailable}", passing=True)
    return None


def charged(view: View, status: FleetStatus | None, action: TakeOut | BringUpToDate) -> FleetStatus | None:
    """Return the status with this disruption in it; None when it is in there already or not allowed. Pure.

    A server that is taken out once more while it is on its way, as when its update failed, counts from then. It is no
    more the rollout's when others take it out for good: that would count it as back as soon as its update ended.
    """
    if budget_refusal(view, status, action.server) is not None:
        return None
    recent = _recent(status, view.now)
    standing = [each for each in recent if each.server == action.server and each.over is None]
    if status is not None and standing:
        return _renewed(status, standing, action, view.now)
    base = status if status is not None else status_after(view, None)
    kept = tuple(each for each in base.disruptions if each.at > view.now - REMEMBERED)
    new = Disruption(server=action.server, at=view.now, by=action.by, reason=action.reason)
    return base.model_copy(update={"disruptions": (*kept, new)})


def _renewed(
    status: FleetStatus, standing: Sequence[Disruption], action: TakeOut | BringUpToDate, now: datetime
) -> FleetStatus | None:
    """Return the status with these disruptions begun again now; None when that is the same moment."""
    for_good = action.by != ROLLOUT and any(each.by == ROLLOUT for each in standing)
    if all(each.at >= now - SAME_FOR for each in standing) and not for_good:
        return None
    update = {"at": now} | ({"by": action.by, "reason": action.reason} if for_good else {})
    disruptions = (each.model_copy(update=update) if each in standing else each for each in status.disruptions)
    return status.model_copy(update={"disruptions": tuple(disruptions)})


def recorded(view: View, status: FleetStatus | None, action: TakeOut, said: Announcement) -> FleetStatus | None:
    """Return the status with this disruption in it, and with what is to be said of it; None when not allowed. Pure."""
    if budget_refusal(view, status, action.server) is not None:
        return None
    with_it = charged(view, status, action) or status
    return to_announce(with_it, said) if with_it is not None else None


def happened(view: View, said: Announced) -> bool:
    """Whether that was done which is to be announced: a server that was taken out does not stay. Pure."""
    return not isinstance(said, ServerReplaced) or said.server not in view.staying


def refused(
    view: View, status: FleetStatus | None, request: Request, reason: str, said: Announcement
) -> FleetStatus | None:
    """Return the status with this refusal in it, and with what is to be said of it; None when it is there. Pure."""
    base = status if status is not None else status_after(view, None)
    if any(each.request == request.id for each in base.refusals):
        return None
    kept = tuple(each for each in base.refusals if each.at > view.now - REMEMBERED)
    new = Refusal(
        request=request.id, type=request.type, server=request.server, by=request.by, at=view.now, reason=reason
    )
    return to_announce(base.model_copy(update={"refusals": (*kept, new)}), said)


def _recent(status: FleetStatus | None, now: datetime) -> tuple[Disruption, ...]:
    return status.within_hour(now) if status is not None else ()


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)[:20])
