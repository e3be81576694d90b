"""The one loop that receives messages, has them handled, and deletes them last."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, assert_never

import structlog

from shared.clock import Clock
from shared.cloud import CloudError, QueueMessage, QueuePort
from shared.events import Ignorable, Incoming, Several, Unparseable, parse
from shared.messages import Requested, Tick
from shared.outcome import Done, LookAgain, Outcome, Reject, Retry
from shared.tracing import ATTRIBUTES_LIMIT, Handling, failed

log = structlog.get_logger()

R = TypeVar("R", bound=Requested)

BATCH = 10
"""The most that one SQS request receives or deletes."""

POLL_S = 20
"""The longest that SQS waits for a message: fewest requests when idle."""

VISIBILITY_S = 15
"""How soon others see the messages of a process that died."""

EXTEND_EVERY_S = 5
"""So that an extension may fail without a message showing itself."""

AT_ONCE = 40
"""Messages held at a time: four batches, for handlers that wait for AWS most of the time."""

RECEIVES = AT_ONCE // BATCH
"""Requests to receive on their way at once while batches come full: a process that seldom sleeps needs less time for
each message. An idle queue is asked by one."""

LINGER_S = 0.05
"""How long a delete, or a receive with little room, waits for company. A tenth of the requests for it."""

LONGEST_S = 600
"""A handler that takes longer is stuck: it is cancelled, and the message shown again."""

TRIES = 5
"""Receives after which a message that still fails goes to the dead-letter queue.

