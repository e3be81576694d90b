"""Sends each message to those who keep the pointer, the releases, or the list of members."""

from __future__ import annotations

from services.registry.images import Images, over
from services.registry.members import Members
from services.registry.releases import ReleaseRequests
from shared.events import Incoming, LifecycleAction, ObjectChanged
from shared.fleet import Fleet
from shared.fleets import Fleets, UnknownFleet
from shared.messages import (
    ImagePinRequested,
    ImageReady,
    ImageRollbackRequested,
    ReleaseSetRequested,
    ReleaseUndoRequested,
    ServerReady,
    ServerUpdated,
    ServerUpdateFailed,
    ServerUpdateGranted,
    Tick,
)
from shared.names import TERMINATE_HOOK
from shared.outcome import Done, Outcome
from shared.records import pointer_key
from shared.sweeps import Looked, Sweeps

Request = (
    ImageReady | ImageRollbackRequested | ImagePinRequested | ServerReady | ReleaseSetRequested | ReleaseUndoRequested
)


class Registry:
    """The service."""

    def __init__(
        self, *, fleets: Fleets, sweeps: Sweeps, images: Images, members: Members, releases: ReleaseRequests
    ) -> None:
        self._fleets = fleets
        self._sweeps = sweeps
        self._images = images
        self._members = members
        self._releases = releases

    async def handle(self, incoming: Incoming) -> Outcome:
        """Move the pointer, set a release, take servers in, or let them go.

        Raises:
            UnknownFleet: a message names a fleet that nobody described.
            CorruptDocument: a document cannot be read.
            CloudError: AWS did not answer; the message is to come again.
        """
        match incoming:
            case (
                ImageReady()
                | ImageRollbackRequested()
                | ImagePinRequested()
                | ServerReady()
                | ReleaseSetRequested()
                | ReleaseUndoRequested()
            ):
                return await self._asked(await self._fleets.get(incoming.fleet), incoming)
            case ServerUpdateGranted() | ServerUpdated() | ServerUpdateFailed():
                return await self._update(incoming)
            case LifecycleAction(transition="terminating", hook=hook) if hook == TERMINATE_HOOK:
                return await self._terminating(incoming)
            case ObjectChanged():
                return await self._written(incoming.key)
            case Tick():
                return await self._sweeps.some(incoming.fleet, self._sweep)
        return Done("it asks nothing of the registry")

    async def _update(self, message: ServerUpdateGranted | ServerUpdated | ServerUpdateFailed) -> Outcome:
        if isinstance(message, ServerUpdateGranted):
            return await self._members.updating(await self._fleets.get(message.fleet), message)
        return await self._members.updated(message)

    async def _asked(self, fleet: Fleet, message: Request) -> Outcome:
        match message:
            case ReleaseSetRequested() | ReleaseUndoRequested():
                return await self._releases.asked(message)
            case ImageReady():
                return await self._images.ready(fleet, message)
            case ImageRollbackRequested():
                return await self._images.roll_back(fleet, message)
            case ImagePinRequested():
                return await self._images.pin(fleet, message)
            case ServerReady():
                return await self._members.ready(message)

    async def _terminating(self, action: LifecycleAction) -> Outcome:
        try:
            fleet = await self._fleets.get(action.fleet)
        except UnknownFleet as error:
            return Done(f"a group of somebody else: {error}")
        return await self._members.terminating(fleet, action.server)

    async def _written(self, key: str) -> Outcome:
        parts = key.split("/")
        if len(parts) != 3 or key != pointer_key(parts[1]):
            return Done("no pointer was written")
        return await self._sweeps.one(parts[1], self._look_at_pointer)

    async def _look_at_pointer(self, name: str) -> Looked:
        pointer = await self._images.sweep(await self._fleets.get(name))
        return Looked(f"looked at the pointer of {name}", over(pointer))

    async def _sweep(self, name: str) -> Looked:
        fleet = await self._fleets.get(name)
        await self._members.sweep(fleet)
        pointer = await self._images.sweep(fleet)
        await self._images.tell(name, pointer)  # by the tick alone: looks at the same time would call people twice
        return Looked("its members and its pointer were looked at", over(pointer))
