"""Bakes images: observe, decide, act, until there is something to wait for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from services.baker.decide import (
    DEAD,
    STALE,
    UNRECORDED,
    ChooseStock,
    Fail,
    FallBack,
    Judge,
    Launch,
    Nothing,
    Prove,
    Replace,
    Role,
    Run,
    Settle,
    Sight,
    Snapshot,
    TryAgain,
    Wait,
    attempt_name,
    bake_id,
    decide,
    judged,
    recent,
    unconnected,
)
from shared.advice import next_command
from shared.alerts import LOG_TAIL_LIMIT, REASON_LIMIT, Alerts
from shared.audit import Audits
from shared.clock import Clock
from shared.cloud import Instance, NotFound, PublisherPort, Refused, ServersPort
from shared.components import Components
from shared.documents import Documents
from shared.events import CommandChanged, ImageStateChanged, Incoming
from shared.fallback import changed, conclude, fallbacks, planned, suspects, unplanned
from shared.fleet import Fleet
from shared.fleets import Fleets, UnknownFleet
from shared.hints import list_command, show_command
from shared.ids import BAKE_TAG, FLEET_TAG, MANAGED_TAG, PROVEN_TAG, ROLE_TAG
from shared.messages import ImageBakeFailed, ImageBakeRequested, ImageReady, Nightly, Tick
from shared.names import ServiceName
from shared.outcome import TOLD_S, Done, LookAgain, Outcome, Retry
from shared.pace import Pacing
from shared.records import Attempt, Bake, Baking, bake_key, bakes_prefix, baking_key
from shared.runs import NoPlan, Runs
from shared.runspans import trace_bake
from shared.sweeps import Looked, Sweeps
from shared.tracing import joined, traceparent

log = structlog.get_logger()

ROUNDS = 16
"""Steps that one message may take a bake; it has about a dozen in all."""

_WITHOUT: Mapping[Role, Mapping[str, object]] = {
    "builder": {"stage": "builder", "builder": None, "provision": None},
    "prover": {"stage": "snapshot", "prover": None, "proof": None},
}
"""What a bake's record says that has no such server."""

ALERT = "bake"
SERVICE: ServiceName = "baker"


