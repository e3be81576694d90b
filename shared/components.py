"""A fleet's components: which release of each it runs, which did before, and what is known of them.

Each has a pointer of its own with a history, and a verdict: the last release that went well (``good``), and whether the
one that is set is broken for this fleet. Launches and bakes use ``chosen``: the release that is set, or the last good
one while that is broken. Setting a release anew, the same or another, gives it another chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from shared import releases
from shared.alerts import LOG_TAIL_LIMIT, REASON_LIMIT, Alerts
from shared.clock import Clock
from shared.cloud import ObjectsPort, PublisherPort
from shared.documents import Documents
from shared.fleet import Fleet
from shared.fleets import Fleets
from shared.messages import ReleaseSet
from shared.records import (
    Broken,
    Release,
    Rollout,
    Verdict,
    current_release_key,
    release_history_key,
    rollout_key,
    verdict_key,
)

NEVER = "no release before this one was set"


class CannotSet(Exception):
    """A release cannot be set; the message is one sentence for whoever asked."""


@dataclass(frozen=True)
class Standing:
    """How a component stands in a fleet. ``current`` is None when no release was ever set."""

    component: str
    current: Release | None = None
    verdict: Verdict | None = None

    @property
    def good(self) -> str | None:
        """The last release that went well."""
        return self.verdict.good if self.verdict else None

    @property
    def broken(self) -> Broken | None:
        """Why the release that is set counts as broken, if so."""
        found = self.verdict.broken if self.verdict else None
        if found is None or self.current is None:
            return None
        return found if (found.version, found.setting) == (self.current.version, self.current.generation) else None

    @property
    def chosen(self) -> str | None:
        """The release to launch and bake with."""
        if self.current is None:
            return None
        return self.good or self.current.version if self.broken else self.current.version


Standings = Mapping[str, Standing]


def chosen(standings: Standings) -> dict[str, str]:
    """Return the releases to plan with; a component that none was set for is missing. Pure."""
    return {name: each.chosen for name, each in standings.items() if each.chosen is not None}


class Components:
    """Reads and writes how components stand. All calls raise CorruptDocument and CloudError, and may be repeated."""

    def __init__(self, objects: ObjectsPort, publisher: PublisherPort, clock: Clock) -> None:
        self._objects = objects
        self._documents = Documents(objects)
        self._fleets = Fleets(objects)
        self._alerts = Alerts(self._documents, publisher, clock)
        self._publisher = publisher
        self._clock = clock

    async def standings(self, fleet: Fleet) -> dict[str, Standing]:
        """Return how each of the fleet's components stands."""
        return {component: await self.standing(fleet.fleet, component) for component in fleet.components}

    async def standing(self, fleet: str, component: str) -> Standing:
        """Return how a component stands in a fleet."""
        current = await self._documents.get(Release, current_release_key(fleet, component))
        verdict = await self._documents.get(Verdict, verdict_key(fleet, component))
        return Standing(component, current, verdict)

    async def history(self, fleet: str, component: str) -> list[Release]:
        """Return every setting of a component's release, newest first."""
        prefix = release_history_key(fleet, component, 0).rsplit("/", 1)[0] + "/"
        found = await self._documents.all(Release, prefix)
        return sorted(found, key=lambda each: each.generation, reverse=True)

    async def set(
        self,
        fleet: str,
        component: str,
        version: str,
        *,
        by: str,
        reason: str = "",
        rollout: bool | None = None,
        asked: datetime | None = None,
    ) -> tuple[Release, bool]:
        """Make a release the one that the fleet runs; return the pointer, and whether this changed it.

        ``rollout`` is whether servers in service follow; None: as the fleet's policy says. ``asked`` is when it was
        asked for, where that was before now: what was asked for later stays.

        Raises:
            UnknownFleet: nobody described the fleet.
            CannotSet: the fleet has no such component, or there is no such release.
        """
        described = await self.check(fleet, component, version)
        follow = described.policies.rollout.automatic if rollout is None else rollout
        return await self.point(fleet, component, version, by=by, reason=reason, rollout=follow, asked=asked)

    async def point(
        self,
        fleet: str,
        component: str,
        version: str,
        *,
        by: str,
        reason: str = "",
        rollout: bool = False,
        asked: datetime | None = None,
    ) -> tuple[Release, bool]:
        """Write the pointer; the caller makes sure that fleet, component and release exist, or soon will."""
        new = Release(
            component=component,
            version=version,
            since=self._clock.now(),
            by=by,
            reason=reason,
            rollout=rollout,
            asked=asked,
        )
        standing = await self.standing(fleet, component)
        anew = standing.broken is not None or (rollout and await self._stopped(fleet, standing))
        return await self._write(fleet, component, lambda old: setting(new, old, anew=anew))

    async def _stopped(self, fleet: str, standing: Standing) -> bool:
        """Whether the rollout of the present setting has stopped."""
        found = await self._documents.get(Rollout, rollout_key(fleet))
        setting_now = standing.current.generation if standing.current else 0
        return found is not None and found.state == "stopped" and found.settings.get(standing.component) == setting_now

    async def undo(
        self,
        fleet: str,
        component: str,
        *,
        by: str,
        reason: str = "",
        rollout: bool | None = None,
        asked: datetime | None = None,
    ) -> tuple[Release, bool]:
        """Go back to the release that was set before the present one; return the pointer, and whether it moved.

        Raises:
            UnknownFleet: nobody described the fleet.
            CannotSet: there is no such component, or no release before.
        """
        await self._fleets.get(fleet)
        present = (await self.standing(fleet, component)).current
        if present is None or present.previous is None:
            raise CannotSet(f"fleet {fleet} cannot go back to an earlier release of {component}: {NEVER}")
        described = await self.check(fleet, component, present.previous)
        new = Release(
            component=component,
            version=present.previous,
            since=self._clock.now(),
            by=by,
            reason=reason or f"back from {present.version}",
            rollout=described.policies.rollout.automatic if rollout is None else rollout,
            undo=True,
            asked=asked,
        )
        seen = present.generation
        return await self._write(fleet, component, lambda old: new if old and old.generation == seen else None)

    async def tell(self, fleet: str, component: str) -> None:
        """Keep the present setting in the history, say that it was set, and clear what stood against another."""
        standing = await self.standing(fleet, component)
        current = standing.current
        if current is None:
            return
        await self._documents.create(release_history_key(fleet, component, current.generation), current)
        await self._publisher.publish(
            ReleaseSet(
                id=f"set-{current.write_id}",
                time=self._clock.now(),
                fleet=fleet,
                component=component,
                version=current.version,
                previous=current.previous,
                setting=current.generation,
                rollout=current.rollout,
                by=current.by,
                reason=current.reason,
            )
        )
        if standing.broken is None:
            await self._alerts.clear(fleet, alert_cause(component))

    async def prove(self, fleet: str, versions: Mapping[str, str], proof: str) -> None:
        """Write down that all went well with these releases. ``proof`` names the launch, bake or update.

        Counted are the releases that are set now: one that was overtaken meanwhile says nothing of today.
        """
        for component, version in versions.items():
            standing = await self.standing(fleet, component)
            now = self._clock.now()
            new = Verdict(component=component, good=version, good_since=now, proof=proof)
            await self._documents.change(Verdict, verdict_key(fleet, component), _proven(standing, new))
            if standing.current and standing.current.version == version and standing.broken is None:
                await self._alerts.clear(fleet, alert_cause(component))

    async def condemn(self, fleet: str, component: str, broken: Broken, good: str) -> None:
        """Write down that a release is broken for the fleet, ``good`` having gone well in its place, and say so once.

        A release that was set anew since, the same or another, is not touched.
        """
        standing = await self.standing(fleet, component)
        current = standing.current
        if current is None or (current.version, current.generation) != (broken.version, broken.setting):
            return
        if standing.broken is None:
            empty = Verdict(component=component)
            await self._documents.change(
                Verdict,
                verdict_key(fleet, component),
                lambda old: (old or empty).model_copy(
                    update={"broken": broken, "good": (old.good if old else None) or good}
                ),
            )
        await self._alerts.raise_alert(
            fleet,
            alert_cause(component),
            f"release {broken.version} of {component} is broken for fleet {fleet}, which goes on with {good}: "
            f"{broken.reason}",
            back_command(fleet, component, good, broken.version),
            step=broken.step,
            log_tail=broken.log_tail,
        )

    async def check(self, fleet: str, component: str, version: str) -> Fleet:
        """Return the fleet, if this release can be set for it.

        Raises:
            UnknownFleet, CannotSet: it can not.
        """
        described = await self._fleets.get(fleet)
        if component not in described.components:
            known = ", ".join(described.components) or "none"
            raise CannotSet(f"fleet {fleet} has no component {component!r}; it has {known}")
        published = await releases.versions(self._objects, component)
        if version not in published:
            there = ", ".join(published[-20:]) or "none"
            raise CannotSet(f"there is no release {version} of {component}; published are {there}")
        return described

    async def _write(
        self, fleet: str, component: str, decide: Callable[[Release | None], Release | None]
    ) -> tuple[Release, bool]:
        """Write the pointer on condition; the one before is in the history first, should whoever wrote it have died."""
        key = current_release_key(fleet, component)
        before = await self._documents.get(Release, key)
        if before is not None:
            await self._documents.create(release_history_key(fleet, component, before.generation), before)
        written = await self._documents.change(Release, key, lambda old: _after(old, decide(old)))
        assert written.document is not None, "a release that is set is there"
        await self.tell(fleet, component)
        return written.document, written.changed


