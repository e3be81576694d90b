"""A service's process: its real handler on simulated ports, which can be killed, paused, and run twice."""

from __future__ import annotations

import asyncio
import importlib
import random
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

import structlog

from shared.cloud import CloudError, Denied, Incomplete, Throttled, Unavailable
from shared.consumer import Consumer
from shared.names import ServiceName, queue_name
from shared.runtime import bundle, guarded
from tests.simulation import deletions, ports
from tests.simulation.deletions import Deletions
from tests.simulation.faults import Fault
from tests.simulation.loop import Handle, VirtualClock, VirtualLoop

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")

SLOWEST_CALL_S = 0.2
UNKNOWN = (Unavailable, Throttled, Denied)
"""Errors that leave it open whether a change was made, or say that it was not for no reason of its own."""

SLOW_READS = (0.1, 0.2, 0.5)
"""Which share of the reads a process has to wait for: waiting is what a simulation spends its time on, and processes
that differ meet each other in more ways."""


class Killed(BaseException):
    """The process was ended by SIGKILL: whatever runs in it has no effect any more."""


OWNER: ContextVar[Process] = ContextVar("owner")
"""The process that a task belongs to."""

Watch = Callable[["Process"], None]


class Steps:
    """Stands between each await of a process and what follows: that is where processes are stopped and killed."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._kept: dict[str, list[Handle]] = {}
        self._watching: tuple[Watch, ...] = ()

    def watch(self, watch: Watch) -> None:
        """Have it called before every step of every process."""
        self._watching = (*self._watching, watch)
        self._loop.gate = self._gate

    def unwatch(self, watch: Watch) -> None:
        """Do not call it any more."""
        self._watching = tuple(each for each in self._watching if each != watch)
        self._open()

    def hold(self, process: Process) -> None:
        """Let the process take no step."""
        self._kept.setdefault(process.name, [])
        self._loop.gate = self._gate

    def let(self, process: Process) -> None:
        """Let it go on where it was."""
        self._loop.go_on(self._kept.pop(process.name, []))
        self._open()

    def _open(self) -> None:
        if not self._kept and not self._watching:
            self._loop.gate = None

    def _gate(self, handle: Handle) -> bool:
        process = handle.context.get(OWNER)
        if process is None:
            return True
        if process.name in self._kept:
            self._kept[process.name].append(handle)
            return False
        if process.alive:
            for watch in self._watching:
                watch(process)
        return True


class Process:
    """One process of a service."""

    def __init__(self, world: World, service: ServiceName, number: int) -> None:
        self.world = world
        self.service = service
        self.name = f"{service}#{number}"
        self.alive = True
        self.chance = random.Random(f"{world.seed} {self.name}")
        self._chance = self.chance.random
        self._slow = self.chance.choice(SLOW_READS)
        self.clock = VirtualClock(world.loop)
        self.clock.skew = world.skews.get(service, self.clock.skew)
        self.looked: dict[str, float] = {}
        """When this process last looked at each group."""
        self.deletions = Deletions(self)
        self._sleep = world.loop.sleep
        self._task = world.loop.create_task(self._run())

    async def _run(self) -> None:
        OWNER.set(self)
        structlog.contextvars.bind_contextvars(service=self.name)
        cloud = ports.cloud_of(self)
        services = bundle(self.service, cloud, self.clock, self.chance)
        make = importlib.import_module(f"services.{self.service}.__main__").make
        handle = self.deletions.watch(guarded(make(services), services.alerts))
        assert cloud.queue is not None
        consumer = Consumer(cloud.queue, handle, self.clock, self.chance, queue_name=queue_name(self.service))
        try:
            await consumer.run()
        except BaseException as error:
            if self.alive:
                self.world.broken(f"{self.name} ended by itself: {error!r}")
            if not isinstance(error, asyncio.CancelledError):
                return
            raise

    def kill(self) -> None:
        """End it, as SIGKILL does: nothing that it began goes on."""
        if self.alive:
            self.alive = False
            self.resume()
            self.world.loop.call_soon(self._task.cancel)

    def pause(self) -> None:
        """Stop it, as SIGSTOP does: at whatever await it is, it keeps what it knows."""
        self.world.steps.hold(self)

    def resume(self) -> None:
        """Let it go on."""
        self.world.steps.let(self)

    def check(self) -> None:
        """Raise Killed when it is dead."""
        if not self.alive:
            raise Killed

    def new_id(self) -> str:
        """Return an id."""
        return f"{self.chance.getrandbits(128):032x}"

    async def read(self, method: str, answer: Callable[[float], T], *, late: bool = False) -> T:
        """Ask the world something. ``answer`` is given the moment that it may answer of; ``late``: AWS may lag."""
        world = self.world
        self.check()
        fault = world.strike(self, method, writes=False, late=late)
        if self._chance() < self._slow:
            await self._sleep(self._chance() * SLOWEST_CALL_S)
            self.check()
        lag = world.lag(self, fault) if late else 0.0
        if fault is not None:
            deletions.read(method, whole=fault.kind != "partial")
            self._fail(fault)
        elif deletions.unread():
            deletions.read(method, whole=True)
        return answer(world.loop.time() - lag)

    async def write(self, method: str, effect: Callable[[], T], *, retried: bool = True, what: str = "") -> T:
        """Change ``what`` in the world. ``retried``: the SDK sends such a call again when its reply is lost."""
        try:
            answer = await self._write(method, effect, retried=retried)
        except UNKNOWN as error:
            deletions.failed(what or method, error)
            raise
        deletions.known(what or method)
        return answer

    async def _write(self, method: str, effect: Callable[[], T], *, retried: bool) -> T:
        world = self.world
        self.check()
        fault = world.strike(self, method, writes=True, late=False)
        await self._sleep(self._chance() * SLOWEST_CALL_S)
        self.check()
        if fault is not None and fault.kind in ("error", "throttled", "denied", "storm", "partial"):
            self._fail(fault)
        if fault is not None and fault.kind == "late":
            world.later(self, fault.amount, method, effect)
            raise Unavailable(f"{method}: no reply in time")
        answer = world.carry_out(self, method, effect)
        if fault is not None and fault.kind == "echo" and retried:
            world.later(self, fault.amount, method, effect)
        await self._sleep(self._chance() * SLOWEST_CALL_S)
        self.check()
        if fault is None or fault.kind == "echo":
            return answer
        if fault.kind == "retried" and retried:
            return world.carry_out(self, method, effect)
        raise Unavailable(f"{method}: the reply was lost")

    def _fail(self, fault: Fault) -> None:
        error: CloudError
        match fault.kind:
            case "throttled" | "storm":
                error = Throttled("Rate exceeded")
            case "denied":
                error = Denied("AccessDenied")
            case "partial":
                error = Incomplete("the second page did not come")
            case "stale" | "lagging":
                return
            case _:
                error = Unavailable("503 Service Unavailable")
        raise error
