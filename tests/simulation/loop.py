"""Virtual time: an event loop that never waits, and clocks that read it."""

from __future__ import annotations

import asyncio
import heapq
from asyncio import AbstractEventLoop, Future, events
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from concurrent.futures import Executor
from contextvars import Context
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START = datetime(2026, 3, 4, tzinfo=UTC)
"""Midnight before a Wednesday: where every simulation begins."""


class Stalled(Exception):
    """Nothing is left that could ever happen."""


class _Task(asyncio.Task[T]):
    """A task that hashes to its number: sets of tasks are then gone through in the same order each time."""

    _numbers = count()

    def __init__(self, coroutine: Any, **options: Any) -> None:
        self._number = next(self._numbers)
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class Handle:
    """A callback that is yet to run."""

    __slots__ = ("_args", "_callback", "context", "gone")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context) -> None:
        self._callback = callback
        self._args = args
        self.context = context
        self.gone = False

    def cancel(self) -> None:
        """Do not run it."""
        self.gone = True

    def cancelled(self) -> bool:
        """Whether it is not to run."""
        return self.gone


Gate = Callable[[Handle], bool]
"""Asked before each callback; False: it is not to run now, and whoever says so keeps it."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose time passes only when nobody has anything to do. What would use a thread runs at once.

    asyncio's own loop could do it, and was a large part of a run's time: it looks at sockets and compares timers by a
    method.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._next: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle | Future[None]]] = []
        self._numbers = count()
        self._nobodys = Context()
        """What has no context of its own runs in this one: what a call of a process sets going is the world's."""
        self._ends = self._closed = False
        self._trouble: Callable[[AbstractEventLoop, dict[str, Any]], object] | None = None
        self.gate: Gate | None = None

    # Time.

    def time(self) -> float:
        """Return the seconds since the simulation began."""
        return self._now

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None) -> Any:
        """Run it next."""
        handle = Handle(callback, args, self._nobodys if context is None else context)
        self._next.append(handle)
        return handle

    def go_on(self, handles: Iterable[Handle]) -> None:
        """Run what was kept back."""
        self._next.extend(handles)

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> Any:
        """Run it in a while."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> Any:
        """Run it then."""
        handle = Handle(callback, args, self._nobodys if context is None else context)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Let time pass: as ``asyncio.sleep`` does, at a third of the cost."""
        future: Future[None] = Future(loop=self)
        heapq.heappush(self._timers, (self._now + seconds, next(self._numbers), future))
        return future

    # Running.

    def run_forever(self) -> None:
        """Run until ``stop``.

        Raises:
            Stalled: nothing is left that could ever happen.
        """
        events._set_running_loop(self)
        try:
            while True:
                self._run_ready()
                if self._ends:
                    return
                self._pass_time()
        finally:
            self._ends = False
            events._set_running_loop(None)

    def _run_ready(self) -> None:
        """Run what is ready; what becomes ready meanwhile runs as well, unless the loop is to stop."""
        ready = self._next
        while ready and not self._ends:
            handle = ready.popleft()
            if handle.gone or (self.gate is not None and not self.gate(handle)):
                continue
            try:
                handle.context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001  told to whoever asked to be
                self.call_exception_handler({"message": "a callback failed", "exception": error})

    def _pass_time(self) -> None:
        """Jump to the next timer, and make all ready that are due then."""
        timers = self._timers
        if not timers:
            raise Stalled("nothing is left that could ever happen")
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            due = heapq.heappop(timers)[2]
            if isinstance(due, Handle):
                self._next.append(due)
            elif not due.done():
                due.set_result(None)

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        """Run until it is done; return its result."""
        wanted: Future[T] = asyncio.ensure_future(future, loop=self)  # type: ignore[arg-type]
        wanted.add_done_callback(lambda _: self.stop())
        self.run_forever()
        return wanted.result()

    def stop(self) -> None:
        """Have ``run_forever`` return after the callback that runs now."""
        self._ends = True

    def is_running(self) -> bool:
        """Whether it runs."""
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def close(self) -> None:
        """Forget everything."""
        self._closed = True
        self._next.clear()
        self._timers.clear()

    # What asyncio asks of a loop.

    get_debug = staticmethod(bool)
    """There is no debug mode. Each future asks: a function of our own took a hundredth of a run to say so."""

    def create_future(self) -> Future[Any]:
        """Return a future."""
        return Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """Begin a task. Without a context it has that of who begins it."""
        return _Task(coro, loop=self, name=name, context=context)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> Future[T]:
        """Run it now, in this thread."""
        future: Future[T] = Future(loop=self)
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  raised to whoever awaits it
            future.set_exception(error)
        return future

    def set_exception_handler(self, handler: Callable[[AbstractEventLoop, dict[str, Any]], object] | None) -> None:
        """Say who is told of what nobody caught."""
        self._trouble = handler

    def call_exception_handler(self, context: Mapping[str, Any]) -> None:
        """Tell what nobody caught; without anybody to tell, raise it."""
        if self._trouble is not None:
            self._trouble(self, dict(context))
        elif isinstance(error := context.get("exception"), BaseException):
            raise error


class VirtualClock:
    """The clock of one machine: its wall clock may be off, its monotonic one never is."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.skew = timedelta()

    def now(self) -> datetime:
        """Return the wall-clock time, as this machine has it."""
        return START + timedelta(seconds=self._loop.time()) + self.skew

    def monotonic(self) -> float:
        """Return the seconds since the simulation began."""
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        await self._loop.sleep(seconds)