class Baker:
    """The service."""

    def __init__(
        self,
        *,
        servers: ServersPort,
        documents: Documents,
        fleets: Fleets,
        components: Components,
        runs: Runs,
        publisher: PublisherPort,
        alerts: Alerts,
        audits: Audits,
        clock: Clock,
    ) -> None:
        self._servers = servers
        self._documents = documents
        self._fleets = fleets
        self._components = components
        self._runs = runs
        self._publisher = publisher
        self._alerts = alerts
        self._sweeps = Sweeps(alerts, fleets, SERVICE)
        self._audits = audits
        self._clock = clock
        self._pacing = Pacing(documents, alerts, clock)

    async def handle(self, incoming: Incoming) -> Outcome:
        """Begin a bake, go on with one, or see to it that every fleet has its nightly one.

        A bake's own message takes it further, and so do events. The tick sees to one whose message came to nothing, as
        in an outage that outlived its tries.

        Raises:
            UnknownFleet: a request names a fleet that nobody described.
            CorruptDocument: a document cannot be read.
            CloudError: AWS did not answer; the message is to come again.
        """
        match incoming:
            case ImageBakeRequested():
                return await self._requested(incoming)
            case Tick():
                return await self._sweeps.some(incoming.fleet, self._sweep)
            case Nightly():
                return await self._nightly(incoming)
            case CommandChanged(server=server) if server:
                instance = (await self._servers.instances([server])).get(server)
                return await self._hinted(instance.tags if instance else {})
            case ImageStateChanged():
                image = await self._servers.image(incoming.image)
                return await self._hinted(image.tags if image else {})
            case _:
                return Done("it asks nothing of the baker")

    async def _requested(self, request: ImageBakeRequested) -> Outcome:
        """Find or begin the bake that this request stands for: its id comes from when it was asked for."""
        fleet = await self._fleets.get(request.fleet)
        now = self._clock.now()
        asked = request.asked
        bake = bake_id(fleet.fleet, asked)
        if await self._documents.get(Bake, bake_key(fleet.fleet, bake)) is not None:
            return await self._advance(fleet, bake)
        if asked < now - STALE:
            return Done(f"asked for at {asked}: too long ago")
        return await self._begin(fleet, bake, request)

    async def _begin(self, fleet: Fleet, bake: str, request: ImageBakeRequested) -> Outcome:
        latest = await self._documents.get(Baking, baking_key(fleet.fleet))
        if latest is not None and latest.bake != bake and await self._stands(fleet, latest):
            return Done(f"bake {latest.bake} of {fleet.fleet} is under way; there is one at a time")
        daily = fleet.policies.bakes.daily
        budget = daily if request.source == SERVICE else daily - 1
        if await self._over_budget(fleet, bake, budget):
            return Done(f"{fleet.fleet} has had its {budget} bakes of the day")
        if not await self._claimed(fleet.fleet, bake, latest):
            return LookAgain(1, f"another bake of {fleet.fleet} began meanwhile")
        record = Bake(
            bake=bake,
            fleet=fleet.fleet,
            requested=self._clock.now(),
            by=request.by,
            reason=request.reason,
            trace=traceparent(),
        )
        await self._documents.create(bake_key(fleet.fleet, bake), record)
        await self._end_overtaken(fleet, bake)
        return await self._advance(fleet, bake)

    async def _end_overtaken(self, fleet: Fleet, by: str) -> None:
        """Take bakes further whose record came so late that another had taken their place: nobody else would."""
        for each in await self._documents.all(Bake, bakes_prefix(fleet.fleet)):
            if each.ended is None and each.bake != by:
                await self._advance(fleet, each.bake)

    async def _sweep(self, name: str) -> Looked:
        return Looked(f"{await self._under_way(name) or 'no bake'} is under way")

    async def _under_way(self, name: str) -> str | None:
        """Return the fleet's bake that still stands; one that nobody goes on with is taken further by this."""
        fleet = await self._fleets.get(name)
        latest = await self._documents.get(Baking, baking_key(name))
        if latest is None:
            return None
        return latest.bake if await self._stands(fleet, latest) else None

    async def _stands(self, fleet: Fleet, latest: Baking) -> bool:
        key = bake_key(fleet.fleet, latest.bake)
        bake = await self._documents.get(Bake, key)
        if bake is None:
            return self._clock.now() < latest.claimed + UNRECORDED
        if bake.ended is None:
            await self._advance(fleet, latest.bake)
            bake = await self._documents.get(Bake, key)
        return bake is not None and bake.ended is None

    async def _over_budget(self, fleet: Fleet, bake: str, budget: int) -> bool:
        prefix = bakes_prefix(fleet.fleet)
        keys = await self._documents.keys(prefix)
        if recent((key.removeprefix(prefix).removesuffix(".json") for key in keys), self._clock.now()) < budget:
            return False
        await self._alerts.raise_alert(
            fleet.fleet,
            "bake-budget",
            f"{bake} was not begun: {fleet.fleet} has had {budget} bakes in 24 hours; something asks too often. "
            "Where it is to have more: policies.bakes.daily",
            list_command(prefix),
        )
        return True

    async def _claimed(self, fleet: str, bake: str, latest: Baking | None) -> bool:
        """Make this the fleet's latest bake, unless another was quicker: there is one winner."""
        claim = Baking(bake=bake, claimed=self._clock.now())
        before = latest.bake if latest else None

        def decide_claim(old: Baking | None) -> Baking | None:
            return claim if (old.bake if old else None) == before != bake else None

        written = await self._documents.change(Baking, baking_key(fleet), decide_claim)
        return written.document is not None and written.document.bake == bake

    async def _nightly(self, night: Nightly) -> Outcome:
        """Ask for each fleet's nightly bake; one that is under way is taken further instead."""
        asked = night.time or self._clock.now()

        async def look(name: str) -> Looked:
            standing = await self._under_way(name)
            if standing is not None:
                return Looked(f"{standing} is under way")
            await self._publisher.publish(
                ImageBakeRequested(time=asked, source=SERVICE, fleet=name, by="schedule", reason="nightly bake")
            )
            return Looked("its nightly bake is asked for")

        return await self._sweeps.some(night.fleet, look)

    async def _hinted(self, tags: Mapping[str, str]) -> Outcome:
        """Go on at once with the bake that a server or image is tagged with.

        The request's own message may sleep through a whole run, so the hint keeps looking while something short is
        awaited, such as a boot; where that is a run or an image, it leaves the waiting to the request's message.
        """
        name, bake = tags.get(FLEET_TAG, ""), tags.get(BAKE_TAG, "")
        if tags.get(MANAGED_TAG) != "true" or not re.fullmatch(re.escape(name) + r"-[0-9]{8}t[0-9]{6}", bake):
            return Done("it belongs to no bake")
        try:
            fleet = await self._fleets.get(name)
        except UnknownFleet as error:
            return Done(str(error))
        outcome = await self._advance(fleet, bake)
        long = isinstance(outcome, LookAgain) and outcome.after_s >= TOLD_S
        return Done(outcome.why) if long else outcome

    async def _advance(self, fleet: Fleet, bake: str) -> Outcome:
        for _ in range(ROUNDS):
            sight = await self._look(fleet, bake)
            if sight is None:
                return Done(f"there is no record of bake {bake}")
            with joined(sight.bake.trace, "go on with bake"):
                outcome = await self._act(sight)
            if outcome is not None:
                return outcome
        return Retry(f"bake {bake} changed {ROUNDS} times while it was looked at")

    async def _look(self, fleet: Fleet, bake: str) -> Sight | None:
        record = await self._documents.get(Bake, bake_key(fleet.fleet, bake))
        if record is None:
            return None
        ids = [server for server in (record.builder, record.prover) if server is not None]
        seen = await self._servers.instances(ids)
        latest = await self._documents.get(Baking, baking_key(fleet.fleet)) if record.builder is None else None
        return Sight(
            now=self._clock.now(),
            fleet=fleet,
            bake=record,
            builder=seen.get(record.builder or ""),
            image=await self._servers.image(record.image) if record.image else None,
            prover=seen.get(record.prover or ""),
            overtaken_by=latest.bake if latest is not None and latest.bake != bake else None,
        )

    async def _act(self, sight: Sight) -> Outcome | None:
        """Do what is decided; None: look again at once. What can never work fails the bake."""
        action = decide(sight)
        match action:
            case Nothing():
                return Done(action.reason)
            case Wait():
                return LookAgain(action.after_s, action.reason)
            case Settle():
                return await self._settle(sight.fleet, sight.bake)
            case Fail() | Replace() | Judge():
                await (self._judge(sight, action) if isinstance(action, Judge) else self._give_up(sight.bake, action))
                return None
        try:
            return await self._go_on(sight, action)
        except NoPlan as error:
            await self._unplanned(sight, action.reason, error)
        except Refused as error:
            await self._fail(sight.bake, Fail(f"{action.reason}, but: {error}"))
        return None

    async def _unplanned(self, sight: Sight, doing: str, error: NoPlan) -> None:
        """Go on without a release that cannot be planned with, where there is a last good one; else fail."""
        bake = sight.bake
        standings = await self._components.standings(sight.fleet) if bake.image is None else {}
        tried = len(bake.failed)
        instead = unplanned(sight.fleet, standings, bake.fallbacks, error.component, str(error), tried)
        if instead is None:
            await self._fail(bake, Fail(f"{doing}, but: {error}"))
        else:
            await self._change(bake, fallbacks=(*bake.fallbacks, instead))

    async def _judge(self, sight: Sight, judge: Judge) -> None:
        """Find out whether a release is to blame for a builder that failed."""
        bake, fleet = sight.bake, sight.fleet
        standings = await self._components.standings(fleet)
        since = changed(standings, bake.releases)
        suspected = await suspects(self._runs, fleet, bake.releases, since, judge.attempt.step)
        after = len(bake.failed) + 1
        instead = fallbacks(standings, bake.releases, suspected, judge.attempt, after)
        action = judged(bake, judge, instead, fleet.policies.launch.attempts)
        match action:
            case Fail():
                await self._fail(bake, action)
            case TryAgain():
                await self._change(bake, provision=None, failed=(*bake.failed, action.attempt))
            case FallBack():
                await self._terminate(bake, action.builder)
                await self._change(
                    bake,
                    fallbacks=(*bake.fallbacks, *action.fallbacks),
                    failed=(*bake.failed, action.attempt),
                    spoiled=(*bake.spoiled, action.builder),
                    **_WITHOUT["builder"],
                )

    async def _go_on(self, sight: Sight, action: ChooseStock | Launch | Run | Snapshot | Prove) -> Outcome | None:
        bake = sight.bake
        match action:
            case ChooseStock():
                await self._choose_stock(sight.fleet, bake)
            case Launch():
                await self._launch(bake, action)
            case Run():
                return await self._run(sight, action)
            case Snapshot():
                image = await self._servers.create_image(action.server, f"autoprovisioner-{bake.bake}", _tags(bake))
                await self._change(bake, image=image, stage="snapshot")
            case Prove():
                await self._servers.tag(action.image, {PROVEN_TAG: "true"})
                await self._change(bake, stage="ready")
        return None

    async def _choose_stock(self, fleet: Fleet, bake: Bake) -> None:
        try:
            stock = await self._servers.stock_image(fleet.stock)
        except NotFound as error:
            raise Refused(f"the stock image {fleet.stock} is not there: {error}") from error
        await self._change(bake, stock=stock)

    async def _launch(self, bake: Bake, action: Launch) -> None:
        """Launch the server, or adopt the one that was launched when the reply was lost."""
        tags = _tags(bake) | {ROLE_TAG: action.role}
        given_up = (*bake.spoiled, *bake.lost)
        found = [each for each in await self._servers.tagged(tags) if each.server not in given_up]
        living = [each for each in found if each.state not in DEAD]
        if living:
            server = min(living, key=lambda each: (each.launched, each.server)).server
        else:
            again = f"-{len(given_up) + 1}" if given_up else ""
            server = await self._servers.launch(f"{bake.bake}-{action.role}{again}", action.image, bake.fleet, tags)
        await self._change(bake, **{action.role: server})

    async def _run(self, sight: Sight, action: Run) -> Outcome | None:
        bake = sight.bake
        releases = bake.releases
        if action.role == "builder":
            standings = await self._components.standings(sight.fleet) if action.attempt is None else {}
            releases = planned(standings, bake.fallbacks)
        pause = await self._runs.advance(
            sight.fleet,
            action.instance,
            attempt_name(bake, action.role),
            action.attempt,
            ledger=_Attempts(self._documents, self._runs, bake, action.role),
            releases=releases,
        )
        if pause is None:
            return None
        instead = unconnected(bake, action, sight.now) if pause.kind == "offline" else None
        if instead is not None:
            await self._give_up(bake, instead)
            return None
        booted = (sight.now - action.instance.launched).total_seconds()
        return LookAgain(pause.look_s(booted), pause.why)

    async def _give_up(self, bake: Bake, action: Fail | Replace) -> None:
        if isinstance(action, Fail):
            await self._fail(bake, action)
            return
        log.warning("server lost", fleet=bake.fleet, bake=bake.bake, server=action.server, reason=action.reason)
        await self._terminate(bake, action.server)
        await self._change(bake, lost=(*bake.lost, action.server), **_WITHOUT[action.role])

    async def _fail(self, bake: Bake, action: Fail) -> None:
        log.warning("bake failed", fleet=bake.fleet, bake=bake.bake, step=action.step, reason=action.reason)
        await self._change(
            bake, stage="failed", step=action.step, failure=action.reason, log_tail=action.log_tail[-LOG_TAIL_LIMIT:]
        )

    async def _change(self, bake: Bake, **update: object) -> Bake | None:
        """Write into the record, unless it has moved on since it was read: then the next look decides."""
        written = await self._documents.change(
            Bake, bake_key(bake.fleet, bake.bake), lambda old: old.model_copy(update=update) if old == bake else None
        )
        return written.document if written.changed else None

    async def _settle(self, fleet: Fleet, bake: Bake) -> Outcome | None:
        """Clean up and tell; ``ended`` comes last, so a crash repeats what is missing."""
        for server in await self._left_over(bake):
            await self._terminate(bake, server)
        now = self._clock.now()
        if bake.stage == "ready":
            await self._tell_ready(bake, now)
        else:
            await self._tell_failed(fleet, bake, now)
        ended = await self._change(bake, ended=now, seconds=(now - bake.requested).total_seconds())
        if ended is not None:
            trace_bake(ended)
            if ended.stage == "ready" and ended.provision is not None:
                await self._pacing.note(bake.fleet, "bake", bake.bake, ended.provision.steps)
        return None

    async def _left_over(self, bake: Bake) -> list[str]:
        """Return the bake's servers that live, those among them whose launch was never written down included."""
        found = [each for each in await self._servers.tagged(_tags(bake)) if each.tags.get(ROLE_TAG)]
        recorded = [server for server in (bake.builder, bake.prover) if server is not None]
        seen: dict[str, Instance] = {**await self._servers.instances(recorded), **{each.server: each for each in found}}
        return [server for server in dict.fromkeys([*recorded, *seen]) if _may_live(seen.get(server))]

    async def _terminate(self, bake: Bake, server: str) -> None:
        why = f"bake {bake.bake} is {bake.stage}"
        await self._audits.write(bake.fleet, "terminate", server, SERVICE, why)
        try:
            await self._servers.terminate(server)
        except NotFound:
            log.info("no such server", fleet=bake.fleet, server=server, bake=bake.bake)

    async def _tell_ready(self, bake: Bake, now: datetime) -> None:
        assert bake.image is not None, "a bake that is ready has an image"
        await self._publisher.publish(
            ImageReady(
                id=f"ready-{bake.bake}"[:64],
                time=now,
                source=SERVICE,
                fleet=bake.fleet,
                image=bake.image,
                bake=bake.bake,
            )
        )
        what = f"bake {bake.bake}"
        await conclude(self._components, self._clock, bake.fleet, bake.releases, bake.fallbacks, what)
        await self._alerts.clear(bake.fleet, ALERT)
        await self._alerts.clear(bake.fleet, "bake-budget")

    async def _tell_failed(self, fleet: Fleet, bake: Bake, now: datetime) -> None:
        await self._publisher.publish(
            ImageBakeFailed(
                id=f"failed-{bake.bake}"[:64],
                time=now,
                source=SERVICE,
                fleet=bake.fleet,
                bake=bake.bake,
                step=bake.step,
                reason=bake.failure[:REASON_LIMIT],
                log_tail=bake.log_tail,
            )
        )
        key = bake_key(bake.fleet, bake.bake)
        command = await next_command(self._documents, fleet, bake.step, key) if bake.step else show_command(key)
        reason = f"bake {bake.bake} failed: {bake.failure}"
        await self._alerts.raise_alert(bake.fleet, ALERT, reason, command, step=bake.step, log_tail=bake.log_tail)


