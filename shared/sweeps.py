"""Looking at fleets one after the other: trouble with one is told, and never keeps the others from being looked at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from shared.alerts import Alerts
from shared.cloud import CloudError, Denied
from shared.documents import CorruptDocument
from shared.fleets import Fleets, UnknownFleet
from shared.names import ServiceName
from shared.outcome import Done, Outcome

log = structlog.get_logger()


@dataclass(frozen=True)
class Looked:
    """What came of a look."""

    told: str
    over: frozenset[str] = frozenset()
    """Causes of alerts that are not to stand any more."""


Look = Callable[[str], Awaitable[Looked]]
"""Looks at the fleet of this name."""


class Sweeps:
    """Runs one service's looks at fleets."""

    def __init__(self, alerts: Alerts, fleets: Fleets, service: ServiceName) -> None:
        self._alerts = alerts
        self._fleets = fleets
        self._cause = f"{service}-denied"

    async def one(self, fleet: str, look: Look) -> Outcome:
        """Look at one fleet, and clear what is over; a denied call calls a person. Raises whatever ``look`` raises."""
        try:
            looked = await look(fleet)
        except Denied as error:
            await self._alerts.raise_alert(fleet, self._cause, str(error), "aws sts get-caller-identity")
            raise
        await self._alerts.clear_all(fleet, {self._cause, *looked.over})
        return Done(looked.told)

    async def some(self, only: str | None, look: Look) -> Outcome:
        """Look at the fleet that a tick names, or at every one; only then raise what went wrong first.

        Of every fleet a document that cannot be read calls a person. That is no reason to look at all of them again:
        the next tick does, and dead letters of ticks would pile up until somebody has mended it.

        Raises:
            UnknownFleet: nobody described the fleet that is named.
            CorruptDocument: one of the fleet that is named, or one that is no fleet's.
            CloudError: some call failed; looking at all again is harmless.
        """
        if only is not None:
            return await self.one(only, look)
        told: list[str] = []
        failed: list[CloudError | CorruptDocument] = []
        for fleet in await self._fleets.folders():
            try:
                told.append(f"{fleet}: {(await self.one(fleet, look)).why}")
            except UnknownFleet:
                continue  # what is left in the folder of a fleet that is no more
            except CorruptDocument as error:
                told.append(f"{fleet}: {error}")
                failed += [] if await self._alerts.corrupt(error) else [error]
            except CloudError as error:
                log.warning("look failed", fleet=fleet, reason=str(error))
                failed.append(error)
        if failed:
            raise failed[0]
        return Done("; ".join(told) or "there are no fleets")
