"""Who is on what, and why: what ``rollout show`` and ``explain`` tell."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from shared import pauses
from shared.aws import Cloud
from shared.clock import Clock
from shared.cloud import Group
from shared.components import Components, Standing
from shared.documents import Documents
from shared.fleet import Fleet
from shared.fleets import Fleets
from shared.hints import show_command
from shared.records import (
    Alarm,
    FleetStatus,
    Launch,
    Membership,
    Pause,
    Pointer,
    Rollout,
    Taken,
    Update,
    alert_key,
    launch_key,
    membership_key,
    pause_key,
    pointer_key,
    rollout_key,
    status_key,
    update_key,
)


@dataclass(frozen=True)
class OnServer:
    """One server of a fleet: what it runs, and how it stands in the rollout."""

    server: str
    state: str
    image: str
    releases: dict[str, str]
    rollout: str
    """One of current, waiting, reserved, draining, in progress, failed, launching, leaving, unknown."""
    reason: str = ""


@dataclass(frozen=True)
class View:
    """A fleet's rollout, and all of its servers. ``number`` is 0 while nothing was ever rolled out."""

    fleet: str
    number: int
    state: str
    why: str
    releases: dict[str, str]
    servers: list[OnServer]

    def as_dict(self) -> dict[str, object]:
        """Return it for ``-o json``."""
        return asdict(self)


async def show(cloud: Cloud, name: str) -> View:
    """Return who is on what.

    Raises:
        UnknownFleet: nobody described the fleet.
        NotFound: it has no group yet.
    """
    fleet = await Fleets(cloud.objects).get(name)
    documents = Documents(cloud.objects)
    rollout = await documents.get(Rollout, rollout_key(name))
    listed = await documents.get(Membership, membership_key(name))
    group = await cloud.groups.describe(name)
    servers = [
        _on_server(
            member.server,
            member.state,
            rollout,
            await documents.get(Launch, launch_key(name, member.server)),
            await documents.get(Update, update_key(name, member.server)),
            listed,
        )
        for member in group.members
    ]
    settings = rollout.releases if rollout else {}
    state = rollout.state if rollout else "none"
    return View(fleet.fleet, rollout.number if rollout else 0, state, rollout.why if rollout else "", settings, servers)


def _on_server(
    server: str,
    state: str,
    rollout: Rollout | None,
    launch: Launch | None,
    update: Update | None,
    listed: Membership | None,
) -> OnServer:
    releases = dict(launch.releases) if launch else {}
    stands, reason = _stands(server, state, rollout, launch, update, listed)
    return OnServer(server, state, launch.image if launch else "", releases, stands, reason)


def _stands(
    server: str,
    state: str,
    rollout: Rollout | None,
    launch: Launch | None,
    update: Update | None,
    listed: Membership | None,
) -> tuple[str, str]:
    """Return how a server stands in the rollout, and why. Pure."""
    if launch is None:
        return "unknown", "nobody wrote down how it was launched"
    if launch.result == "running" or state != "InService":
        return "launching" if launch.result == "running" else "leaving", ""
    taken = next((each for each in rollout.taken if each.server == server), None) if rollout else None
    if taken is not None:
        return _taken(taken, update, listed)
    ended = next((each for each in rollout.ended if each.server == server), None) if rollout else None
    if ended is not None and ended.result in {"undone", "failed"}:
        return "failed", ended.reason
    behind = rollout is not None and any(launch.releases.get(name) != each for name, each in rollout.releases.items())
    return ("waiting" if behind else "current"), ""


def _taken(taken: Taken, update: Update | None, listed: Membership | None) -> tuple[str, str]:
    """Return how a server stands that the rollout has taken, and why. Pure."""
    if taken.granted is None:
        return "reserved", "it waits for the disruption budget"
    if update is not None and update.rollout == taken.rollout and update.attempts:
        return ("failed" if update.result == "failed" else "in progress"), update.reason
    away = listed is not None and any(each.server == taken.server for each in listed.leaving)
    return ("draining" if away else "reserved"), "it is led out of traffic"


