"""What is written down before every destructive call: who did what to whom, and why."""

from __future__ import annotations

from shared import metrics
from shared.clock import Clock
from shared.documents import Documents
from shared.names import ServiceName
from shared.records import Audit, audit_key

REASON_LIMIT = 2000


class Audits:
    """Writes audit documents for one service."""

    def __init__(self, documents: Documents, clock: Clock, service: ServiceName) -> None:
        self._documents = documents
        self._clock = clock
        self._service = service

    async def write(self, fleet: str, action: str, target: str, by: str, reason: str) -> None:
        """Write that ``action`` is about to be done to ``target``. If this raises, it must not be done.

        Raises:
            CloudError: it is not written.
        """
        now = self._clock.now()
        key = audit_key(fleet, now, action, target)
        audit = Audit(
            fleet=fleet,
            service=self._service,
            action=action,
            target=target,
            by=by,
            reason=reason[:REASON_LIMIT],
            at=now,
        )
        await self._documents.create(key, audit)
        metrics.disrupted(fleet, action)
