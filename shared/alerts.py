"""Telling people, once: an alert stands for its fleet and cause until it is cleared."""

from __future__ import annotations

from collections.abc import Callable, Collection

from shared.clock import Clock
from shared.cloud import PublisherPort
from shared.documents import CorruptDocument, Documents
from shared.hints import delete_command, show_command
from shared.messages import AlertCleared, AlertRaised
from shared.records import Alarm, alert_key

REASON_LIMIT = 2000
LOG_TAIL_LIMIT = 8000


class Alerts:
    """Raises and clears alerts.

    The document comes first and says whether the alert was announced; so a crash between writing and publishing is
    made good by whoever raises the same alert next. Should two publish it, both messages have the same id.
    """

    def __init__(self, documents: Documents, publisher: PublisherPort, clock: Clock) -> None:
        self._documents = documents
        self._publisher = publisher
        self._clock = clock

    async def raise_alert(
        self, fleet: str, cause: str, reason: str, next_command: str, *, step: str | None = None, log_tail: str = ""
    ) -> bool:
        """Raise an alert unless it stands already; True when this call published it.

        ``cause`` is a short word that tells this trouble from others of the fleet, such as ``bake-failed``.
        Too long a reason loses its end, too long a log tail its beginning. Raises CloudError and CorruptDocument.
        """
        key = alert_key(fleet, cause)
        now = self._clock.now()
        alarm = Alarm(fleet=fleet, cause=cause, reason=reason, next=next_command, raised=now)
        standing = await self._documents.get(Alarm, key)  # it stands already, mostly: a read costs less than a write
        if standing is None:
            standing = await self._documents.create(key, alarm) or await self._documents.get(Alarm, key)
        if standing is None or standing.announced:
            return False
        message = AlertRaised(
            id=standing.write_id,
            time=now,
            fleet=fleet,
            cause=cause,
            reason=reason[:REASON_LIMIT],
            step=step,
            log_tail=log_tail[-LOG_TAIL_LIMIT:],
            next=next_command[:REASON_LIMIT],
        )
        await self._publisher.publish(message)
        await self._documents.change(Alarm, key, _announced)
        return True

    async def corrupt(self, error: CorruptDocument) -> bool:
        """Raise the alert that stands for this document until a person, having mended it, deletes the alert's own.

        False where it is no fleet's: nobody was told.
        """
        root, fleet, *rest = error.key.split("/")
        if root != "fleets":
            return False
        cause = "corrupt-" + "-".join(rest).removesuffix(".json")
        mend = f"{show_command(error.key)}; mend it; then {delete_command(alert_key(fleet, cause))}"
        await self.raise_alert(fleet, cause, str(error), mend)
        return True

    async def clear(self, fleet: str, cause: str) -> bool:
        """Clear the alert and say so; False when none stands. Raises CloudError and CorruptDocument."""
        key = alert_key(fleet, cause)
        if await self._documents.get(Alarm, key) is None:
            return False
        message = AlertCleared(time=self._clock.now(), fleet=fleet, cause=cause)
        await self._publisher.publish(message)
        await self._documents.delete(key)
        return True

    async def clear_all(self, fleet: str, causes: Collection[str]) -> None:
        """Clear the alerts of these causes that stand: one request finds out which. Raises as ``clear``."""
        if len(causes) == 1:
            [cause] = causes
            await self.clear(fleet, cause)
        else:
            await self.clear_where(fleet, causes.__contains__)

    async def clear_where(self, fleet: str, over: Callable[[str], bool], prefix: str = "") -> None:
        """Clear the fleet's alerts whose cause begins with ``prefix`` and is over. One listing finds what stands.

        Raises CloudError and CorruptDocument.
        """
        for key in await self._documents.keys(alert_key(fleet, prefix).removesuffix(".json")):
            cause = key.rsplit("/", 1)[1].removesuffix(".json")
            if over(cause):
                await self.clear(fleet, cause)


def _announced(alarm: Alarm | None) -> Alarm | None:
    return alarm and alarm.model_copy(update={"announced": True})
