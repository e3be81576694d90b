"""Runs a seed: the days with everything that goes wrong, and then the rest, in which all must come right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from tests.simulation.bygone import unexpired
from tests.simulation.faults import DAY_S
from tests.simulation.fleet import NAME, VERSIONS
from tests.simulation.rest import at_rest, state_of, unexplained
from tests.simulation.world import Options, Violation, World, seeded

LONGEST_REST_S = 4 * 3600.0
BAKE_S = 4800.0
LOOK_EVERY_S = 600.0
NIGHTLY_S = 2 * 3600.0
"""When the template's schedule has images baked, after midnight."""


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    options: Options
    calls: int
    digest: str
    lines: int
    state: Mapping[str, Any]
    violation: Violation | None
    occurred: Mapping[str, int]


def run(options: Options) -> tuple[Result, World]:
    """Run a seed to its end, or to the first violation."""
    expected = calm_state(options.servers) if options.rest and options != calm(options.servers) else None
    world = World(options)
    violation: Violation | None = None
    with seeded(world):
        try:
            world.begin()
            world.run(options.days * DAY_S)
            if options.rest:
                settle(world, expected)
        except Violation as error:
            violation = error
        state = state_of(world) if violation is None else {}
        world.close()
    lines, occurred = len(world.trace.lines), dict(world.occurred)
    return Result(options, world.calls, world.trace.digest(), lines, state, violation, occurred), world


def calm(servers: int) -> Options:
    """Return a run in which nothing goes wrong and nobody does anything, up to shortly before its first night."""
    return Options(seed=0, days=0.08, servers=servers, families=(), faults=(), deeds=(), people=False)


@lru_cache
def calm_state(servers: int) -> Mapping[str, Any]:
    """Return how a fleet of this size ends when nothing goes wrong: people leave every run of it alike.

    Empty when even then an invariant breaks: any other run breaks it too, and says so.
    """
    return run(calm(servers))[0].state


def settle(world: World, expected: Mapping[str, Any] | None) -> None:
    """Let everything come to rest: no faults, people put right what they did, one bake more; then nothing changes.

    What it comes to must be what is expected, the state of a run in which nothing went wrong.
    """
    world.say("rest", "world", "nothing goes wrong any more")
    world.trouble.rest()
    for key in world.bucket.keys(f"fleets/{NAME}/pause.json"):
        world.bucket.delete(key)
    world.people.ask_release(VERSIONS[-1], rollout=True)
    world.people.ask("image.pin.requested", by="ben")
    world.groups.resume(NAME)
    world.groups.set_desired(NAME, world.options.servers)
    _until_rest(world)
    _bake_once_more(world)
    _clean_up(world)
    wrong = _until_rest(world)
    for number, what in (*wrong, *((14, what) for what in (*unexplained(world), *unexpired(world)))):
        world.violated(number, what)
    nightly = (NIGHTLY_S - world.loop.time()) % DAY_S
    if nightly <= LOOK_EVERY_S:  # a bake that is due is no sweep
        world.run(world.loop.time() + nightly + BAKE_S)
    world.run(world.loop.time())
    before = state_of(world)
    world.run(world.loop.time() + LOOK_EVERY_S)
    after = state_of(world)
    changed = [name for name in before if before[name] != after[name]]
    differs = [name for name in before if expected and before[name] != expected[name]]
    if differs:
        name = differs[0]
        world.violated(15, f"{name} is {before[name]}, and without any trouble {expected and expected[name]}")
    if changed:
        world.violated(15, f"another sweep changed {changed[0]}: {before[changed[0]]} to {after[changed[0]]}")
    world.run(world.loop.time())


def _bake_once_more(world: World) -> None:
    """Ask for one bake more, which the day's budget is raised for: people may have asked for so many."""
    world.people.allow_bakes(2 * world.fleet.policies.bakes.daily)
    world.people.ask("image.bake.requested", by="gil", reason="the last")
    world.run(world.loop.time() + LOOK_EVERY_S)
    _until_rest(world)


def _clean_up(world: World) -> None:
    """Have the janitor look twice: the records of an image that goes in the one look are the other's to delete."""
    for _ in range(2):
        world.messaging.queue("janitor").send('{"type":"tick"}')
        world.run(world.loop.time() + LOOK_EVERY_S)
        if world.people.let_retire():
            world.run(world.loop.time() + LOOK_EVERY_S)


def _until_rest(world: World) -> list[tuple[int, str]]:
    """Let time pass until all is as it must be at rest; return what still is not after hours."""
    end = world.loop.time() + LONGEST_REST_S
    while (wrong := at_rest(world)) and world.loop.time() < end:
        world.run(world.loop.time() + LOOK_EVERY_S)
    return wrong


def faultless(options: Options) -> Options:
    """Return the same run without anything going wrong."""
    return replace(options, families=(), faults=())
