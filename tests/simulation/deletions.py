"""What becomes of one message: whether it may be deleted (10), and what was only half read on its account (6).

It may be deleted once its effect is durable, or somebody found that there is nothing to do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from shared.cloud import CloudError, QueueMessage
from shared.events import Ignorable, Incoming, Several, Unparseable, parse
from shared.messages import Requested
from shared.outcome import Done, Outcome
from shared.tracing import add_handled

if TYPE_CHECKING:
    from tests.simulation.process import Process


@dataclass(eq=False)
class Handled:
    """One message being handled."""

    body: str
    began: float
    failed: dict[str, str] = field(default_factory=dict)
    """Changes that this handling asked for, of which nobody knows whether they were made, and why."""
    unread: set[str] = field(default_factory=set)
    """What this handling read half of, and did not read again since."""


FORGOES = ("chaos",)
"""Services that let a kill go by rather than toss the coin again."""

HANDLED: ContextVar[Handled | None] = ContextVar("handled", default=None)


class Deletions:
    """What one process received and did about it, as far as its deletions can be judged by it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._received: dict[str, tuple[float, QueueMessage]] = {}
        self._bodies: dict[str, str] = {}
        self._done: dict[str, float] = {}
        """Body to when the latest handling of it began that ended well."""
        self._sent: dict[str, float] = {}
        """Body to when it was last sent to the queue, or to the dead letters."""

    def received(self, messages: Sequence[QueueMessage]) -> None:
        """Note what came."""
        now = self._process.world.loop.time()
        self._received.update({each.receipt: (now, each) for each in messages})
        self._bodies.update({each.id: each.body for each in messages})

    def sent(self, body: str) -> None:
        """Note that a message was durably put into the queue, or among the dead letters."""
        self._sent[body] = self._process.world.loop.time()

    def watch(self, handle: Callable[[Incoming], Awaitable[Outcome]]) -> Callable[[Incoming], Awaitable[Outcome]]:
        """Return the handler, with note taken of what it answers and of the changes that fail meanwhile."""

        async def watched(incoming: Incoming) -> Outcome:
            message = add_handled(None, "", {})["message"]
            handled = Handled(self._bodies[message], self._process.world.loop.time())
            token = HANDLED.set(handled)
            try:
                outcome = await handle(incoming)
            finally:
                HANDLED.reset(token)
            if isinstance(outcome, Done):
                self._done[handled.body] = max(handled.began, self._done.get(handled.body, 0.0))
            if isinstance(outcome, Done) and handled.failed and self._process.service not in FORGOES:
                what, why = next(iter(handled.failed.items()))
                self._process.world.violated(
                    10, f"{self._process.name} is done with {handled.body[:200]}, and {what} failed: {why}"
                )
            return outcome

        return watched

    def judge(self, receipts: Sequence[str]) -> None:
        """Say so where a message is about to be deleted too early."""
        for receipt in receipts:
            at, message = self._received.pop(receipt, (0.0, None))
            if message is not None and not self._may_go(at, message):
                text = f"{self._process.name} deletes {message.id}, and nothing has come of it: {message.body[:200]}"
                self._process.world.violated(10, text)

    def _may_go(self, at: float, message: QueueMessage) -> bool:
        """It was sent on, is nothing to anybody, or a handling of it that began after it came ended well."""
        if self._sent.get(message.body, -1.0) >= at:
            return True
        try:
            incoming = _parsed(message.body)
        except Unparseable:
            return False
        if isinstance(incoming, Requested):
            whole = incoming.completed(message.id, message.sent).model_dump_json()
            return self._sent.get(whole, -1.0) >= at or self._answered(at, message.body)
        if isinstance(incoming, Ignorable):
            return True
        if isinstance(incoming, Several):
            return all(self._sent.get(body, -1.0) >= at for body in incoming.bodies)
        return self._answered(at, message.body)

    def _answered(self, at: float, body: str) -> bool:
        """Ticks that waited are served by one look, so whose answer it is does not matter: when it began does."""
        return self._done.get(body, -1.0) >= at


def forget() -> None:
    """Begin a run: reading a message may draw an id for it, so what an earlier run read would change this one's."""
    _parsed.cache_clear()


@lru_cache(maxsize=1000)
def _parsed(body: str) -> Incoming:
    return parse(body)  # most messages are ticks, which are alike


def failed(what: str, error: CloudError) -> None:
    """Note a change of which nobody knows whether it was made."""
    handled = HANDLED.get()
    if handled is not None:
        handled.failed[what] = f"{type(error).__name__}: {error}"


def known(what: str) -> None:
    """Note that a change was made, or that whoever asked for it looked whether it was."""
    handled = HANDLED.get()
    if handled is not None:
        handled.failed.pop(what, None)


def read(method: str, *, whole: bool) -> None:
    """Note how a read ended."""
    handled = HANDLED.get()
    if handled is not None:
        (handled.unread.discard if whole else handled.unread.add)(method)


def unread() -> set[str]:
    """Return what whoever asks read half of."""
    handled = HANDLED.get()
    return handled.unread if handled is not None else set()
