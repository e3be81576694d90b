"""Looking at fleets one after the other: trouble with one is told, and never keeps the others from being looked at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from shared.alerts import Alerts
from shared.cloud import CloudError, Denied
from shared.documents import CorruptDocument
from shared.fleets import UnknownFleet
from shared.names import ServiceName
from shared.outcome import Done, Outcome

Look = Callable[[str], Awaitable[str]]
"""Looks at the fleet of this name and says what came of it."""


class Sweeps:
    """Runs one service's looks at fleets."""

    def __init__(self, alerts: Alerts, service: ServiceName) -> None:
        self._alerts = alerts
        self._cause = f"{service}-denied"

    async def one(self, fleet: str, look: Look) -> Outcome:
        """Look at one fleet; a call that AWS denied calls a person. Raises whatever ``look`` raises."""
        try:
            told = await look(fleet)
        except Denied as error:
            await self._alerts.raise_alert(fleet, self._cause, str(error), "aws sts get-caller-identity")
            raise
        await self._alerts.clear(fleet, self._cause)
        return Done(told)

    async def all(self, fleets: Sequence[str], look: Look) -> Outcome:
        """Look at every fleet, and only then raise what went wrong first: what cannot be read before passing faults.

        Raises:
            CorruptDocument: some fleet's.
            CloudError: some call failed; looking at all again is harmless.
        """
        told: list[str] = []
        corrupt: list[CorruptDocument] = []
        failed: list[CloudError] = []
        for fleet in fleets:
            try:
                told.append(f"{fleet}: {(await self.one(fleet, look)).why}")
            except UnknownFleet as error:
                told.append(str(error))
            except CorruptDocument as error:
                corrupt.append(error)
            except CloudError as error:
                failed.append(error)
        if corrupt or failed:
            raise [*corrupt, *failed][0]
        return Done("; ".join(told) or "there are no fleets")
