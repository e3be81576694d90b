"""Takes launching servers through their plan: observe, decide, act, until there is something to wait for."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from services.provisioner.decide import (
    AwaitTurn,
    Claim,
    Close,
    FallBack,
    Finish,
    GiveUp,
    Hold,
    Judge,
    Nothing,
    Probe,
    Run,
    Sight,
    Wait,
    beat_s,
    decide,
    judged,
    with_failure,
)
from services.provisioner.updates import Updates
from shared.advice import next_command
from shared.alerts import LOG_TAIL_LIMIT, REASON_LIMIT, Alerts
from shared.clock import Clock
from shared.cloud import GroupsPort, LifecycleState, NotFound, PublisherPort, ServersPort
from shared.components import Components
from shared.documents import Documents
from shared.events import CommandChanged, Incoming, LifecycleAction
from shared.fallback import changed, conclude, fallbacks, planned, suspects, unplanned
from shared.fleet import Fleet
from shared.fleets import Fleets, UnknownFleet
from shared.hints import show_command
from shared.ids import FLEET_TAG, ROLE_TAG
from shared.messages import LaunchUnclaimed, ServerProvisionFailed, ServerReady, ServerUpdateGranted, Tick
from shared.names import LAUNCH_HOOK, ServiceName
from shared.outcome import Done, LookAgain, Outcome, Retry
from shared.pace import Pacing
from shared.phases import from_image
from shared.records import Attempt, Failures, Fallback, Launch, failures_key, launch_key
from shared.runs import NoPlan, Pause, Runs
from shared.runspans import trace_launch
from shared.sweeps import Looked, Sweeps
from shared.tracing import joined, traceparent

log = structlog.get_logger()

SERVICE: ServiceName = "provisioner"

ROUNDS = 12
"""Steps that one message may take a launch; each attempt takes three or four."""

UNPLANNED_LOOK_S = 10
"""A missing release is set by a person: nobody waits for the second."""

GROUP_TAG = "aws:autoscaling:groupName"
"""Auto Scaling itself puts this on every instance of a group."""

ALERT = "provision-"
"""How the causes of this service's alerts begin."""


