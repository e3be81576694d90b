"""On a tick, consider each fleet and perhaps ask for a kill. The reconciler checks again, and does it or not."""

from __future__ import annotations

import random

from services.chaos import decide
from services.chaos.decide import Kill, View
from shared.alerts import Alerts
from shared.clock import Clock
from shared.cloud import AlarmsPort, CloudError, GroupsPort, PublisherPort
from shared.documents import CorruptDocument, Documents
from shared.events import Incoming
from shared.fleets import Fleets, UnknownFleet
from shared.messages import ServerKillRequested, Tick
from shared.names import ServiceName
from shared.outcome import Done, Outcome
from shared.records import FleetStatus, Pause, pause_key, status_key
from shared.sweeps import Looked, Sweeps

SERVICE: ServiceName = "chaos"


class Chaos:
    """Draws victims. Whatever cannot be checked means no kill."""

    def __init__(
        self,
        *,
        groups: GroupsPort,
        publisher: PublisherPort,
        alarms: AlarmsPort,
        clock: Clock,
        randomness: random.Random,
        documents: Documents,
        fleets: Fleets,
        alerts: Alerts,
    ) -> None:
        self._groups = groups
        self._publisher = publisher
        self._alarms = alarms
        self._clock = clock
        self._random = randomness
        self._documents = documents
        self._fleets = fleets
        self._sweeps = Sweeps(alerts, fleets, SERVICE)

    async def handle(self, incoming: Incoming) -> Outcome:
        """Act on a tick; all that other messages say is read afresh at the next one.

        A tick that failed is not tried again, since that would toss the coin again: the next tick comes.

        Raises:
            UnknownFleet: an operator asks for a kill in a fleet that nobody described.
            CorruptDocument: an operator asks for a kill in a fleet of which a document cannot be read.
            CloudError: there is no telling which fleets there are, or an alert could not be raised.
        """
        if not isinstance(incoming, Tick):
            return Done(f"{type(incoming).__name__} is looked at with the next tick")
        if incoming.fleet is not None:
            return Done(await self._consider(incoming.fleet, asked=True))
        told = [f"{fleet}: {await self._scheduled(fleet)}" for fleet in await self._fleets.names()]
        return Done("; ".join(told) or "there are no fleets")

    async def _scheduled(self, fleet: str) -> str:
        try:
            return await self._consider(fleet, asked=False)
        except (CorruptDocument, UnknownFleet) as error:
            return f"no kill: {error}"

    async def _consider(self, fleet: str, *, asked: bool) -> str:
        async def look(name: str) -> Looked:
            return Looked(await self._look(name, asked=asked))

        try:
            return (await self._sweeps.one(fleet, look)).why
        except CloudError as error:
            return f"no kill, a check failed: {type(error).__name__}: {error}"

    async def _look(self, fleet: str, *, asked: bool) -> str:
        coin, pick = self._random.random(), self._random.random()
        decision = decide.consider(await self._observe(fleet), coin, pick, asked=asked)
        if not isinstance(decision, Kill):
            return f"no kill: {decision.reason}"
        request = ServerKillRequested(
            time=self._clock.now(),
            source=SERVICE,
            fleet=fleet,
            server=decision.server,
            by=decide.BY,
            reason=decision.reason,
        )
        await self._publisher.publish(request)
        return f"asked for {decision.server} to be killed: {decision.reason}"

    async def _observe(self, name: str) -> View:
        fleet = await self._fleets.get(name)
        listed = fleet.policies.chaos.alarms
        return View(
            fleet=fleet,
            group=await self._groups.describe(name),
            pause=await self._documents.get(Pause, pause_key(name)),
            alarms=await self._alarms.states(listed) if listed else {},
            status=await self._documents.get(FleetStatus, status_key(name)),
            now=self._clock.now(),
        )
