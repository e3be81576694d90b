"""Observe a fleet, decide, act. Every effect is recorded in ``status.json`` first, and may be repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.reconciler import decide
from services.reconciler.decide import AnnounceUnclaimed, EndQuarantine, Hold, Refuse, TakeOut, View
from services.reconciler.rollouts import Rollouts
from shared.alerts import Alerts
from shared.audit import Audits
from shared.clock import Clock
from shared.cloud import (
    AlarmsPort,
    Group,
    GroupsPort,
    HealthPort,
    Incomplete,
    Instance,
    LifecycleState,
    NotFound,
    PublisherPort,
    ServersPort,
)
from shared.coalescing import Coalescer
from shared.documents import Documents
from shared.events import AlarmChanged, Incoming, InstanceStateChanged
from shared.fleet import Fleet, Health
from shared.fleets import Fleets
from shared.hints import show_command
from shared.ids import FLEET_TAG, MANAGED_TAG, QUARANTINE_TAG
from shared.messages import (
    FleetConverged,
    FleetDegraded,
    LaunchUnclaimed,
    MembershipChanged,
    ReleaseSet,
    RequestRefused,
    ServerDisableRequested,
    ServerKillRequested,
    ServerReady,
    ServerReplaced,
    ServerUpdated,
    ServerUpdateFailed,
    Tick,
)
from shared.names import ServiceName
from shared.outbox import Outbox
from shared.outcome import Done, LookAgain, Outcome, Retry
from shared.records import Announced, FleetStatus, Pause, launch_key, pause_key, status_key
from shared.sweeps import Looked, Sweeps

SERVICE: ServiceName = "reconciler"

VIEW_GOOD_FOR_S = 60
"""A process that was stopped and goes on must not act on what it saw before."""

SETTLES_WITHIN_S = 120
"""A server whose hook was completed is in service within seconds; past this the sweep sees to it."""

GROUP_TAG = "aws:autoscaling:groupName"
"""Set by AWS on every instance of a group."""

GROUP_MISSING, REPAIR_HELD = "group-missing", "repair-held"

DYING = ("stopping", "stopped", "shutting-down", "terminated")


@dataclass(frozen=True)
class _Seen:
    """A view, and the monotonic moment up to which effects may follow from it: it counts from before the looking."""

    view: View
    good_until: float


class Reconciler:
    """Keeps fleets at strength, within their disruption budgets."""

    def __init__(
        self,
        *,
        groups: GroupsPort,
        servers: ServersPort,
        publisher: PublisherPort,
        alarms: AlarmsPort,
        health: HealthPort,
        clock: Clock,
        documents: Documents,
        fleets: Fleets,
        alerts: Alerts,
        rollouts: Rollouts,
    ) -> None:
        self._groups = groups
        self._servers = servers
        self._publisher = publisher
        self._alarms = alarms
        self._health = health
        self._clock = clock
        self._documents = documents
        self._fleets = fleets
        self._alerts = alerts
        self._rollouts = rollouts
        self._audits = Audits(documents, clock, SERVICE)
        self._outbox = Outbox(documents, publisher, clock)
        self._sweeps = Sweeps(alerts, fleets, SERVICE)
        self._looks: Coalescer[str, None, Looked] = Coalescer(self._look)

    async def handle(self, incoming: Incoming) -> Outcome:
        """Act on one message: it says only where to look.

        Raises:
            UnknownFleet: it names a fleet that nobody described.
            CorruptDocument: nothing was done about that fleet.
            CloudError: doing it again is harmless.
        """
        match incoming:
            case ServerKillRequested() | ServerDisableRequested():
                return await self._sweeps.one(incoming.fleet, lambda _: self._request(incoming))
            case Tick():
                return await self._sweeps.some(incoming.fleet, self._sweep)
            case AlarmChanged(state="ALARM"):
                return await self._sweeps.some(None, self._sweep)
            case ServerReady():
                return await self._joined(incoming)
            case InstanceStateChanged():
                return await self._instance(incoming)
        return await self._rolls(incoming)

    async def _rolls(self, incoming: Incoming) -> Outcome:
        """Look at the fleet where a rollout may begin or go on; members come and go at other times too."""
        match incoming:
            case ReleaseSet() | ServerUpdated() | ServerUpdateFailed():
                return await self._sweeps.one(incoming.fleet, self._sweep)
            case MembershipChanged(fleet=name) if incoming.joined and await self._rollouts.runs(name):
                return await self._sweeps.one(name, self._sweep)
        return Done(f"{type(incoming).__name__} asks nothing of the reconciler")

    async def _instance(self, event: InstanceStateChanged) -> Outcome:
        if event.state not in DYING:
            return Done(f"{event.server} is {event.state}: nothing is lost")
        instance = (await self._servers.instances([event.server])).get(event.server)
        if instance is None and event.state == "terminated":
            return Done(f"EC2 has forgotten {event.server}; the next sweep looks at the groups")
        if instance is None:
            return Retry(f"EC2 does not show {event.server} yet")
        fleet = instance.tags.get(FLEET_TAG) or instance.tags.get(GROUP_TAG)
        if fleet is None or fleet not in await self._fleets.names():
            return Done(f"{event.server} is of no fleet of ours")
        return await self._sweeps.one(fleet, self._sweep)

    async def _joined(self, ready: ServerReady) -> Outcome:
        member = (await self._groups.describe(ready.fleet)).member(ready.server)
        fresh = ready.time is not None and (self._clock.now() - ready.time).total_seconds() < SETTLES_WITHIN_S
        if fresh and member is not None and member.state.startswith("Pending"):
            return LookAgain(2, f"{ready.server} is {member.state}")
        return await self._sweeps.one(ready.fleet, self._sweep)

    async def _sweep(self, name: str) -> Looked:
        """Look at a fleet, and do what it asks for. News that comes in a crowd shares one look that begins after it."""
        return await self._looks.ask(name, None)

    async def _look(self, name: str, asked: Sequence[None]) -> Sequence[Looked]:
        return [await self._see_to(name)] * len(asked)

    async def _see_to(self, name: str) -> Looked:
        fleet = await self._fleets.get(name)
        try:
            seen = await self._observe(fleet)
        except NotFound as error:
            return Looked(await self._tell_missing(name, str(error)))
        status = await self._report(seen.view)
        told = [decide.word(seen.view).reason]
        held = decide.hold(seen.view)
        if held is not None:
            await self._alerts.raise_alert(name, held.cause, held.reason, held.next)
        refused: list[Refuse] = []
        for action in decide.sweep(seen.view):
            done = await self._act(seen, action)
            if isinstance(done, Refuse):
                refused.append(done)
            told.append(done.reason if isinstance(done, Refuse) else done)
        over = await self._tell(name, held, [each for each in refused if not each.passing])
        rolled = await self._rollouts.step(seen.view, status, seen.good_until)
        return Looked("; ".join([*told, rolled.told]), over | rolled.over)

    async def _request(self, request: decide.Request) -> Looked:
        fleet = await self._fleets.get(request.fleet)
        seen = await self._observe(fleet)
        await self._report(seen.view)
        listed = fleet.policies.chaos.alarms if decide.is_chaos(request) else ()
        action = decide.answer(seen.view, request, await self._alarms.states(listed) if listed else {})
        unknown = decide.unknown(seen.view, request)
        if isinstance(action, Refuse) and unknown is not None:
            raise Incomplete(unknown)
        done = await self._take_out(seen, action) if isinstance(action, TakeOut) else action
        if isinstance(done, Refuse):
            await self._tell_refusal(seen.view, request, done.reason)
            return Looked(f"refused {request.type} of {request.server} by {request.by}: {done.reason}")
        return Looked(done if isinstance(done, str) else done.reason)

    async def _tell_refusal(self, view: View, request: decide.Request, reason: str) -> None:
        """Tell people, once, that a person's request came to nothing; chaos asks again by itself."""
        if decide.is_chaos(request):
            return
        message = RequestRefused(
            id=f"refused-{request.id}"[:64],
            time=self._clock.now(),
            source=SERVICE,
            fleet=request.fleet,
            server=request.server,
            request=request.type,
            by=request.by,
            reason=reason[:2000],
            next=f"python -m ops explain {request.fleet}",
        )
        said, key = self._outbox.announcement(message), status_key(request.fleet)
        written = await self._documents.change(
            FleetStatus, key, lambda old: decide.refused(view, old, request, reason, said)
        )
        await self._announce(request.fleet, written.document, lambda each: each.id == message.id)

    async def _act(self, seen: _Seen, action: decide.Sweep) -> str | Refuse:
        match action:
            case TakeOut():
                return await self._take_out(seen, action)
            case EndQuarantine():
                return await self._end_quarantine(seen, action)
            case AnnounceUnclaimed():
                fleet = seen.view.fleet.fleet
                now = self._clock.now()
                await self._publisher.publish(
                    LaunchUnclaimed(time=now, source=SERVICE, fleet=fleet, server=action.server)
                )
                return f"{action.server} {action.reason}"

    async def _take_out(self, seen: _Seen, action: TakeOut) -> str | Refuse:
        """Record the disruption, and when that stands, do it: two reconcilers cannot both spend the last of it."""
        view, fleet = seen.view, seen.view.fleet.fleet
        said = self._outbox.announcement(self._replaced(fleet, action))
        written = await self._documents.change(
            FleetStatus, status_key(fleet), lambda old: decide.recorded(view, old, action, said)
        )
        refusal = decide.budget_refusal(view, written.document, action.server)
        if refusal is not None:
            return refusal
        await self._audits.write(fleet, action.how, action.server, action.by, action.reason)
        stale = self._stale(seen)
        if stale is not None:
            return stale
        await self._carry_out(fleet, action)
        await self._announce(fleet, written.document, lambda each: each.id == said.message.id)
        return f"{action.server} {action.how} for {action.by}: {action.reason}"

    def _replaced(self, fleet: str, action: TakeOut) -> ServerReplaced:
        return ServerReplaced(
            id=f"{action.how}-{action.server}",
            time=self._clock.now(),
            source=SERVICE,
            fleet=fleet,
            server=action.server,
            how=action.how,
            by=action.by,
            reason=action.reason,
        )

    async def _announce(self, fleet: str, status: FleetStatus | None, happened: Callable[[Announced], bool]) -> None:
        if status is not None:
            await self._outbox.publish(FleetStatus, status_key(fleet), status.outbox, happened)

    async def _carry_out(self, fleet: str, action: TakeOut) -> None:
        match action.how:
            case "terminated":
                await self._groups.terminate(fleet, action.server)
            case "marked-unhealthy":
                await self._groups.mark_unhealthy(fleet, action.server)
            case "detached":
                # The tag first: a server that was detached and not tagged would be kept for ever.
                await self._servers.tag(action.server, {QUARANTINE_TAG: self._clock.now().isoformat()})
                await self._groups.detach(fleet, action.server)

    async def _end_quarantine(self, seen: _Seen, action: EndQuarantine) -> str | Refuse:
        await self._audits.write(seen.view.fleet.fleet, "end-quarantine", action.server, SERVICE, action.reason)
        stale = self._stale(seen)
        if stale is not None:
            return stale
        await self._servers.terminate(action.server)
        return f"{action.server} terminated: {action.reason}"

    def _stale(self, seen: _Seen) -> Refuse | None:
        """Asked last, after all that may take its time."""
        if self._clock.monotonic() <= seen.good_until:
            return None
        return Refuse("what was observed is too old to act on; the next sweep looks again", passing=True)

    async def _report(self, view: View) -> FleetStatus | None:
        """Publish a change of state, then remember it: a crash in between says it twice rather than never.

        What a process that died had yet to announce is announced too. Return the status that stands then.
        """
        key = status_key(view.fleet.fleet)
        before = await self._documents.get(FleetStatus, key)
        said = decide.word(view)
        if before is None or before.state != said.state:
            await self._publisher.publish(self._fact(view.fleet.fleet, said))
        written = await self._documents.amend(FleetStatus, key, before, lambda old: decide.status_after(view, old))
        await self._announce(view.fleet.fleet, written.document, lambda each: decide.happened(view, each))
        return written.document

    def _fact(self, fleet: str, said: decide.Word) -> FleetConverged | FleetDegraded:
        now = self._clock.now()
        if said.state == "converged":
            return FleetConverged(time=now, source=SERVICE, fleet=fleet, healthy=said.healthy, wanted=said.wanted)
        return FleetDegraded(
            time=now,
            source=SERVICE,
            fleet=fleet,
            healthy=said.healthy,
            wanted=said.wanted,
            reason=said.reason[:2000],
        )

    async def _tell_missing(self, fleet: str, why: str) -> str:
        """A group that was seen before and is gone calls a person; one that was never seen is still being made."""
        if await self._documents.get(FleetStatus, status_key(fleet)) is not None:
            await self._alerts.raise_alert(fleet, GROUP_MISSING, why, "aws autoscaling describe-auto-scaling-groups")
        return why

    async def _tell(self, fleet: str, held: Hold | None, refused: Sequence[Refuse]) -> frozenset[str]:
        """Call a person for what is not done; return the causes that are over."""
        if refused:
            see = show_command(status_key(fleet))
            await self._alerts.raise_alert(fleet, REPAIR_HELD, refused[0].reason, see)
        stand = {held.cause if held else "", REPAIR_HELD if refused else ""}
        return frozenset({GROUP_MISSING, REPAIR_HELD, *decide.HOLD_CAUSES} - stand)

    async def _observe(self, fleet: Fleet) -> _Seen:
        name = fleet.fleet
        since = self._clock.monotonic()
        pause, group = await self._pause_and_group(name)
        instances = await self._servers.instances([member.server for member in group.members])
        ours = await self._servers.tagged({MANAGED_TAG: "true", FLEET_TAG: name})
        updating, failed = await self._rollouts.updates(name)
        pages = _pages(fleet.health, group, instances)
        health, probed = await self._probe(
            fleet.health, {server: url for server, url in pages.items() if server not in updating}
        )
        if False in health.values():  # asking again and again took its time
            since = probed
            pause, group = await self._pause_and_group(name)
        now = self._clock.now()
        view = View(
            fleet=fleet,
            group=group,
            instances=instances,
            quarantined=tuple(each for each in ours if each.tags.get(QUARANTINE_TAG) and each.state not in DYING),
            health=health,
            claimed=await self._claimed(group, instances, now),
            pause=pause,
            now=now,
            updating=updating,
            failed=failed,
        )
        return _Seen(view, since + VIEW_GOOD_FOR_S)

    async def _pause_and_group(self, fleet: str) -> tuple[Pause | None, Group]:
        return await self._documents.get(Pause, pause_key(fleet)), await self._groups.describe(fleet)

    async def _probe(self, health: Health, pages: Mapping[str, str]) -> tuple[Mapping[str, bool | None], float]:
        """Ask every page; those that fail are asked again, until they have failed ``failures`` times in a row.

        Return the answers, and the monotonic moment before the last of them.
        """
        known: dict[str, bool | None] = {}
        suspects, since = list(pages), self._clock.monotonic()
        for turn in range(health.failures):
            if turn and suspects:
                await self._clock.sleep(health.interval)
                since = self._clock.monotonic()
            probes = (self._health.probe(pages[server], health.timeout) for server in suspects)
            known.update(zip(suspects, await asyncio.gather(*probes), strict=True))
            suspects = [server for server in suspects if known[server] is False]
        return known, since

    async def _claimed(self, group: Group, instances: Mapping[str, Instance], now: datetime) -> frozenset[str]:
        """Return who was taken up, of those that somebody is to be told of otherwise."""
        waiting = [each.server for each in group.members if each.state == LifecycleState.PENDING_WAIT]
        asked = [each for each in waiting if each in instances and decide.is_to_be_claimed(instances[each], now)]
        keys = [launch_key(group.fleet, server) for server in asked]
        found = await asyncio.gather(*(self._documents.keys(key) for key in keys))
        return frozenset(server for server, key, there in zip(asked, keys, found, strict=True) if key in there)


def _pages(health: Health, group: Group, instances: Mapping[str, Instance]) -> Mapping[str, str]:
    """Return the health page of every member in service that runs."""
    return {
        member.server: health.url.replace("{address}", instances[member.server].address)
        for member in group.members
        if member.in_service and member.healthy and member.server in instances
        if instances[member.server].state == "running" and instances[member.server].address
    }
