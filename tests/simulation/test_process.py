"""A process can be stopped, and killed, at any of its awaits."""

from __future__ import annotations

import random
from contextlib import closing

import pytest

from tests.simulation.faults import Fault
from tests.simulation.process import Process
from tests.simulation.world import Options, World, seeded

CALM = Options(seed=1, families=(), faults=(), deeds=(), people=False)


def _process(world: World, service: str) -> Process:
    return next(each for each in world.processes if each.service == service)


def test_a_paused_process_does_nothing_at_all_and_goes_on_where_it_was() -> None:
    world = World(CALM)
    with seeded(world), closing(world):
        world.begin()
        world.run(200.0)
        registry = _process(world, "registry")
        steps: list[float] = []
        registry.pause()
        world.steps.watch(lambda each: steps.append(world.loop.time()) if each is registry else None)
        world.run(2000.0)
        assert steps == []
        registry.resume()
        world.run(2100.0)
        assert steps
        assert steps[0] == 2000.0


def test_what_a_process_set_going_goes_on_while_it_is_paused() -> None:
    world = World(CALM)
    with seeded(world), closing(world):
        world.begin()
        world.ec2.pace = 0.1
        while not world.ec2.commands:
            world.run(world.loop.time() + 1)
        _process(world, "provisioner").pause()
        world.run(world.loop.time() + 290)
        assert any(machine.serving for machine in world.ec2.machines.values())


@pytest.mark.parametrize("steps", random.Random(5).sample(range(1, 400), 4))
def test_a_strike_kills_at_the_await_that_it_names_and_the_service_comes_back(steps: int) -> None:
    strike = Fault(100.0, "processes", "strike", "registry", amount=30.0, steps=steps)
    world = World(Options(seed=1, families=(), faults=(strike,), deeds=(), people=False))
    with seeded(world), closing(world):
        world.begin()
        first, taken = _process(world, "registry"), list[Process]()
        world.loop.call_at(100.0, world.steps.watch, taken.append)
        world.run(3000.0)
        assert not first.alive
        assert taken.count(first) in (steps - 1, steps)
        assert _process(world, "registry").alive
        assert world.occurred["kill at an await"] == 1
