"""Sets the releases that people ask for by message; the command line does the same by itself."""

from __future__ import annotations

from services.registry.decide import SAME_REQUEST
from shared.components import CannotSet, Components
from shared.messages import ReleaseSetRequested, ReleaseUndoRequested
from shared.outcome import Done, Outcome, Reject
from shared.records import Release


class ReleaseRequests:
    """Carries them out. All calls raise CloudError, CorruptDocument and UnknownFleet, and may be repeated."""

    def __init__(self, components: Components) -> None:
        self._components = components

    async def asked(self, request: ReleaseSetRequested | ReleaseUndoRequested) -> Outcome:
        """Set a release or go back to the one before, unless that was done or overtaken."""
        present = (await self._components.standing(request.fleet, request.component)).current
        late = overtaken(request, present)
        if late is not None:
            await self._components.tell(request.fleet, request.component)
            return Done(late)
        try:
            pointer, changed = await self._carry_out(request)
        except CannotSet as error:
            return Reject(str(error))
        what = f"release {pointer.version} of {pointer.component}"
        return Done(f"{what} is set by {pointer.by}" if changed else f"{what} was set before")

    async def _carry_out(self, request: ReleaseSetRequested | ReleaseUndoRequested) -> tuple[Release, bool]:
        fleet, component, by, reason = request.fleet, request.component, request.by, request.reason
        follow, asked = request.rollout, request.asked
        if isinstance(request, ReleaseUndoRequested):
            return await self._components.undo(fleet, component, by=by, reason=reason, rollout=follow, asked=asked)
        return await self._components.set(
            fleet, component, request.version, by=by, reason=reason, rollout=follow, asked=asked
        )


def overtaken(request: ReleaseSetRequested | ReleaseUndoRequested, present: Release | None) -> str | None:
    """Say why a request no longer counts: it was carried out, or a release was asked for since it was. Pure."""
    if present is None:
        return None
    if request.asked < present.newest:
        return f"{present.by} asked for {present.version} at {present.newest}, after this was asked for"
    recent = present.by == request.by and request.asked - present.newest < SAME_REQUEST
    if isinstance(request, ReleaseUndoRequested):
        again = recent and present.undo
        return f"{present.by} went back to {present.version} a moment ago; to go elsewhere, set it" if again else None
    again = recent and present.version == request.version and request.rollout in (None, present.rollout)
    return f"{present.by} set {present.version} a moment ago" if again else None
