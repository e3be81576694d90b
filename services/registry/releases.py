"""Sets the releases that people ask for by message; the command line does the same by itself."""

from __future__ import annotations

from datetime import datetime, timedelta

from shared.clock import Clock
from shared.components import CannotSet, Components
from shared.messages import ReleaseSetRequested, ReleaseUndoRequested
from shared.outcome import Done, Outcome, Reject
from shared.records import Release

SAME_REQUEST = timedelta(minutes=10)
"""A person's request carries no id that survives a second delivery: the same one again so soon is the same one."""


class ReleaseRequests:
    """Carries them out. All calls raise CloudError, CorruptDocument and UnknownFleet, and may be repeated."""

    def __init__(self, components: Components, clock: Clock) -> None:
        self._components = components
        self._clock = clock

    async def asked(self, request: ReleaseSetRequested | ReleaseUndoRequested) -> Outcome:
        """Set a release or go back to the one before, unless that was done or overtaken."""
        present = (await self._components.standing(request.fleet, request.component)).current
        late = overtaken(request, present, self._clock.now())
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
        fleet, component, by = request.fleet, request.component, request.by
        if isinstance(request, ReleaseUndoRequested):
            return await self._components.undo(fleet, component, by=by, reason=request.reason, rollout=request.rollout)
        return await self._components.set(
            fleet, component, request.version, by=by, reason=request.reason, rollout=request.rollout
        )


def overtaken(
    request: ReleaseSetRequested | ReleaseUndoRequested, present: Release | None, now: datetime
) -> str | None:
    """Say why a request no longer counts: it was carried out, or a release was set since it was made. Pure."""
    if present is None:
        return None
    if request.time is not None:
        late = present.since > request.time
        return f"{present.by} set {present.version} at {present.since}, after this was asked for" if late else None
    recent = present.by == request.by and now - present.since < SAME_REQUEST
    if isinstance(request, ReleaseUndoRequested):
        again = recent and present.undo
        return f"{present.by} went back to {present.version} a moment ago; to go elsewhere, set it" if again else None
    again = recent and present.version == request.version and request.rollout in (None, present.rollout)
    return f"{present.by} set {present.version} a moment ago" if again else None
