"""Brings servers in service up to date where a rollout took them: observe, decide, act.

It begins when the reconciler has granted it. Traffic is led away and back by the registry, which looks at the same
documents. What fails is undone by the plan of what the server ran before.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from services.provisioner.updating import Claim, End, Nothing, Run, Sight, TurnBack, Wait, decide, releases_for
from shared.alerts import LOG_TAIL_LIMIT, REASON_LIMIT
from shared.clock import Clock
from shared.cloud import GroupsPort, NotFound, PublisherPort, ServersPort
from shared.components import Components, shortened
from shared.documents import Documents
from shared.fallback import conclude, suspects
from shared.fleet import Fleet, SyncStep
from shared.messages import ServerUpdated, ServerUpdateFailed
from shared.outcome import Done, LookAgain, Outcome, Retry
from shared.records import (
    Attempt,
    Broken,
    Launch,
    Membership,
    Rollout,
    Update,
    launch_key,
    membership_key,
    rollout_key,
    update_key,
)
from shared.runs import NoPlan, Runs
from shared.tracing import joined, traceparent

log = structlog.get_logger()

ROUNDS = 12
"""Steps that one message may take an update; each attempt takes three or four."""


class Updates:
    """The updates' keeper. All calls raise CloudError and CorruptDocument, and may be repeated."""

    def __init__(
        self,
        *,
        groups: GroupsPort,
        servers: ServersPort,
        documents: Documents,
        components: Components,
        runs: Runs,
        publisher: PublisherPort,
        clock: Clock,
    ) -> None:
        self._groups = groups
        self._servers = servers
        self._documents = documents
        self._components = components
        self._runs = runs
        self._publisher = publisher
        self._clock = clock

    async def sweep(self, fleet: Fleet) -> None:
        """Go on with every server that the fleet's rollout was granted."""
        rollout = await self._documents.get(Rollout, rollout_key(fleet.fleet))
        for taken in rollout.taken if rollout else ():
            if taken.granted is not None:
                await self.advance(fleet, taken.server)

    async def advance(self, fleet: Fleet, server: str) -> Outcome:
        """Take a server as far as it goes for now."""
        for _ in range(ROUNDS):
            sight = await self._look(fleet, server)
            with joined(sight.update.trace if sight.update else None, "go on with update"):
                outcome = await self._act(sight)
            if outcome is not None:
                return outcome
        return Retry(f"{server} changed {ROUNDS} times while it was looked at")

    async def _look(self, fleet: Fleet, server: str) -> Sight:
        name = fleet.fleet
        rollout = await self._documents.get(Rollout, rollout_key(name))
        taken = next((each for each in rollout.taken if each.server == server), None) if rollout else None
        update = await self._documents.get(Update, update_key(name, server))
        ours = update is not None and (taken is None or update.rollout == taken.rollout)
        listed = await self._documents.get(Membership, membership_key(name))
        try:
            member = (await self._groups.describe(name)).member(server)
        except NotFound:
            member = None
        return Sight(
            now=self._clock.now(),
            fleet=fleet,
            server=server,
            rollout=rollout,
            member=member,
            instance=(await self._servers.instances([server])).get(server),
            launch=await self._documents.get(Launch, launch_key(name, server)),
            update=update if ours else None,
            leaver=next((each for each in listed.leaving if each.server == server), None) if listed else None,
        )

    async def _act(self, sight: Sight) -> Outcome | None:
        """Do what is decided; None: look again at once."""
        action = decide(sight)
        match action:
            case Nothing():
                return Done(action.reason)
            case Wait():
                return LookAgain(action.after_s, action.reason)
            case Claim():
                await self._claim(action.update)
            case Run():
                return await self._run(sight, action)
            case TurnBack():
                await self._turn_back(action)
            case End():
                return await self._end(sight, action)
        return None

    async def _claim(self, new: Update) -> None:
        """Write it down, over that of an earlier rollout."""
        update = new.model_copy(update={"trace": traceparent()})

        def replace(old: Update | None) -> Update | None:
            return update if old is None or old.rollout < update.rollout else None

        await self._documents.change(Update, update_key(update.fleet, update.server), replace)

    async def _run(self, sight: Sight, action: Run) -> Outcome | None:
        fleet, update = sight.fleet, action.update
        try:
            pause = await self._runs.advance(
                fleet,
                action.instance,
                action.name,
                action.attempt,
                ledger=_Attempts(self._documents, update.fleet, update.server, update.rollout),
                releases=releases_for(update),
            )
        except NoPlan as error:
            return await self._unplanned(fleet, update, error)
        if pause is not None and action.late is not None:
            return await self._end(sight, action.late)
        waited = (sight.now - update.began).total_seconds()
        return LookAgain(pause.look_s(waited), pause.why) if pause else None

    async def _unplanned(self, fleet: Fleet, update: Update, error: NoPlan) -> Outcome | None:
        """Nothing was done to the server yet, or it was on its way back: then nobody knows what it runs."""
        if update.turned is not None:
            await self._conclude(update, "failed", f"{update.reason}; and there is no way back: {error}")
            return Done(str(error))
        syncs = (each for each in fleet.plan if isinstance(each, SyncStep) and each.sync == error.component)
        step = next((each.step for each in syncs), None)
        await self._turn_back(TurnBack(update, step, str(error)))
        return None

    async def _turn_back(self, action: TurnBack) -> None:
        log.warning("turning back", fleet=action.update.fleet, server=action.update.server, reason=action.reason)
        turned = action.update.model_copy(
            update={
                "turned": len(action.update.attempts),
                "turned_at": self._clock.now(),
                "step": action.step,
                "reason": action.reason[:REASON_LIMIT],
                "log_tail": action.log_tail[-LOG_TAIL_LIMIT:],
            }
        )
        await self._change(action.update, turned)

    async def _end(self, sight: Sight, action: End) -> Outcome:
        """Do and say what follows, and only then write that it ended: a crash repeats what is missing."""
        update = action.update
        what = f"the update of {update.server}"
        if action.result == "updated":
            await self._serves(update)
            await conclude(self._components, self._clock, update.fleet, update.releases, (), what)
        elif action.result == "undone" and update.attempts:
            await self._condemn(sight, update, what)
        await self._conclude(update, action.result, action.reason)
        return Done(f"{update.server}: {action.result}: {action.reason}")

    async def _serves(self, update: Update) -> None:
        """Write into the launch's record what the server runs now: members are listed with it."""

        def renew(launch: Launch | None) -> Launch | None:
            return launch and launch.model_copy(update={"releases": update.releases})

        await self._documents.change(Launch, launch_key(update.fleet, update.server), renew)

    async def _condemn(self, sight: Sight, update: Update, what: str) -> None:
        """The server failed with these releases and went well with those before: say which are to blame."""
        settings = sight.rollout.settings if sight.rollout else {}
        changed = {
            name: before
            for name, before in update.before.items()
            if update.releases.get(name) != before and name in settings
        }
        suspected = await suspects(self._runs, sight.fleet, update.releases, changed, update.step)
        for component in sorted(suspected):
            also = sorted(f"{each} {update.releases[each]}" for each in suspected - {component})
            others = f", and {', '.join(also)} changed too: one of them is to blame" if also else ""
            broken = Broken(
                version=update.releases[component],
                setting=settings[component],
                at=sight.now,
                by=what,
                reason=f"{what} failed with it, and it was brought back to {changed[component]}{others}; the rollout"
                f" stopped: {update.reason}",
                step=update.step,
                log_tail=update.log_tail,
            )
            await self._components.condemn(update.fleet, component, shortened(broken), changed[component])

    async def _conclude(self, update: Update, result: str, reason: str) -> None:
        now = self._clock.now()
        await self._publisher.publish(_fact(update, result, reason, (now - update.began).total_seconds()))
        ended = update.model_copy(update={"result": result, "ended": now, "reason": reason[:REASON_LIMIT]})
        await self._change(update, ended)

    async def _change(self, old: Update, new: Update) -> None:
        """Write it, unless it has moved on since it was read: then the next look decides."""
        await self._documents.change(
            Update, update_key(old.fleet, old.server), lambda there: new if there == old else None
        )


