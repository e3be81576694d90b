"""The workflows, each played in a world where nothing goes wrong but one thing, at one await or one call."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple, TypeVar, cast

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

State = Mapping[str, Any]
"""What a run is to agree in with the fault-free one."""

How = Literal["kill", "cancel", "lost", "late"]
HOWS: tuple[How, ...] = ("kill", "cancel", "lost", "late")

AT_AWAITS: tuple[How, ...] = ("kill", "cancel")
"""These befall a process at an await, the others at a call of AWS."""

DOWN_S = 20.0
"""Longer than what it held stays hidden, so that the next process gets it at once."""

LATE_S = 45.0
PACE = 0.1
"""A full provisioning takes four minutes here: what happens between two steps is the same."""

READY_S = 1800.0
LOOK_S = 300.0
LONGEST_S = 4 * 3600.0


class Call(NamedTuple):
    """A call of a port."""

    service: ServiceName
    method: str
    writes: bool


@dataclass(frozen=True)
class Strike:
    """What befalls which of a workflow's awaits, or of its calls."""

    how: How
    number: int


class SweptWorld(World):
    """A world that counts the awaits and the calls of a workflow, and strikes at one of them."""

    def __init__(self) -> None:
        super().__init__(Options(seed=1, servers=2, families=(), faults=(), deeds=(), people=False))
        self.fleet = calm(self.fleet)
        self.ec2.pace = PACE
        self.awaits: list[Call] = []
        self.called: list[Call] = []
        self._last: dict[str, Call] = {}
        self._strike: Strike | None = None
        self._watching = False
        self._leaving: set[str] = set()

    def watch(self, strike: Strike | None) -> None:
        """Begin to count, and strike when it is time."""
        self._strike, self._watching = strike, True
        self.steps.watch(self._step)

    def unwatch(self) -> None:
        """Count no more."""
        self._watching = False
        self.steps.unwatch(self._step)

    def _step(self, process: Process) -> None:
        """A process is about to go on after an await: count it, and end the process if its turn has come."""
        self.awaits.append(self._last.get(process.name, Call(process.service, "nothing yet", False)))
        wanted = self._strike
        if wanted is None or wanted.how not in AT_AWAITS or wanted.number != len(self.awaits) - 1:
            return
        self.say("struck", process.name, f"at an await: {wanted.how}")
        if wanted.how == "kill":
            self.kill(process)
        else:
            self._leaving.add(process.name)
            self.loop.call_soon(process._task.cancel)
        self.after(DOWN_S, lambda: self._restart(process))

    def strike(self, process: Process, method: str, *, writes: bool, late: bool) -> Fault | None:
        """Count the call; do to it what is to be done to it."""
        fault = super().strike(process, method, writes=writes, late=late)
        if not self._watching:
            return fault
        call = self._last[process.name] = Call(process.service, method, writes)
        self.called.append(call)
        wanted = self._strike
        if wanted is None or wanted.how in AT_AWAITS or wanted.number != len(self.called) - 1:
            return fault
        self.say("struck", process.name, f"{method}: {wanted.how}")
        return Fault(self.loop.time(), "calls", wanted.how, amount=LATE_S)

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

    state: State
    wrong: tuple[str, ...]
    awaits: tuple[Call, ...]
    """Of each await, the last call that the process had begun."""
    calls: tuple[Call, ...]


@contextmanager
def ready(workflow: Workflow) -> Iterator[SweptWorld]:
    """Have a fleet in which the workflow can begin."""
    world = SweptWorld()
    with seeded(world):
        try:
            prepare(world, workflow.bakes)
            yield world
        finally:
            world.close()


def play(world: SweptWorld, workflow: Workflow, strike: Strike | None = None, expected: State | None = None) -> Ending:
    """Play a workflow until it is at rest (in the expected state, if one is given), and five minutes longer.

    That happens in a child process: this one's world is ready for the next time, which saves most of a sweep's time.

    Raises:
        Violation: an invariant did not hold.
    """
    return in_child(lambda: _play(world, workflow, strike, expected))


def _play(world: SweptWorld, workflow: Workflow, strike: Strike | None, expected: State | None) -> Ending:
    world.watch(strike)
    workflow.begin(world)
    begun = world.loop.time()
    while not _ended(world, workflow, expected) and world.loop.time() < begun + LONGEST_S:
        world.run(world.loop.time() + LOOK_S)
    world.unwatch()
    world.run(world.loop.time() + LOOK_S)
    wrong = (*(what for _, what in at_rest(world)), *_dead(world))
    return Ending(outcome(world), wrong, tuple(world.awaits), tuple(world.called))


def in_child(function: Callable[[], T]) -> T:
    """Call it in a child process, which has all that this one has, and changes nothing of it.

    Raises:
        EOFError: the process died. Otherwise whatever the function raises.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(function, sender))
    child.start()
    sender.close()
    try:
        answer, error = receiver.recv()
    finally:
        child.join()
    if error is not None:
        raise error
    return cast("T", answer)


def _answer(function: Callable[[], object], sender: Connection) -> None:
    try:
        sender.send((function(), None))
    except Exception as error:  # noqa: BLE001  raised to whoever called it
        sender.send((None, error))


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


def _ended(world: World, workflow: Workflow, expected: State | None) -> bool:
    if at_rest(world) or not workflow.reached(world):
        return False
    return expected is None or outcome(world) == expected


def _dead(world: World) -> list[str]:
    return [f"a dead letter: {letter.body}" for letter in world.messaging.dead_letters()]


def outcome(world: World) -> State:
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
    with ready(WORKFLOWS[name]) as world:
        return play(world, WORKFLOWS[name])


def strikes(name: str, how: How) -> Mapping[int, Call]:
    """Return the awaits at which this can befall a workflow, or the calls: those that change AWS; by their numbers."""
    ending, services = fault_free(name), WORKFLOWS[name].services
    places = ending.awaits if how in AT_AWAITS else ending.calls
    return {
        number: call
        for number, call in enumerate(places)
        if (call.writes or how in AT_AWAITS) and (not services or call.service in services)
    }
