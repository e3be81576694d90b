"""A calm fleet in which what a test says goes wrong, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from shared.fleet import Fleet
from shared.names import ServiceName
from shared.records import alert_key
from tests.simulation.faults import Fault
from tests.simulation.fleet import NAME
from tests.simulation.messaging import Letter, SimulatedQueue
from tests.simulation.process import Process
from tests.simulation.rest import at_rest
from tests.simulation.workflows import LONGEST_S, LOOK_S, PACE, WORKFLOWS, calm, fault_free, outcome, prepare
from tests.simulation.world import Options, World, seeded

ONCE, ALWAYS = 1, 1_000_000_000


@dataclass
class Rule:
    """What befalls a service's calls of a method (empty: any); ``kind`` is that of a fault, or what to do instead."""

    kind: str | Callable[[Process], None]
    service: ServiceName | None = None
    method: str = ""
    times: int = ALWAYS
    amount: float = 0.0
    skip: int = 0
    """How many such calls go well before."""

    def fits(self, process: Process, method: str, *, late: bool) -> bool:
        """Whether this call is one of those; ``late``: AWS may answer it with what was."""
        return (
            (late or self.kind != "stale")
            and self.times > 0
            and self.service in (None, process.service)
            and self.method in ("", method)
        )


@dataclass(eq=False)
class StagedWorld(World):
    """A world with rules for calls, and one for what becomes of messages on their way."""

    rules: list[Rule] = field(default_factory=list)
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Calls by service and method."""
    arrivals: Callable[[str, str], tuple[float, ...]] = lambda queue, body: (0.0,)
    """After how many seconds a message to a queue arrives, once for each; empty: it is lost."""

    prepared: float = 0.0
    """When the fleet was at strength."""

    def strike(self, process: Process, method: str, *, writes: bool, late: bool) -> Fault | None:
        """Count the call, and do to it what the first rule that fits says."""
        fault = super().strike(process, method, writes=writes, late=late)
        self.asked[process.service, method] += 1
        rule = next((each for each in self.rules if each.fits(process, method, late=late)), None)
        if rule is None:
            return fault
        if rule.skip:
            rule.skip -= 1
            return fault
        rule.times -= 1
        if not isinstance(rule.kind, str):
            rule.kind(process)
            return fault
        return Fault(self.loop.time(), "calls", rule.kind, amount=rule.amount)

    def _deliver(self, queue: SimulatedQueue, body: str, attributes: Mapping[str, str]) -> None:
        if '"type":"nightly"' in body:
            return  # it would be a bake that no test asked for
        for delay in self.arrivals(queue.name.removeprefix("autoprovisioner-"), body):
            queue.send(body, delay + self.chance.random(), attributes)

    def pass_time(self, *, minutes: float = 0, hours: float = 0) -> None:
        """Let time pass."""
        self.run(self.loop.time() + minutes * 60 + hours * 3600)

    def until(self, condition: Callable[[], object]) -> None:
        """Let time pass until it holds; an assertion after four hours."""
        end = self.loop.time() + LONGEST_S
        while not condition():
            assert self.loop.time() < end, "what was waited for did not come"
            self.pass_time(minutes=1)

    def come_to_rest(self, condition: Callable[[], object] = lambda: True) -> None:
        """Let time pass until the condition holds and all is as it must be at rest, and stays so."""
        self.until(lambda: not at_rest(self) and condition())
        self.pass_time(minutes=5)
        assert not at_rest(self)

    def take_dead_letters(self) -> list[Letter]:
        """Return the dead letters that a test asked for, and put them away: at rest each other one is a fault."""
        taken = self.messaging.dead_letters()
        for queue in self.messaging.queues.values():
            if queue.name.endswith("-dead"):
                queue.letters.clear()
        return taken

    def process(self, service: ServiceName) -> Process:
        """Return a service's oldest process."""
        return next(each for each in self.processes if each.service == service)

    def serving(self) -> list[str]:
        """Return the servers in service."""
        return [each.server for each in self.group().members if each.in_service]

    def alerts(self, cause: str = "") -> list[Mapping[str, Any]]:
        """Return what people were told of a cause (those whose name begins so), oldest first."""
        told = [fields for _, fields in self.messaging.alerts if fields.get("type") == "alert.raised"]
        return [each for each in told if str(each["cause"]).startswith(cause)]

    def told(self, kind: str) -> list[str]:
        """Return what the trace has of a kind since the fleet was prepared."""
        return [line.text for line in self.trace.lines if line.kind == kind and line.at >= self.prepared]


def _as_it_is(fleet: Fleet) -> Fleet:
    return fleet


@contextmanager
def staged(*, bakes: int = 1, servers: int = 2, change: Callable[[Fleet], Fleet] = _as_it_is) -> Iterator[StagedWorld]:
    """Have a fleet at strength, with so many images."""
    world = StagedWorld(Options(seed=1, servers=servers, families=(), faults=(), deeds=(), people=False))
    world.fleet = change(calm(world.fleet))
    world.ec2.pace = PACE
    with seeded(world):
        try:
            prepare(world, bakes)
            world.asked.clear()
            world.prepared = world.loop.time()
            yield world
        finally:
            world.close()


def play_staged(name: str, trouble: Callable[[StagedWorld], None]) -> None:
    """Play a workflow with trouble, and see that it ends as it does without."""
    workflow, expected = WORKFLOWS[name], fault_free(name).state
    with staged(bakes=workflow.bakes) as world:
        trouble(world)
        workflow.begin(world)
        end = world.loop.time() + LONGEST_S
        while world.loop.time() < end and not (
            workflow.reached(world) and not at_rest(world) and ended(world, expected)
        ):
            world.run(world.loop.time() + LOOK_S)
        world.pass_time(minutes=5)
        assert not at_rest(world), at_rest(world)
        assert not world.messaging.dead_letters()
        assert outcome(world) == expected


def ended(world: World, expected: Mapping[str, Any]) -> bool:
    """Whether the state is the expected one."""
    return outcome(world) == expected


def alert_stands(world: World, cause: str) -> bool:
    """Whether an alert is open."""
    return world.bucket.get(alert_key(NAME, cause)) is not None