def _fact(update: Update, result: str, reason: str, seconds: float) -> ServerUpdated | ServerUpdateFailed:
    if result == "updated":
        return ServerUpdated(
            id=f"updated-{update.server}-{update.rollout}",
            source="provisioner",
            fleet=update.fleet,
            server=update.server,
            rollout=update.rollout,
            seconds=seconds,
        )
    return ServerUpdateFailed(
        id=f"not-updated-{update.server}-{update.rollout}",
        source="provisioner",
        fleet=update.fleet,
        server=update.server,
        rollout=update.rollout,
        restored=result == "undone",
        step=update.step,
        reason=reason[:REASON_LIMIT],
        log_tail=update.log_tail,
    )


@dataclass(frozen=True)
class _Attempts:
    """The attempts of one update, in its record."""

    documents: Documents
    fleet: str
    server: str
    rollout: int

    async def save(self, old: Attempt | None, new: Attempt) -> bool:
        def replace(update: Update | None) -> Update | None:
            if update is None or update.result != "running" or update.rollout != self.rollout:
                return None
            there = {each.attempt: each for each in update.attempts}
            if there.get(new.attempt) != old:
                return None
            return update.model_copy(update={"attempts": tuple({**there, new.attempt: new}.values())})

        written = await self.documents.change(Update, update_key(self.fleet, self.server), replace)
        return written.changed