def _tags(bake: Bake) -> dict[str, str]:
    return {MANAGED_TAG: "true", FLEET_TAG: bake.fleet, BAKE_TAG: bake.bake}


def _may_live(instance: Instance | None) -> bool:
    """Whether a server may still cost money: one that EC2 does not show yet may. Pure."""
    return instance is None or instance.state not in {"shutting-down", "terminated"}


@dataclass(frozen=True)
class _Attempts:
    """The attempt on the builder or the prover, in the bake's record."""

    documents: Documents
    runs: Runs
    bake: Bake
    role: Role

    async def save(self, old: Attempt | None, new: Attempt) -> bool:
        update: dict[str, object] = {"provision" if self.role == "builder" else "proof": new}
        if old is None:
            update["stage"] = "provision" if self.role == "builder" else "proof"
        if old is None and self.role == "builder":
            update["releases"] = await self.runs.releases(self.bake.fleet, new.attempt)

        def replace(bake: Bake | None) -> Bake | None:
            if bake is None or bake.ended is not None or bake.stage == "failed" or self._there(bake) != old:
                return None
            if (bake.builder, bake.prover) != (self.bake.builder, self.bake.prover):
                return None  # another took its place
            return bake.model_copy(update=update)

        written = await self.documents.change(Bake, bake_key(self.bake.fleet, self.bake.bake), replace)
        return written.changed

    def _there(self, bake: Bake) -> Attempt | None:
        return bake.provision if self.role == "builder" else bake.proof
