"""Observe everything that may need an image, decide, and look once more before each destructive call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from services.janitor import decide
from services.janitor.decide import STOP_CAUSES, Action, Quarantine, Reap, Release, Retire, Stop, View
from services.janitor.expiry import Records, expired
from shared.alerts import Alerts
from shared.audit import Audits
from shared.clock import Clock
from shared.cloud import Group, GroupsPort, Incomplete, Instance, PublisherPort, ServersPort
from shared.documents import Documents
from shared.events import Incoming
from shared.fleets import Fleets
from shared.hints import request_command
from shared.ids import FLEET_TAG, MANAGED_TAG, QUARANTINE_TAG
from shared.messages import BuilderReaped, ImageRetired, ImageRetirementRequested, Tick
from shared.names import ServiceName
from shared.outbox import Outbox, to_announce
from shared.outcome import Done, Outcome, Reject
from shared.records import (
    Announced,
    Bake,
    Baking,
    Launch,
    Pause,
    Pointer,
    Removals,
    Update,
    audit_prefix,
    bakes_prefix,
    baking_key,
    history_key,
    pause_key,
    pointer_key,
    removals_key,
    runs_prefix,
    servers_prefix,
    updates_prefix,
)
from shared.sweeps import Looked, Sweeps

SERVICE: ServiceName = "janitor"

VIEW_GOOD_FOR_S = 60
"""A process that was stopped and goes on must not act on what it saw before."""


class Janitor:
    """Keeps the backlog of images, and the records of what happened, and no more than that."""

    def __init__(
        self,
        *,
        groups: GroupsPort,
        servers: ServersPort,
        publisher: PublisherPort,
        clock: Clock,
        documents: Documents,
        fleets: Fleets,
        alerts: Alerts,
    ) -> None:
        self._groups = groups
        self._servers = servers
        self._clock = clock
        self._documents = documents
        self._fleets = fleets
        self._alerts = alerts
        self._audits = Audits(documents, clock, SERVICE)
        self._outbox = Outbox(documents, publisher, clock)
        self._sweeps = Sweeps(alerts, fleets, SERVICE)

    async def handle(self, incoming: Incoming) -> Outcome:
        """Act on a tick, or on a person's word that all that is due may go.

        Raises:
            UnknownFleet: it names a fleet that nobody described.
            CorruptDocument: nothing was done about that fleet.
            CloudError: doing it again is harmless.
        """
        match incoming:
            case Tick():
                return await self._sweeps.some(incoming.fleet, self._clean)
            case ImageRetirementRequested():
                late = decide.too_late(incoming, self._clock.now())
                return Reject(late) if late else await self._sweeps.one(incoming.fleet, self._approve)
        return Done(f"{type(incoming).__name__} asks nothing of the janitor")

    async def _approve(self, fleet: str) -> Looked:
        """Remember that what is due may go, however much it is, and see to it."""
        view = await self._observe(fleet)
        wrong = decide.incomplete(view)
        if wrong is not None:
            raise Incomplete(wrong)
        images = tuple(image.image for image in decide.due(view, decide.kept(view)))
        written = await self._documents.change(Removals, removals_key(fleet), partial(_approved, fleet, images))
        return await self._see_to(replace(view, removals=written.document))

    async def _clean(self, fleet: str) -> Looked:
        return await self._see_to(await self._observe(fleet))

    async def _see_to(self, view: View) -> Looked:
        fleet = view.fleet.fleet
        actions = decide.clean(view)
        if isinstance(actions, Stop):
            await self._alerts.raise_alert(fleet, actions.cause, actions.reason, _advice(fleet, actions))
            return Looked(f"nothing was touched: {actions.reason}", frozenset(STOP_CAUSES) - {actions.cause})
        await self._announce(view.removals, partial(decide.happened, view))
        told = [await self._act(fleet, action) for action in actions]
        told += await self._expire(view)
        return Looked("; ".join(told) or "nothing is due", frozenset(STOP_CAUSES))

    async def _act(self, fleet: str, action: Action) -> str:
        match action:
            case Quarantine():
                await self._servers.tag(action.image, {QUARANTINE_TAG: self._clock.now().isoformat()})
                return f"{action.image} is set aside"
            case Release():
                await self._servers.tag(action.image, {QUARANTINE_TAG: ""})
                return f"{action.image} stays: {action.reason}"
            case Retire() | Reap():
                return await self._destroy(fleet, action)

    async def _expire(self, view: View) -> list[str]:
        """Delete old records, each after its runs: what is cut off is due again."""
        fleet = view.fleet.fleet
        due = expired(view, await self._records(view))
        if due is None:
            return []
        await self._audits.write(fleet, "expire-records", fleet, SERVICE, due.reason)
        for owner in due.owners:
            await self._documents.delete_all(await self._documents.keys(runs_prefix(fleet, owner)))
        await self._documents.delete_all(due.keys)
        return [f"records are deleted: {due.reason}"]

    async def _records(self, view: View) -> Records:
        """Read the records of servers that are gone; those of the others stay whatever they say."""
        fleet, there = view.fleet.fleet, {each.server for each in view.instances}
        return Records(
            launches=await self._documents.all(Launch, servers_prefix(fleet), besides=there),
            updates=await self._documents.all(Update, updates_prefix(fleet), besides=there),
            latest=await self._documents.get(Baking, baking_key(fleet)),
            audits=await self._documents.keys(audit_prefix(fleet)),
        )

    async def _destroy(self, fleet: str, action: Retire | Reap) -> str:
        target = action.image.image if isinstance(action, Retire) else action.server
        looked = self._clock.monotonic()
        if not await self._still_due(fleet, action):
            return f"{target} stays: it was due a moment ago and is not any more"
        what = "retire-image" if isinstance(action, Retire) else "reap-builder"
        await self._audits.write(fleet, what, target, SERVICE, action.reason)
        if self._clock.monotonic() - looked > VIEW_GOOD_FOR_S:
            return f"{target} stays for now: what was observed is too old to act on"
        await self._carry_out(fleet, action)
        return f"{target}: {what}: {action.reason}"

    async def _still_due(self, fleet: str, action: Retire | Reap) -> bool:
        actions = decide.clean(await self._observe(fleet))
        return not isinstance(actions, Stop) and action in actions

    async def _carry_out(self, fleet: str, action: Retire | Reap) -> None:
        said = self._outbox.announcement(self._said(fleet, action))
        written = await self._documents.change(
            Removals, removals_key(fleet), lambda old: to_announce(old or Removals(fleet=fleet), said)
        )
        if isinstance(action, Retire):
            await self._servers.deregister(action.image)
        else:
            await self._servers.terminate(action.server)
        await self._announce(written.document, lambda each: each.id == said.message.id)

    def _said(self, fleet: str, action: Retire | Reap) -> ImageRetired | BuilderReaped:
        now = self._clock.now()
        if isinstance(action, Retire):
            image = action.image.image
            return ImageRetired(id=f"retired-{image}", time=now, source=SERVICE, fleet=fleet, image=image)
        server = action.server
        return BuilderReaped(id=f"reaped-{server}", time=now, source=SERVICE, fleet=fleet, server=server)

    async def _announce(self, removals: Removals | None, happened: Callable[[Announced], bool]) -> None:
        if removals is not None:
            await self._outbox.publish(Removals, removals_key(removals.fleet), removals.outbox, happened)

    async def _observe(self, name: str) -> View:
        fleet = await self._fleets.get(name)
        # What refers to images is read after the images: a new reference to one of them is seen.
        images = await self._servers.images(name)
        group = await self._groups.describe(name)
        bakes = await self._documents.all(Bake, bakes_prefix(name))
        return View(
            fleet=fleet,
            images=images,
            pointer=await self._documents.get(Pointer, pointer_key(name)),
            history=await self._documents.all(Pointer, history_key(name, 0).removesuffix("00000000.json")),
            bakes={bake.bake: bake for bake in bakes},
            templates=await self._servers.templates(name),
            group=group,
            instances=await self._instances(name, group),
            pause=await self._documents.get(Pause, pause_key(name)),
            now=self._clock.now(),
            removals=await self._documents.get(Removals, removals_key(name)),
        )

    async def _instances(self, fleet: str, group: Group) -> Sequence[Instance]:
        tagged = await self._servers.tagged({MANAGED_TAG: "true", FLEET_TAG: fleet})
        members = await self._servers.instances([member.server for member in group.members])
        return list({**{each.server: each for each in tagged}, **members}.values())


def _approved(fleet: str, images: tuple[str, ...], old: Removals | None) -> Removals:
    return (old or Removals(fleet=fleet)).model_copy(update={"approved": images})


def _advice(fleet: str, stop: Stop) -> str:
    """Return the command that shows the images, and where they may be right to go the one that lets them."""
    see = f"aws ec2 describe-images --owners self --filters Name=tag:{FLEET_TAG},Values={fleet}"
    if stop.cause != decide.HELD:
        return see
    return f"{see}  # and if they may go: {request_command(fleet, 'image.retirement.requested')}"
