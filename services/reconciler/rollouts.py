"""Brings servers in service to the releases that are set: reserves, grants within the budget, and stops at failures.

The plan itself is run by the provisioner, and traffic is led away and back by the registry; both are told by
``server.update.granted``, and look at ``rollout.json`` before they act.
"""

from __future__ import annotations

from services.reconciler import decide, rolling
from services.reconciler.decide import ROLLOUT, BringUpToDate, Refuse, View
from services.reconciler.rolling import Scene
from shared import pauses
from shared.alerts import Alerts
from shared.audit import Audits
from shared.clock import Clock
from shared.cloud import PublisherPort
from shared.components import Components
from shared.documents import Documents
from shared.messages import RolloutChanged, ServerUpdateGranted
from shared.names import ServiceName
from shared.records import (
    FleetStatus,
    Launch,
    Membership,
    Rollout,
    Taken,
    Update,
    membership_key,
    rollout_key,
    servers_prefix,
    status_key,
    update_key,
)
from shared.sweeps import Looked

SERVICE: ServiceName = "reconciler"
STOPPED, HELD = "rollout-stopped", "rollout-held"


class Rollouts:
    """Takes a fleet's rollout one look further. All calls raise CorruptDocument and CloudError, and may be repeated."""

    def __init__(
        self, documents: Documents, components: Components, publisher: PublisherPort, alerts: Alerts, clock: Clock
    ) -> None:
        self._documents = documents
        self._components = components
        self._publisher = publisher
        self._alerts = alerts
        self._audits = Audits(documents, clock, SERVICE)
        self._clock = clock

    async def runs(self, fleet: str) -> bool:
        """Whether a rollout of the fleet is under way."""
        rollout = await self._documents.get(Rollout, rollout_key(fleet))
        return rollout is not None and (rollout.state == "running" or bool(rollout.taken))

    async def updates(self, fleet: str) -> tuple[frozenset[str], frozenset[str]]:
        """Return the servers that are being brought up to date, and those of them for which that failed for good."""
        rollout = await self._documents.get(Rollout, rollout_key(fleet))
        taken = [each for each in rollout.taken if each.granted is not None] if rollout else []
        found = {each.server: (each, await self._update(fleet, each.server)) for each in taken}
        results = {
            server: update.result if update and update.rollout == each.rollout else "running"
            for server, (each, update) in found.items()
        }
        busy = frozenset(server for server, result in results.items() if result == "running")
        return busy, frozenset(server for server, result in results.items() if result == "failed")

    async def step(self, view: View, status: FleetStatus | None, good_until: float) -> Looked:
        """Look at the fleet's rollout: write down what changed, let go of who is back, grant what the budget allows.

        ``status`` was read a moment ago. Effects follow only up to ``good_until``, in the clock's monotonic time.
        """
        fleet = view.fleet.fleet
        before = await self._documents.get(Rollout, rollout_key(fleet))
        scene = await self._look(view, before)
        rollout = await self._write(scene, before)
        if rollout is None:
            return Looked("no rollout")
        await self._documents.amend(
            FleetStatus, status_key(fleet), status, lambda old: rolling.closed(scene, rollout, old)
        )
        stopped = await self._tell_stopped(scene, rollout)
        refusals = [await self._take(scene, each, good_until) for each in rollout.taken]
        held = await self._tell_held(fleet, [each for each in refusals if each is not None and not each.passing])
        over = frozenset(cause for cause, stands in ((STOPPED, stopped), (HELD, held)) if not stands)
        on_the_way = ", ".join(each.server for each in rollout.taken) or "nobody"
        return Looked(f"rollout {rollout.number} is {rollout.state}, {on_the_way} on the way", over)

    async def _look(self, view: View, rollout: Rollout | None) -> Scene:
        fleet = view.fleet.fleet
        standings = await self._components.standings(view.fleet)
        follow = any(each.current is not None and each.current.rollout for each in standings.values())
        launches = await self._documents.named(Launch, servers_prefix(fleet), view.staying) if follow else {}
        taken = [each.server for each in rollout.taken] if rollout else []
        listed = await self._documents.get(Membership, membership_key(fleet)) if taken else None
        failed = [each.server for each in rollout.ended if each.result in rolling.BAD] if rollout else []
        updates = {each: await self._update(fleet, each) for each in (*taken, *failed)}
        return Scene(
            view=view,
            standings=standings,
            launches=launches,
            updates={server: update for server, update in updates.items() if update is not None},
            members=frozenset(each.server for each in listed.members) if listed else frozenset(),
        )

    async def _update(self, fleet: str, server: str) -> Update | None:
        return await self._documents.get(Update, update_key(fleet, server))

    async def _write(self, scene: Scene, before: Rollout | None) -> Rollout | None:
        """Publish a change of state, then write it down: a crash in between says it twice rather than never."""
        after = rolling.rolled(scene, before)
        if after is None:
            return None
        if before is None or (before.number, before.state) != (after.number, after.state):
            await self._publisher.publish(
                RolloutChanged(
                    time=self._clock.now(),
                    source=SERVICE,
                    fleet=after.fleet,
                    rollout=after.number,
                    state=after.state,
                    reason=after.why[:2000],
                )
            )
        written = await self._documents.amend(
            Rollout, rollout_key(after.fleet), before, lambda old: rolling.rolled(scene, old)
        )
        return written.document

    async def _take(self, scene: Scene, taken: Taken, good_until: float) -> Refuse | None:
        """Grant a reserved server, and tell of a granted one until the provisioner has taken it up."""
        fleet = scene.view.fleet.fleet
        if taken.granted is None:
            refusal = await self._grant(scene, taken, good_until)
            if refusal is not None:
                return refusal
        if scene.update_of(taken) is None:
            await self._publisher.publish(
                ServerUpdateGranted(
                    id=f"update-{taken.server}-{taken.rollout}",
                    time=self._clock.now(),
                    source=SERVICE,
                    fleet=fleet,
                    server=taken.server,
                    rollout=taken.rollout,
                )
            )
        return None

    async def _grant(self, scene: Scene, taken: Taken, good_until: float) -> Refuse | None:
        """Charge the budget, and when that stands, write down that it was granted."""
        view, fleet = scene.view, scene.view.fleet.fleet
        action = BringUpToDate(taken.server, ROLLOUT, f"rollout {taken.rollout}")
        against = _held_back(view)
        if against is not None:
            return Refuse(against, passing=True)
        written = await self._documents.change(
            FleetStatus, status_key(fleet), lambda old: decide.charged(view, old, action)
        )
        refusal = decide.budget_refusal(view, written.document, taken.server)
        if refusal is not None:
            return refusal
        await self._audits.write(fleet, "update", taken.server, ROLLOUT, action.reason)
        if self._clock.monotonic() > good_until:
            return Refuse("what was observed is too old to act on", passing=True)
        changed = await self._documents.change(
            Rollout, rollout_key(fleet), lambda old: rolling.granted(old, taken.server, scene)
        )
        there = changed.document.taken if changed.document else ()
        if any(each.server == taken.server and each.granted is not None for each in there):
            return None
        return Refuse(f"{taken.server} is not waiting for an update any more", passing=True)

    async def _tell_stopped(self, scene: Scene, rollout: Rollout) -> bool:
        """Call a person for a rollout that stopped, unless the alert of a broken release has done so already.

        Return whether the alert is to stand.
        """
        blamed = any(each.broken is not None for each in scene.standings.values())
        if rollout.state != "stopped" or blamed:
            return False
        failed = rolling.failure(scene, rollout)
        await self._alerts.raise_alert(
            rollout.fleet,
            STOPPED,
            f"the rollout of {_releases(rollout)} stopped: {rollout.why}; the other servers are as they were",
            f"python -m ops rollout show {rollout.fleet}",
            step=failed.step if failed else None,
            log_tail=failed.log_tail if failed else "",
        )
        return True

    async def _tell_held(self, fleet: str, refused: list[Refuse]) -> bool:
        """Call a person for a rollout that waits; return whether the alert is to stand."""
        if refused:
            command = f"python -m ops explain {fleet}"
            await self._alerts.raise_alert(fleet, HELD, f"the rollout waits: {refused[0].reason}", command)
        return bool(refused)


def _held_back(view: View) -> str | None:
    """Say what forbids to take any server, if so. Pure."""
    held = decide.hold(view)
    if held is not None:
        return held.reason
    pause = pauses.of_automation(view.pause, view.now)
    return pauses.sentence(pause) if pause is not None else None


def _releases(rollout: Rollout) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(rollout.releases.items()))