With the delays between them that is after two and a half to five minutes. The queue's own redrive policy (20 receives)
is for messages that kill the process each time. SQS counts receives, not failures: one that was handed back or outlived
its process counts as well. It makes a message a dead letter only if handling then fails too, and stopping hands back
only what did not finish within ``STOP_S``.
"""

LONGEST_RETRY_S = 900
LONGEST_DELAY_S = 900
"""SQS delays no message for longer."""

LONGEST_BACKOFF_S = 30
STOP_S = 20
"""What handlers get to finish in after ``stop``; ECS kills after 30 s."""

REASON_LIMIT = 1000


def about(incoming: Incoming) -> str:
    """Say what a message is about: its server, else its fleet, else the thing that it names. Pure.

    Messages about the same thing are handled one after another.
    """
    fields = vars(incoming)
    for name in ("server", "fleet", "image", "command", "name", "key"):
        if value := fields.get(name):
            return f"{name} {value}"
    return ""


def retry_delay(receive_count: int, randomness: random.Random) -> int:
    """Return the seconds until a failed message shows itself again: 1, 5, 25, ... up to twice that by chance."""
    return math.ceil(min(LONGEST_RETRY_S, 5.0 ** (receive_count - 1) * randomness.uniform(1, 2)))


@dataclass(eq=False)
class _Held:
    """A message that was received and not yet settled."""

    message: QueueMessage
    incoming: Incoming | Unparseable
    began: float | None = None
    task: asyncio.Task[None] | None = None
    overdue: bool = False


@dataclass(eq=False)
class _Lane:
    """Messages about the same thing, in the order in which they came."""

    waiting: deque[_Held] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


class Consumer:
    """Receives, handles and settles messages until told to stop.

    A handler answers with an outcome. If it raises, the message is retried: a CloudError is logged by its class, any
    other exception with its traceback. Up to ``AT_ONCE`` messages are held at a time, and received only when there is
    room; those about the same thing (``key``) are handled one after another, others in parallel, and ticks that wait
    together. What is held stays hidden from other processes. A message is deleted last; what cannot be handled goes to
    the dead-letter queue with the attribute ``reason``, and is then deleted.
    """

    def __init__(
        self,
        queue: QueuePort,
        handler: Callable[[Incoming], Awaitable[Outcome]],
        clock: Clock,
        randomness: random.Random,
        *,
        queue_name: str = "",
        key: Callable[[Incoming], str] = about,
        heartbeat_file: Path | None = None,
    ) -> None:
        self._queue = queue
        self._queue_name = queue_name
        self._handler = handler
        self._clock = clock
        self._random = randomness
        self._key = key
        self._heartbeat_file = heartbeat_file
        self._held: dict[str, _Held] = {}
        self._asked_for = 0
        self._finding_room = asyncio.Lock()
        self._busy = asyncio.Event()
        self._lanes: dict[str, _Lane] = {}
        self._deletes: list[str] = []
        self._lingering = False
        self._room_made = asyncio.Event()
        self._holding = asyncio.Event()
        self._changing_visibility = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._tasks: asyncio.TaskGroup

    def stop(self) -> None:
        """Receive no more; ``run`` returns once what is held is finished or handed back."""
        self._stopping.set()

    async def run(self) -> None:
        """Consume until ``stop``; an error that is nobody's fault but ours ends it as an ExceptionGroup."""
        async with asyncio.TaskGroup() as self._tasks:
            extending = self._tasks.create_task(self._extend())
            polling = [self._tasks.create_task(self._poll(place)) for place in range(RECEIVES)]
            await self._stopping.wait()
            for task in polling:
                task.cancel()
            await self._finish()
            extending.cancel()

    async def _poll(self, place: int) -> None:
        """Receive whenever there is room; all but the first only while batches come full."""
        failures = 0
        while True:
            if place > 0:
                await self._busy.wait()
            try:
                messages = await self._receive()
            except CloudError as error:
                failures += 1
                log.warning("receiving failed", error=type(error).__name__, why=str(error), failures=failures)
                await self._clock.sleep(self._backoff(failures))
                continue
            failures = 0
            for message in messages:
                self._accept(message)
            await asyncio.sleep(0)  # handlers start first: making the next request takes a millisecond

    async def _receive(self) -> Sequence[QueueMessage]:
        async with self._finding_room:
            limit = await self._room()
            self._asked_for += limit
        full = False
        try:
            messages = await self._queue.receive(limit, POLL_S, VISIBILITY_S)
            full = len(messages) == BATCH
            return messages
        finally:
            self._asked_for -= limit
            self._room_made.set()
            if full:
                self._busy.set()
            else:
                self._busy.clear()

    def _backoff(self, failures: int) -> float:
        return min(LONGEST_BACKOFF_S, 2.0 ** min(failures, 10)) * self._random.uniform(0.5, 1)

    async def _room(self) -> int:
        """Wait until there is room, and say for how many; show that the loop lives."""
        self._touch()
        while self._free() <= 0:
            self._room_made.clear()
            await self._room_made.wait()
            self._touch()
        if self._free() < BATCH:
            await self._clock.sleep(LINGER_S)
        return min(BATCH, self._free())

    def _free(self) -> int:
        return AT_ONCE - len(self._held) - self._asked_for

    def _touch(self) -> None:
        if self._heartbeat_file is not None:
            self._heartbeat_file.touch()

    def _accept(self, message: QueueMessage) -> None:
        try:
            incoming: Incoming | Unparseable = parse(message.body)
        except Unparseable as error:
            incoming = error
        if isinstance(incoming, Requested):
            message, incoming = _completed(message, incoming)
        held = self._held[message.receipt] = _Held(message, incoming)
        self._holding.set()
        key = message.id if isinstance(incoming, Unparseable) else self._key(incoming)
        lane = self._lanes.setdefault(key, _Lane())
        lane.waiting.append(held)
        if lane.task is None:
            lane.task = self._tasks.create_task(self._drive(key, lane))

    async def _drive(self, key: str, lane: _Lane) -> None:
        """Work off a lane, message by message; ticks that wait are served by one look, as after an outage."""
        try:
            while lane.waiting:
                held = lane.waiting.popleft()
                alike = [each for each in lane.waiting if _is_same_tick(held, each)]
                for each in alike:
                    lane.waiting.remove(each)
                await self._work(held, alike)
        finally:
            del self._lanes[key]

    async def _work(self, held: _Held, alike: Sequence[_Held]) -> None:
        message, incoming = held.message, held.incoming
        with Handling(self._queue_name, message, incoming, self._clock) as handled:
            outcome = await self._outcome(held)
            handled.answered(outcome)
            for each in (held, *alike):
                try:
                    await self._settle(each.message, outcome)
                except CloudError as error:
                    log.warning("not settled; it will come again", error=type(error).__name__, why=str(error))
        for each in (held, *alike):
            self._release(each)

    def _release(self, held: _Held) -> None:
        del self._held[held.message.receipt]
        self._room_made.set()
        if not self._held:
            self._holding.clear()

    async def _outcome(self, held: _Held) -> Outcome:
        if isinstance(held.incoming, Unparseable):
            return Reject(str(held.incoming))
        if isinstance(held.incoming, Ignorable):
            return Done(held.incoming.what)
        held.began, held.task = self._clock.monotonic(), asyncio.current_task()
        try:
            return await self._answer(held.message, held.incoming)
        except CloudError as error:
            failed(error)
            return Retry(f"{type(error).__name__}: {error}")
        except asyncio.CancelledError:
            if not held.overdue or held.task is None:
                raise
            held.task.uncancel()
            return Retry(f"handling took more than {LONGEST_S} s")
        except Exception as error:
            log.exception("the handler failed")
            failed(error)
            return Retry(f"{type(error).__name__}: {error}")
        finally:
            held.task = None

    async def _answer(self, message: QueueMessage, incoming: Incoming) -> Outcome:
        """Ask the handler; or send several events on, each as a message of its own (again, where one failed)."""
        if not isinstance(incoming, Several):
            return await self._handler(incoming)
        for body in incoming.bodies:
            await self._queue.send(body, 0, message.attributes)
        return Done(f"sent on as {len(incoming.bodies)} messages")

    async def _settle(self, message: QueueMessage, outcome: Outcome) -> None:
        match outcome:
            case Done():
                log.info("done", why=outcome.why)
                self._delete(message.receipt)
            case LookAgain():
                log.debug("look again", why=outcome.why, after_s=outcome.after_s)
                delay_s = max(1, min(LONGEST_DELAY_S, outcome.after_s))
                await self._queue.send(message.body, delay_s, message.attributes)
                self._delete(message.receipt)
            case Retry() if message.receive_count >= TRIES:
                await self._bury(message, f"failed {message.receive_count} times; the last time: {outcome.why}")
            case Retry():
                await self._show_again(message, outcome)
            case Reject():
                await self._bury(message, outcome.why)
            case _:
                assert_never(outcome)

    async def _show_again(self, message: QueueMessage, outcome: Retry) -> None:
        chosen = retry_delay(message.receive_count, self._random) if outcome.after_s is None else outcome.after_s
        after_s = max(0, min(LONGEST_RETRY_S, chosen))
        log.warning("retry", why=outcome.why, after_s=after_s, receives=message.receive_count)
        await self._queue.extend({message.receipt: after_s})

    async def _bury(self, message: QueueMessage, reason: str) -> None:
        reason = _printable(reason)
        log.error("dead letter", reason=reason, receives=message.receive_count)
        kept = dict(list(message.attributes.items())[: ATTRIBUTES_LIMIT - 1])
        await self._queue.send_dead(message.body, {**kept, "reason": reason})
        self._delete(message.receipt)

    def _delete(self, receipt: str) -> None:
        """Delete in company: as soon as there are ten, or a moment later."""
        self._deletes.append(receipt)
        if len(self._deletes) == BATCH:
            self._tasks.create_task(self._flush())
        elif not self._lingering:
            self._lingering = True
            self._tasks.create_task(self._flush_soon())

    async def _flush_soon(self) -> None:
        await self._clock.sleep(LINGER_S)
        self._lingering = False
        await self._flush()

    async def _flush(self) -> None:
        receipts, self._deletes = self._deletes, []
        if not receipts:
            return
        try:
            failed = await self._queue.delete(receipts)
        except CloudError as error:
            log.warning("deleting failed", error=type(error).__name__, why=str(error), messages=len(receipts))
            return
        if failed:
            log.warning("some were not deleted; they will come again", messages=len(failed))

    async def _extend(self) -> None:
        """Keep what is held hidden, cancel what is stuck, and let the poll loop show that it lives."""
        while True:
            await self._holding.wait()
            await self._clock.sleep(EXTEND_EVERY_S)
            self._room_made.set()
            self._cancel_stuck()
            await self._show_after(dict.fromkeys(self._held, VISIBILITY_S))

    def _cancel_stuck(self) -> None:
        now = self._clock.monotonic()
        for held in self._held.values():
            if held.task is not None and held.began is not None and now - held.began > LONGEST_S:
                held.overdue = True
                held.task.cancel()

    async def _show_after(self, receipts: Mapping[str, int]) -> None:
        """Change when messages show themselves. Should that fail, somebody else may handle one too: harmless.

        One request at a time: an extension that overtook a handing back would hide what nobody holds any more.
        """
        if not receipts:
            return
        try:
            async with self._changing_visibility:
                failed = await self._queue.extend(receipts)
        except CloudError as error:
            log.warning(
                "changing visibility failed", error=type(error).__name__, why=str(error), messages=len(receipts)
            )
            return
        if failed:
            log.warning("some messages may show themselves too early", messages=len(failed))

    async def _finish(self) -> None:
        """Let handlers finish within ``STOP_S``; then hand back what is left."""
        limit = asyncio.create_task(self._clock.sleep(STOP_S))
        while (driving := self._driving()) and not limit.done():
            await asyncio.wait({limit, *driving}, return_when=asyncio.FIRST_COMPLETED)
        limit.cancel()
        if driving:
            for task in driving:
                task.cancel()
            await asyncio.wait(driving)
        if self._held:
            log.warning("handing back", messages=len(self._held))
        await self._show_after(dict.fromkeys(self._held, 0))

    def _driving(self) -> set[asyncio.Task[None]]:
        return {lane.task for lane in self._lanes.values() if lane.task is not None}


def _completed(message: QueueMessage, request: R) -> tuple[QueueMessage, R]:
    """Fill in what a person left out; the body too, since it may go on from here as another message. Pure."""
    whole = request.completed(message.id, message.sent)
    return (message if whole is request else message._replace(body=whole.model_dump_json())), whole


def _is_same_tick(one: _Held, other: _Held) -> bool:
    return isinstance(one.incoming, Tick) and one.message.body == other.message.body


def _printable(reason: str) -> str:
    """Keep what SQS takes as an attribute's value. Pure."""
    return "".join(sign if sign.isprintable() else " " for sign in reason[:REASON_LIMIT]) or "unknown"