def setting(new: Release, old: Release | None, *, anew: bool) -> Release | None:
    """Return what setting a release writes; None where it is so already. Pure.

    ``anew``: the present one counts as broken, or its rollout has stopped, so setting it again is another try. The
    same release set with a rollout, where it was set without, begins one.
    """
    same = old is not None and old.version == new.version
    if old is not None and same and not anew and (old.rollout or not new.rollout):
        return None
    return new


def alert_cause(component: str) -> str:
    """Return the cause of the alert that stands while a component's release is broken. Pure."""
    return f"release-{component}"


def back_command(fleet: str, component: str, to: str, back_from: str) -> str:
    """Return the command that goes back to a release for good. Pure."""
    return (
        f"python -m ops release set --fleet {fleet} --component {component} --version {to}"
        f"  # back from {back_from}; or mend it, publish a new version and set that"
    )


def shortened(broken: Broken) -> Broken:
    """Return it with reason and log tail as short as messages and documents want them. Pure."""
    return broken.model_copy(
        update={"reason": broken.reason[:REASON_LIMIT], "log_tail": broken.log_tail[-LOG_TAIL_LIMIT:]}
    )


def _after(old: Release | None, new: Release | None) -> Release | None:
    """Return the new pointer with the release before it: another one than its own, if there ever was. Pure.

    What was asked for later stays: requests come in any order. What was not asked for at another time is asked for now,
    which no clock may put before what it replaces.
    """
    if new is None:
        return None
    if old is None:
        return new.model_copy(update={"asked": new.newest})
    if new.asked is not None and old.newest > new.asked:
        return None
    previous = old.previous if old.version == new.version else old.version
    return new.model_copy(update={"previous": previous, "asked": new.asked or max(new.since, old.newest)})


def _proven(standing: Standing, new: Verdict) -> Callable[[Verdict | None], Verdict | None]:
    counts = standing.current is not None and standing.current.version == new.good

    def decide(old: Verdict | None) -> Verdict | None:
        if old is None:
            return new
        known_broken = standing.broken is not None and standing.broken.version == new.good
        if old.good == new.good or known_broken or not (counts or old.good is None):
            return None
        return old.model_copy(update={"good": new.good, "good_since": new.good_since, "proof": new.proof})

    return decide
