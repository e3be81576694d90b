"""Telling what was done, also when the process dies between doing it and telling.

What is to be said is written into the document that records the effect, in the same write and before the effect. Once
it was published it is taken out again; what a process that died left there, the next look publishes. So a message may
be published twice, under the same id, and is never lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

import structlog

from shared.clock import Clock
from shared.cloud import PublisherPort
from shared.documents import Documents
from shared.records import Announced, Announcement, Announcing
from shared.tracing import joined, traceparent

A = TypeVar("A", bound=Announcing)

FORGOTTEN_AFTER = timedelta(minutes=15)
"""Longer than a handler may take: what has not happened by then was given up, and whoever tries again says it anew."""

log = structlog.get_logger()


def to_announce(document: A, announcement: Announcement) -> A:
    """Return the document with this in its outbox; as it is when the same message is there already. Pure."""
    if any(each.message.id == announcement.message.id for each in document.outbox):
        return document
    return document.model_copy(update={"outbox": (*document.outbox, announcement)})


def without(document: A | None, ids: Iterable[str]) -> A | None:
    """Return the document without these messages in its outbox. Pure."""
    if document is None:
        return None
    kept = tuple(each for each in document.outbox if each.message.id not in ids)
    return document.model_copy(update={"outbox": kept})


class Outbox:
    """Empties the outboxes of documents."""

    def __init__(self, documents: Documents, publisher: PublisherPort, clock: Clock) -> None:
        self._documents = documents
        self._publisher = publisher
        self._clock = clock

    def announcement(self, message: Announced) -> Announcement:
        """Return what to put into a document: the message, and when and in which trace that was."""
        return Announcement(message=message, at=self._clock.now(), trace=traceparent())

    async def publish(
        self, model: type[A], key: str, waiting: Sequence[Announcement], happened: Callable[[Announced], bool]
    ) -> None:
        """Publish those of the waiting that have happened, and take them out of the document.

        What has not happened waits on, for ``FORGOTTEN_AFTER``. Raises CloudError and CorruptDocument.
        """
        done = [each for each in waiting if happened(each.message)]
        for each in done:
            with joined(each.trace, "announce"):
                await self._publisher.publish(each.message)
        since = self._clock.now() - FORGOTTEN_AFTER
        forgotten = [each for each in waiting if each not in done and each.at < since]
        for each in forgotten:
            log.warning("it never happened, and is not announced", announcement=each.message.type, id=each.message.id)
        ids = {each.message.id for each in (*done, *forgotten)}
        if ids:
            await self._documents.change(model, key, lambda old: without(old, ids))
