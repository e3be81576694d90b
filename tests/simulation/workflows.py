"""The workflows, each played in a world where nothing goes wrong but one thing, at one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

from shared.fleet import Fleet
from shared.ids import QUARANTINE_TAG
from shared.names import ServiceName
from tests.simulation.faults import Fault
from tests.simulation.fleet import COMPONENT, NAME, VERSIONS
from tests.simulation.operators import Deed
from tests.simulation.process import Process
from tests.simulation.rest import at_rest, state_of
from tests.simulation.world import Options, World, seeded

T = TypeVar("T")

How = Literal["kill before", "kill after", "cancel", "lost", "late"]
HOWS: tuple[How, ...] = ("kill before", "kill after", "cancel", "lost", "late")

DOWN_S = 20.0
"""Longer than what it held stays hidden, so that the next process gets it at once."""

LATE_S = 45.0
PACE = 0.1
"""A full provisioning takes four minutes here: what happens between two steps is the same."""

READY_S = 1800.0
LOOK_S = 300.0
LONGEST_S = 4 * 3600.0


@dataclass(frozen=True)
class Step:
    """One call of a port: an await of a service. In between two calls a service changes nothing that lasts."""

    number: int
    service: ServiceName
    method: str
    writes: bool


@dataclass(frozen=True)
class Strike:
    """What befalls which call of a workflow."""

    how: How
    number: int


class SweptWorld(World):
    """A world that counts the calls of a workflow, and strikes one of them."""

    def __init__(self, strike: Strike | None) -> None:
        super().__init__(Options(seed=1, servers=2, families=(), faults=(), deeds=(), people=False))
        self.fleet = calm(self.fleet)
        self.ec2.pace = PACE
        self.seen: list[Step] = []
        self.watching = False
        self._strike = strike
        self._after: Process | None = None
        self._leaving: set[str] = set()

    def strike(self, process: Process, method: str, *, writes: bool, late: bool) -> Fault | None:
        """Count the call; do to it what is to be done to it."""
        fault = super().strike(process, method, writes=writes, late=late)
        if not self.watching:
            return fault
        self.seen.append(Step(len(self.seen), process.service, method, writes))
        wanted = self._strike
        if wanted is None or wanted.number != len(self.seen) - 1:
            return fault
        self.say("struck", process.name, f"{method}: {wanted.how}")
        return self._befall(process, wanted.how)

    def _befall(self, process: Process, how: How) -> Fault | None:
        if how in ("lost", "late"):
            return Fault(self.loop.time(), "calls", how, amount=LATE_S)
        if how == "kill after":
            self._after = process
        elif how == "kill before":
            self._end(process)
        else:
            self._leaving.add(process.name)
            self.loop.call_soon(process._task.cancel)
            self.after(DOWN_S, lambda: self._restart(process))
        return None

    def carry_out(self, process: Process, method: str, effect: Callable[[], T]) -> T:
        """Apply a change, and kill who made it, if that is due."""
        answer = super().carry_out(process, method, effect)
        if self._after is process:
            self._after = None
            self._end(process)
        return answer

    def _end(self, process: Process) -> None:
        self.kill(process)
        self.after(DOWN_S, lambda: self._restart(process))

    def _restart(self, process: Process) -> None:
        self.kill(process)
        self.start(process.service)

    def broken(self, what: str) -> None:
        """Nothing is broken when a process ends that was told to."""
        if not any(what.startswith(f"{name} ended by itself: CancelledError") for name in self._leaving):
            super().broken(what)


def calm(fleet: Fleet) -> Fleet:
    """Return the fleet without what would begin by itself: scaling, chaos; and with images that are old in minutes."""
    policies = fleet.policies
    return fleet.model_copy(
        update={
            "scaling": None,
            "policies": policies.model_copy(
                update={
                    "chaos": policies.chaos.model_copy(update={"enabled": False}),
                    "retention": policies.retention.model_copy(
                        update={"days": 0.005, "keep": 1, "quarantine_hours": 0.05}
                    ),
                }
            ),
        }
    )


# What begins each workflow, and how many images there are before.


def _one_more(world: World) -> None:
    world.groups.set_desired(NAME, 3)


def _one_less(world: World) -> None:
    world.groups.set_desired(NAME, 1)


def _bake(world: World) -> None:
    world.people.set_release(VERSIONS[4])
    world.people.ask("image.bake.requested", by="gil", reason="a fresh one", id="fresh")


def _roll_back(world: World) -> None:
    world.people.ask("image.rollback.requested", by="ada", reason="it feels slow", id="back")


def _clean(world: World) -> None:
    for delay in (1.0, 1200.0, 2400.0):
        world.after(delay, lambda: world.people.do(Deed(world.loop.time(), "clean", 0.0)))


def _lose(world: World) -> None:
    world.ec2.machines[world.group().members[0].server].trouble = "sick"
    world.invariants.changed()


def _disable(world: World) -> None:
    world.people.ask(
        "server.disable.requested", server=world.group().members[0].server, by="cleo", reason="odd noises", id="off"
    )


def _images(number: int) -> Callable[[World], bool]:
    return lambda world: len(world.ec2.pictures) == number


def _replaced(world: World) -> bool:
    return all(each.trouble == "" for each in world.ec2.machines.values() if each.living)


def _members(number: int) -> Callable[[World], bool]:
    return lambda world: len(world.group().members) == number


def _quarantined(world: World) -> bool:
    return any(QUARANTINE_TAG in each.now.tags for each in world.ec2.machines.values())


def _generation(number: int) -> Callable[[World], bool]:
    return lambda world: (pointer := world.pointer()) is not None and pointer.generation == number


@dataclass(frozen=True)
class Workflow:
    """How a workflow begins, when it is under way, and whose calls it is made of (empty: everyone's)."""

    begin: Callable[[World], None]
    reached: Callable[[World], bool]
    bakes: int = 1
    services: tuple[ServiceName, ...] = ()


WORKFLOWS: Mapping[str, Workflow] = {
    "launch": Workflow(_one_more, _members(3)),
    "bake": Workflow(_bake, _generation(2), services=("baker",)),
    "promote": Workflow(_bake, _generation(2), services=("registry", "provisioner", "reconciler", "janitor", "chaos")),
    "rollback": Workflow(_roll_back, _generation(3), bakes=2),
    "retire": Workflow(_clean, _images(2), bakes=2),
    "replace": Workflow(_lose, _replaced),
    "disable": Workflow(_disable, _quarantined),
    "scale in": Workflow(_one_less, _members(1)),
}


@dataclass(frozen=True)
class Ending:
    """What a workflow came to."""

    state: Mapping[str, Any]
    wrong: tuple[str, ...]
    steps: tuple[Step, ...]
    trace: tuple[str, ...]


def play(name: str, strike: Strike | None = None, expected: Mapping[str, Any] | None = None) -> Ending:
    """Play a workflow until it is at rest (in the expected state, if one is given), and five minutes longer.

    Raises:
        Violation: an invariant did not hold.
    """
    workflow, world = WORKFLOWS[name], SweptWorld(strike)
    with seeded(world):
        try:
            prepare(world, workflow.bakes)
            world.watching = True
            workflow.begin(world)
            begun = world.loop.time()
            while not _ended(world, workflow, expected) and world.loop.time() < begun + LONGEST_S:
                world.run(world.loop.time() + LOOK_S)
            world.watching = False
            world.run(world.loop.time() + LOOK_S)
            wrong = (*(what for _, what in at_rest(world)), *_dead(world))
            return Ending(outcome(world), wrong, tuple(world.seen), tuple(map(str, world.trace.lines)))
        finally:
            world.close()


def prepare(world: World, bakes: int) -> None:
    """Have a fleet at strength, with so many images, each of another release."""
    world.begin()
    world.run(READY_S)
    for number in range(bakes):
        world.people.set_release(VERSIONS[number + 1])
        world.people.ask("image.bake.requested", by="gil", reason="to begin with", id=f"first-{number}")
        world.run(world.loop.time() + READY_S)
    assert not at_rest(world), at_rest(world)
    assert len(world.ec2.pictures) == bakes + 1


def _ended(world: World, workflow: Workflow, expected: Mapping[str, Any] | None) -> bool:
    if at_rest(world) or not workflow.reached(world):
        return False
    return expected is None or outcome(world) == expected


def _dead(world: World) -> list[str]:
    return [f"a dead letter: {letter.body}" for letter in world.messaging.dead_letters()]


def outcome(world: World) -> Mapping[str, Any]:
    """Return the state in which a struck run must agree with the fault-free one: ids and times aside."""
    pointer, ec2 = world.pointer(), world.ec2
    return {
        **state_of(world),
        "told": sorted(kind for kind, _ in world.announced),
        "pointer's generation": pointer.generation if pointer else 0,
        "images": sorted(each.past.now.state for each in ec2.pictures.values()),
        "snapshots": len(ec2.snapshots),
        "on disk": sorted(ec2.machines[each.server].disk.releases.get(COMPONENT, "") for each in world.group().members),
        "quarantined": sum(QUARANTINE_TAG in each.now.tags for each in ec2.machines.values() if each.living),
    }


@lru_cache
def fault_free(name: str) -> Ending:
    """Return how a workflow ends when nothing goes wrong."""
    return play(name)


def strikes(name: str) -> Sequence[Strike]:
    """Return everything that can befall a workflow: each call killed before and cancelled; each change all five ways.

    A read changes nothing: being killed before its answer or after it is the same.
    """
    services = WORKFLOWS[name].services
    found: list[Strike] = []
    for step in fault_free(name).steps:
        if not services or step.service in services:
            found += [Strike(how, step.number) for how in (HOWS if step.writes else ("kill before", "cancel"))]
    return found