class Provisioner:
    """The service."""

    def __init__(
        self,
        *,
        groups: GroupsPort,
        servers: ServersPort,
        documents: Documents,
        fleets: Fleets,
        components: Components,
        runs: Runs,
        publisher: PublisherPort,
        alerts: Alerts,
        clock: Clock,
        updates: Updates,
    ) -> None:
        self._updates = updates
        self._pacing = Pacing(documents, alerts, clock)
        self._sweeps = Sweeps(alerts, fleets, SERVICE)
        self._groups = groups
        self._servers = servers
        self._documents = documents
        self._fleets = fleets
        self._components = components
        self._runs = runs
        self._publisher = publisher
        self._alerts = alerts
        self._clock = clock

    async def handle(self, incoming: Incoming) -> Outcome:
        """Take up a launch, go on with one, or look for those that nobody goes on with.

        Raises:
            UnknownFleet: a message names a fleet that nobody described.
            CorruptDocument: a document cannot be read.
            CloudError: AWS did not answer; the message is to come again.
        """
        match incoming:
            case LifecycleAction(transition="launching", hook=hook) if hook == LAUNCH_HOOK:
                return await self._launching(incoming)
            case LaunchUnclaimed():
                return await self._advance(await self._fleets.get(incoming.fleet), incoming.server)
            case ServerUpdateGranted():
                return await self._updates.advance(await self._fleets.get(incoming.fleet), incoming.server)
            case CommandChanged():
                return await self._command(incoming)
            case Tick():
                return await self._sweeps.some(incoming.fleet, self._sweep)
            case _:
                return Done("it asks nothing of the provisioner")

    async def _launching(self, action: LifecycleAction) -> Outcome:
        try:
            fleet = await self._fleets.get(action.fleet)
        except UnknownFleet as error:
            return Done(f"a group of somebody else: {error}")
        return await self._advance(fleet, action.server)

    async def _command(self, changed: CommandChanged) -> Outcome:
        """Go on at once with the launch that the command belongs to; its own message goes on waiting."""
        if not changed.server:
            return Done("each server's command is told of by itself")
        instance = (await self._servers.instances([changed.server])).get(changed.server)
        if instance is None or ROLE_TAG in instance.tags:
            return Done(f"{changed.server} is not a launching server")
        name = instance.tags.get(FLEET_TAG) or instance.tags.get(GROUP_TAG, "")
        try:
            fleet = await self._fleets.get(name)
        except UnknownFleet as error:
            return Done(f"a server of somebody else: {error}")
        launch = await self._advance(fleet, changed.server)
        return Done(f"{launch.why}; {(await self._updates.advance(fleet, changed.server)).why}")

    async def _sweep(self, name: str) -> Looked:
        fleet = await self._fleets.get(name)
        await self._updates.sweep(fleet)
        try:
            group = await self._groups.describe(name)
        except NotFound:
            return Looked("it has no group yet")
        for member in group.members:
            if member.state == LifecycleState.PENDING_WAIT:
                outcome = await self._advance(fleet, member.server)
                log.info("swept", fleet=name, server=member.server, why=outcome.why)
        return Looked("every waiting server was looked at")

    async def _advance(self, fleet: Fleet, server: str) -> Outcome:
        for _ in range(ROUNDS):
            sight = await self._look(fleet, server)
            if sight is None:
                return Done(f"no Auto Scaling group of ours is called {fleet.fleet}")
            with joined(sight.launch.trace if sight.launch else None, "go on with launch"):
                outcome = await self._act(sight)
            if outcome is not None:
                return outcome
        return Retry(f"{server} changed {ROUNDS} times while it was looked at")

    async def _look(self, fleet: Fleet, server: str) -> Sight | None:
        try:
            group = await self._groups.describe(fleet.fleet)
        except NotFound:
            return None
        if not group.managed:
            return None
        launch = await self._documents.get(Launch, launch_key(fleet.fleet, server))
        failures, offered = await self._failures(fleet, launch)
        return Sight(
            now=self._clock.now(),
            fleet=fleet,
            server=server,
            member=group.member(server),
            instance=(await self._servers.instances([server])).get(server),
            launch=launch,
            failures=failures,
            ahead=group.waiting_before(server),
            offered=offered,
        )

    async def _failures(self, fleet: Fleet, launch: Launch | None) -> tuple[Failures | None, str]:
        """Return the failed launches and the image that the group launches from, once this one failed often enough."""
        if launch is None or launch.result != "running" or len(launch.attempts) < fleet.policies.launch.attempts:
            return None, ""
        failures = await self._documents.get(Failures, failures_key(fleet.fleet))
        versions = await self._servers.templates(fleet.fleet) if failures else ()
        return failures, next((each.image for each in versions if each.default), "")

    async def _act(self, sight: Sight) -> Outcome | None:
        """Do what is decided; None: look again at once."""
        action = decide(sight)
        match action:
            case Nothing():
                return Done(action.reason)
            case Wait():
                return LookAgain(action.after_s, action.reason)
            case Probe():
                return await self._probe(sight, action)
            case AwaitTurn():
                await self._groups.heartbeat(sight.fleet.fleet, sight.server, LAUNCH_HOOK)
                return LookAgain(action.after_s, action.reason)
            case Claim():
                await self._claim(sight, action)
                return None
            case _:
                return await self._go_on(sight, action)

    async def _go_on(self, sight: Sight, action: Run | Finish | Judge | GiveUp | Hold | Close) -> Outcome | None:
        match action:
            case Run():
                return await self._run(sight, action)
            case Judge():
                return await self._judge(sight, action)
            case Finish():
                return await self._finish(sight, action.launch)
            case GiveUp():
                return await self._give_up(sight.fleet, action)
            case Hold():
                return await self._hold(sight.fleet, action)
            case Close():
                return await self._close(action)

    async def _probe(self, sight: Sight, action: Probe) -> Outcome:
        """Ask the hook: right after a launch the group may not show the server yet."""
        if await self._groups.heartbeat(sight.fleet.fleet, sight.server, LAUNCH_HOOK):
            return LookAgain(1, f"{action.reason} yet, but its launch hook waits")
        return Done(f"{action.reason}, and no launch hook waits for it")

    async def _claim(self, sight: Sight, action: Claim) -> None:
        launch = Launch(
            fleet=sight.fleet.fleet,
            server=sight.server,
            image=action.image,
            claimed=sight.now,
            trace=traceparent(),
            ordered=action.ordered,
        )
        await self._documents.create(launch_key(launch.fleet, launch.server), launch)

    async def _run(self, sight: Sight, action: Run) -> Outcome | None:
        launch = action.launch
        ledger = _Attempts(self._documents, self._runs, launch.fleet, launch.server)
        standings = await self._components.standings(sight.fleet) if action.attempt is None else {}
        try:
            pause = await self._runs.advance(
                sight.fleet,
                action.instance,
                action.name,
                action.attempt,
                ledger=ledger,
                releases=planned(standings, launch.fallbacks),
            )
        except NoPlan as error:
            tried = len(launch.attempts)
            instead = unplanned(sight.fleet, standings, launch.fallbacks, error.component, str(error), tried)
            if instead is None:
                return await self._unplanned(sight, error)
            await self._fall_back(launch, (instead,))
            return None
        if pause is not None and action.late is not None:
            return await self._give_up(sight.fleet, action.late)
        return await self._wait(sight, launch, pause) if pause else None

    async def _judge(self, sight: Sight, judge: Judge) -> Outcome | None:
        """Find out whether a release is to blame for a launch that failed, and fall back or give up."""
        launch = judge.launch
        standings = await self._components.standings(sight.fleet)
        now = planned(standings, launch.fallbacks)
        since = changed(standings, launch.releases)
        suspected = await suspects(self._runs, sight.fleet, launch.releases, since, judge.last.step)
        instead = fallbacks(standings, launch.releases, suspected, judge.last, len(launch.attempts))
        action = judged(judge, now, instead)
        match action:
            case Run():
                return await self._run(sight, action)
            case FallBack():
                await self._fall_back(launch, action.fallbacks)
                return None
            case GiveUp():
                return await self._give_up(sight.fleet, action)

    async def _fall_back(self, launch: Launch, more: tuple[Fallback, ...]) -> None:
        log.warning("falling back", fleet=launch.fleet, server=launch.server, to=[each.model_dump() for each in more])
        fallen = launch.model_copy(update={"fallbacks": (*launch.fallbacks, *more)})
        await self._documents.change(
            Launch, launch_key(launch.fleet, launch.server), lambda old: fallen if old == launch else None
        )

    async def _wait(self, sight: Sight, launch: Launch, pause: Pause) -> Outcome:
        beat = beat_s(sight.fleet.policies.launch)
        elapsed = (sight.now - launch.claimed).total_seconds()
        if pause.kind == "running" or elapsed > beat:
            await self._groups.heartbeat(launch.fleet, launch.server, LAUNCH_HOOK)
        return LookAgain(min(pause.look_s(elapsed, running_s=beat), beat), pause.why)

    async def _unplanned(self, sight: Sight, error: NoPlan) -> Outcome:
        """Call a person and keep the server waiting: with the release set, the launch goes on."""
        fleet = sight.fleet.fleet
        command = f"python -m ops release set --fleet {fleet} --component COMPONENT --version VERSION"
        await self._alerts.raise_alert(fleet, f"{ALERT}plan", f"{sight.server} cannot be provisioned: {error}", command)
        await self._groups.heartbeat(fleet, sight.server, LAUNCH_HOOK)
        return LookAgain(UNPLANNED_LOOK_S, str(error))

    async def _finish(self, sight: Sight, launch: Launch) -> Outcome | None:
        """Let the server into service, say so, and only then write that it is done: a crash repeats what is missing."""
        went = await self._groups.complete(launch.fleet, launch.server, LAUNCH_HOOK, "CONTINUE")
        if not went and not sight.passed:
            return await self._too_late(sight, launch)
        now = self._clock.now()
        seconds = (now - launch.claimed).total_seconds()
        await self._publisher.publish(
            ServerReady(
                id=f"ready-{launch.server}",
                time=now,
                source=SERVICE,
                fleet=launch.fleet,
                server=launch.server,
                image=launch.image,
                seconds=seconds,
            )
        )
        what = f"the launch of {launch.server}"
        await conclude(self._components, self._clock, launch.fleet, launch.releases, launch.fallbacks, what)
        await self._clear_alerts(launch.fleet)
        await self._end(launch, "ready", f"ready after {seconds:.1f} s")
        if from_image(launch):
            await self._pacing.note(launch.fleet, "launch", launch.server, launch.attempts[-1].steps)
        return Done(f"{launch.server} is ready after {seconds:.1f} s")

    async def _too_late(self, sight: Sight, launch: Launch) -> Outcome | None:
        """Say what became of a server whose hook no longer waited for our CONTINUE."""
        again = await self._look(sight.fleet, sight.server)
        if again is None or again.passed:
            return None
        if again.waiting:
            return LookAgain(1, f"{sight.server} is said to wait in its hook, and the hook to be over")
        state = again.member.state if again.member else "gone"
        reason = f"its plan had run, but its launch hook was over: it is {state}"
        return await self._close(Close(launch, in_service=False, reason=reason))

    async def _give_up(self, fleet: Fleet, action: GiveUp) -> Outcome:
        launch, now = action.launch, self._clock.now()
        await self._documents.change(Failures, failures_key(fleet.fleet), lambda old: with_failure(old, launch, now))
        await self._groups.complete(launch.fleet, launch.server, LAUNCH_HOOK, "ABANDON")
        await self._publish_failure(action)
        key = launch_key(launch.fleet, launch.server)
        blameless = bool(launch.fallbacks)
        command = show_command(key) if blameless else await next_command(self._documents, fleet, action.step, key)
        await self._alerts.raise_alert(
            launch.fleet,
            ALERT + action.cause,
            f"the launch of {launch.server} from {launch.image} was given up: {action.reason}",
            command,
            step=action.step,
            log_tail=action.log_tail,
        )
        await self._end(launch, "failed", action.reason)
        return Done(f"{launch.server} was given up: {action.reason}")

    async def _hold(self, fleet: Fleet, action: Hold) -> Outcome:
        """Keep the server waiting: the alert is cleared by the next server that comes through."""
        launch = action.launch
        command = await next_command(self._documents, fleet, action.step, launch_key(launch.fleet, launch.server))
        await self._alerts.raise_alert(launch.fleet, f"{ALERT}frozen", action.reason, command, step=action.step)
        await self._groups.heartbeat(launch.fleet, launch.server, LAUNCH_HOOK)
        return LookAgain(action.after_s, action.reason)

    async def _close(self, action: Close) -> Outcome:
        if not action.in_service:
            await self._publish_failure(GiveUp(action.launch, "left", action.reason))
        await self._end(action.launch, "ready" if action.in_service else "failed", action.reason)
        return Done(action.reason)

    async def _publish_failure(self, action: GiveUp) -> None:
        await self._publisher.publish(
            ServerProvisionFailed(
                id=f"failed-{action.launch.server}",
                time=self._clock.now(),
                source=SERVICE,
                fleet=action.launch.fleet,
                server=action.launch.server,
                step=action.step,
                reason=action.reason[:REASON_LIMIT],
                log_tail=action.log_tail[-LOG_TAIL_LIMIT:],
            )
        )

    async def _end(self, launch: Launch, result: str, reason: str) -> None:
        now = self._clock.now()

        def end(old: Launch | None) -> Launch | None:
            if old is None or old.result != "running":
                return None
            return old.model_copy(update={"result": result, "ended": now, "reason": reason})

        written = await self._documents.change(Launch, launch_key(launch.fleet, launch.server), end)
        if written.changed and written.document is not None:
            trace_launch(written.document)

    async def _clear_alerts(self, fleet: str) -> None:
        """A server came through: what stood in the way of launches has passed."""
        await self._documents.delete(failures_key(fleet))
        await self._alerts.clear_where(fleet, lambda _: True, ALERT)


@dataclass(frozen=True)
class _Attempts:
    """The attempts of one launch, in its record."""

    documents: Documents
    runs: Runs
    fleet: str
    server: str

    async def save(self, old: Attempt | None, new: Attempt) -> bool:
        releases = await self.runs.releases(self.fleet, new.attempt) if old is None else None

        def replace(launch: Launch | None) -> Launch | None:
            if launch is None or launch.result != "running":
                return None
            there = {each.attempt: each for each in launch.attempts}
            if there.get(new.attempt) != old:
                return None
            attempts = tuple({**there, new.attempt: new}.values())
            update = {"attempts": attempts} | ({} if releases is None else {"releases": releases})
            return launch.model_copy(update=update)

        written = await self.documents.change(Launch, launch_key(self.fleet, self.server), replace)
        return written.changed
