"""Which servers in service are brought to the releases that are set, and when that stops. Pure: no I/O, no clock.

A rollout is told by the settings it carries out: setting a release with a rollout makes another one. Servers are first
reserved, then granted once the disruption budget allows it, and stay taken until they are members again or gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.reconciler.decide import ROLLOUT, View
from shared.components import Standings
from shared.records import FleetStatus, Launch, Rollout, Taken, Update, Updated

BAD = ("undone", "failed")
"""Results of an update that count as failures."""


@dataclass(frozen=True)
class Scene:
    """A fleet with all that its rollout depends on."""

    view: View
    standings: Standings
    launches: Mapping[str, Launch]
    """How each server in service was launched, and what it runs now; those that nobody wrote down are left alone."""
    updates: Mapping[str, Update]
    """The latest update of each server that is taken."""
    members: frozenset[str]

    @property
    def settings(self) -> dict[str, int]:
        """The settings that servers in service are to follow."""
        current = {name: each.current for name, each in self.standings.items()}
        return {name: each.generation for name, each in current.items() if each is not None and each.rollout}

    @property
    def goal(self) -> dict[str, str]:
        """The releases that servers in service are to run, of the components that have a rollout."""
        return {name: chosen for name in self.settings if (chosen := self.standings[name].chosen) is not None}

    @property
    def behind(self) -> frozenset[str]:
        """Servers in service, not sick, that run something else."""
        return frozenset(
            server
            for server in self.view.staying - self.view.sick
            if (launch := self.launches.get(server)) is not None and launch.result == "ready"
            if any(launch.releases.get(name) != version for name, version in self.goal.items())
        )

    def update_of(self, taken: Taken) -> Update | None:
        """Return the update that this server was taken for, once it has begun."""
        update = self.updates.get(taken.server)
        return update if update is not None and update.rollout == taken.rollout else None


def rolled(scene: Scene, old: Rollout | None) -> Rollout | None:
    """Return the rollout as it should be now; None: there is none, and never was. Pure."""
    if not scene.settings and old is None:
        return None
    begun = old if old is not None and old.settings == scene.settings else _begun(scene, old)
    settled = _settled(scene, begun)
    stop = _stop(scene, settled)
    if settled.state == "stopped" or stop is not None:
        kept = tuple(each for each in settled.taken if each.granted is not None)
        return settled.model_copy(update={"state": "stopped", "why": stop or settled.why, "taken": kept})
    return _going_on(scene, settled)


def closed(scene: Scene, rollout: Rollout, status: FleetStatus | None) -> FleetStatus | None:
    """Return the status in which no server that is back counts as taken out by a rollout; None: it is so. Pure."""
    if status is None:
        return None
    back = scene.view.staying - {each.server for each in rollout.taken if each.granted is not None}
    disruptions = tuple(
        each.model_copy(update={"over": scene.view.now})
        if each.by == ROLLOUT and each.over is None and each.server in back
        else each
        for each in status.disruptions
    )
    return None if disruptions == status.disruptions else status.model_copy(update={"disruptions": disruptions})


def granted(rollout: Rollout | None, server: str, scene: Scene) -> Rollout | None:
    """Return the rollout with the server granted; None when it is not waiting for that any more. Pure."""
    if rollout is None or rollout.state != "running":
        return None
    waiting = [each for each in rollout.taken if each.server == server and each.granted is None]
    if not waiting:
        return None
    now = scene.view.now
    taken = tuple(each.model_copy(update={"granted": now}) if each in waiting else each for each in rollout.taken)
    return rollout.model_copy(update={"taken": taken})


def failure(scene: Scene, rollout: Rollout) -> Update | None:
    """Return an update of this rollout that failed and is still there to be read, if any. Pure."""
    found = scene.updates.values()
    return next((each for each in found if each.rollout == rollout.number and each.result in BAD), None)


def _begun(scene: Scene, old: Rollout | None) -> Rollout:
    """Begin the rollout of these settings; servers that are on their way for the one before are waited for."""
    currents = [scene.standings[name].current for name in scene.settings]
    newest = max((each for each in currents if each is not None), key=lambda each: each.since, default=None)
    number = old.number + 1 if old else 1
    base = old or Rollout(fleet=scene.view.fleet.fleet, number=number, began=scene.view.now, by="")
    return base.model_copy(
        update={
            "number": number,
            "settings": scene.settings,
            "releases": {each.component: each.version for each in currents if each is not None},
            "began": scene.view.now,
            "by": newest.by if newest else "",
            "reason": newest.reason if newest else "",
            "state": "running",
            "why": "",
            "taken": tuple(each for each in (old.taken if old else ()) if each.granted is not None),
            "ended": (),
        }
    )


def _settled(scene: Scene, rollout: Rollout) -> Rollout:
    """Let go of servers that are back or gone, and of reservations that nobody needs any more."""
    kept: list[Taken] = []
    ended = list(rollout.ended)
    for taken in rollout.taken:
        update = scene.update_of(taken)
        here = taken.server in scene.view.staying
        if taken.granted is None:
            kept.extend([taken] if here and taken.server in scene.behind else [])
        elif here and not _back(scene, taken, update):
            kept.append(taken)
        else:
            ended.extend([_end(scene, taken, update)] if taken.rollout == rollout.number else [])
    return rollout.model_copy(update={"taken": tuple(kept), "ended": tuple(ended)})


def _back(scene: Scene, taken: Taken, update: Update | None) -> bool:
    """Whether the server serves again: its update ended well enough, and it is on the list."""
    over = update is not None and update.result in ("updated", "undone", "left")
    return over and (taken.server in scene.members or not scene.view.fleet.policies.rollout.drain)


def _end(scene: Scene, taken: Taken, update: Update | None) -> Updated:
    if update is None or update.result == "running":
        reason = "it left the fleet before it was brought up to date"
        return Updated(server=taken.server, result="left", at=scene.view.now, reason=reason)
    return Updated(server=taken.server, result=update.result, at=scene.view.now, step=update.step, reason=update.reason)


def _stop(scene: Scene, rollout: Rollout) -> str | None:
    """Say why the rollout may not go on, if so."""
    on_the_way = [update for each in rollout.taken if (update := scene.update_of(each)) is not None]
    failed = {each.server: each.reason for each in rollout.ended if each.result in BAD}
    failed |= {each.server: each.reason for each in on_the_way if each.rollout == rollout.number and each.result in BAD}
    broken = [each.broken for name in scene.settings if (each := scene.standings[name]).broken is not None]
    if len(failed) >= scene.view.fleet.policies.rollout.failures:
        server, reason = next(iter(failed.items()))
        return f"{len(failed)} failed: {server}: {reason}"
    if broken and broken[0] is not None:
        return f"release {broken[0].version} is broken for this fleet: {broken[0].reason}"
    return None


def _going_on(scene: Scene, rollout: Rollout) -> Rollout:
    """Reserve the next servers; with none behind and none on the way it is done."""
    taken = {each.server for each in rollout.taken}
    failed = {each.server for each in rollout.ended if each.result in BAD}
    waiting = sorted(scene.behind - taken - failed)
    if not waiting and not taken:
        why = f"done, but {', '.join(sorted(failed))} failed" if failed else "every server in service runs it"
        return rollout.model_copy(update={"state": "stopped" if failed else "done", "why": why})
    room = max(0, scene.view.fleet.policies.rollout.at_once - len(taken))
    more = tuple(Taken(server=server, rollout=rollout.number) for server in waiting[:room])
    return rollout.model_copy(update={"state": "running", "why": "", "taken": (*rollout.taken, *more)})