async def explain(cloud: Cloud, components: Components, clock: Clock, name: str) -> dict[str, Any]:
    """Return why a fleet is as it is: strength, image, components, rollout, pauses, alerts, budget, refusals.

    Raises:
        UnknownFleet: nobody described the fleet.
        NotFound: it has no group yet.
    """
    fleet = await Fleets(cloud.objects).get(name)
    documents = Documents(cloud.objects)
    status = await documents.get(FleetStatus, status_key(name))
    pointer = await documents.get(Pointer, pointer_key(name))
    rollout = await documents.get(Rollout, rollout_key(name))
    pause = await documents.get(Pause, pause_key(name))
    group = await cloud.groups.describe(name)
    standings = await components.standings(fleet)
    return {
        "fleet": name,
        "strength": _strength(group, status),
        "image": _image(fleet, pointer),
        "components": [_component(each) for each in standings.values()],
        "rollout": {"state": rollout.state, "number": rollout.number, "why": rollout.why} if rollout else None,
        "paused": pauses.sentence(pause) if pause and pauses.stands(pause, clock.now()) else "",
        "alerts": await _alerts(documents, name),
        "budget": _budget(fleet, status, clock.now()),
        "refused": [
            f"{each.type} of {each.server} by {each.by} at {each.at:%Y-%m-%d %H:%M:%S}: {each.reason}"
            for each in (status.refusals if status else ())
        ],
    }


def _strength(group: Group, status: FleetStatus | None) -> dict[str, object]:
    serving = sum(member.in_service for member in group.members)
    known = {"healthy": status.healthy, "state": status.state} if status else {"healthy": None, "state": "unknown"}
    return {"wanted": group.desired, "in_service": serving, **known}


def _image(fleet: Fleet, pointer: Pointer | None) -> dict[str, object]:
    if pointer is None:
        return {"image": fleet.stock, "why": "no image was promoted yet: launches use the stock image"}
    why = f"since {pointer.since:%Y-%m-%d %H:%M:%S} UTC by {pointer.by}: {pointer.reason}"
    return {"image": pointer.image, "bake": pointer.bake, "why": why, "pinned": pointer.pin is not None}


def _component(standing: Standing) -> dict[str, object]:
    now = standing.current
    broken = standing.broken
    return {
        "component": standing.component,
        "current": now.version if now else None,
        "set_by": now.by if now else "",
        "since": f"{now.since:%Y-%m-%d %H:%M:%S}" if now else "",
        "reason": now.reason if now else "",
        "good": standing.good,
        "launches_use": standing.chosen,
        "broken": broken.reason if broken else "",
        "step": broken.step if broken else None,
    }


async def _alerts(documents: Documents, fleet: str) -> list[dict[str, object]]:
    """Return the alerts that stand, each with what to look at or type next."""
    return [
        {"cause": each.cause, "reason": each.reason, "next": each.next or show_command(alert_key(fleet, each.cause))}
        for each in await documents.all(Alarm, alert_key(fleet, "").removesuffix(".json"))
    ]


def _budget(fleet: Fleet, status: FleetStatus | None, now: datetime) -> dict[str, object]:
    """Return the policy, what is left of it, and the last servers that were taken out for good."""
    policy = fleet.policies.disruption
    hour = {each.server for each in status.within_hour(now)} if status else set()
    above = f"; {max(0, status.healthy - policy.floor)} healthy servers above the floor" if status else ""
    left = f"{max(0, policy.hourly - len(hour))} of {policy.hourly} within the hour{above}"
    taken = [each for each in status.disruptions if each.over is None] if status else []
    last = [f"{each.server} by {each.by} at {each.at:%H:%M:%S}: {each.reason}" for each in taken[-5:]]
    return {
        "floor": policy.floor,
        "unavailable": policy.unavailable,
        "hourly": policy.hourly,
        "left": left,
        "last": last,
    }


async def explain_server(cloud: Cloud, name: str, server: str) -> dict[str, Any]:
    """Return what is known of one server: image, releases, how it came, and what happened in its launch and update.

    Raises:
        UnknownFleet: nobody described the fleet.
    """
    await Fleets(cloud.objects).get(name)
    documents = Documents(cloud.objects)
    launch = await documents.get(Launch, launch_key(name, server))
    update = await documents.get(Update, update_key(name, server))
    instance = (await cloud.servers.instances([server])).get(server)
    attempts = [*(launch.attempts if launch else ()), *(update.attempts if update else ())]
    return {
        "server": server,
        "state": instance.state if instance else "unknown to EC2",
        "image": launch.image if launch else (instance.image if instance else None),
        "releases": dict(launch.releases) if launch else {},
        "launch": f"{launch.result}: {launch.reason}" if launch else "nobody wrote down how it was launched",
        "fell_back": [
            f"{each.component} {each.broken} failed in {each.step}; went on with {each.good}"
            for each in (launch.fallbacks if launch else ())
        ],
        "update": f"rollout {update.rollout}: {update.result}: {update.reason}" if update else "",
        "attempts": [
            {
                "attempt": each.attempt,
                "result": each.result,
                "step": each.step,
                "reason": each.reason,
                "steps": {step.step: f"{step.result} {step.seconds:.1f} s" for step in each.steps},
            }
            for each in attempts
        ],
    }
