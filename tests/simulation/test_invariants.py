"""Each of these invariants fires when it is broken: a rule that can never fail guards nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context

import pytest

from services.reconciler import rolling
from services.reconciler.decide import View
from shared.cloud import CloudError, Image, Incomplete
from shared.events import Incoming
from shared.outcome import Done, Outcome
from shared.records import Rollout, Taken, launch_key, report_key, rollout_key, update_key
from shared.runtime import Handler
from tests.simulation import ports
from tests.simulation.bygone import unexpired
from tests.simulation.deletions import HANDLED, Handled
from tests.simulation.faults import Fault
from tests.simulation.fleet import NAME
from tests.simulation.loop import START
from tests.simulation.machines import STOCK
from tests.simulation.process import Process
from tests.simulation.rest import unexplained
from tests.simulation.run import calm
from tests.simulation.world import Violation, World, seeded

FORGOTTEN = "i-0bf00000000000004"
KILL = '{"type":"server.kill.requested","fleet":"web","server":"i-00000000000000099"}'


@contextmanager
def world_at(seconds: float) -> Iterator[World]:
    world = World(calm(4))
    world.ec2.pace = 0.1
    with seeded(world):
        try:
            world.begin()
            world.run(seconds)
            yield world
        finally:
            world.close()


def a_process(world: World, service: str) -> Process:
    return next(each for each in world.processes if each.service == service)


def broken(world: World, act: Callable[[], Coroutine[None, None, object]]) -> str:
    """Have a process do something; return which invariant broke, and how."""
    world.loop.create_task(act(), context=Context())
    with pytest.raises(Violation) as caught:
        world.run(world.loop.time() + 60)
    return str(caught.value)


async def delete_unhandled(process: Process) -> None:
    """Receive a message as a second consumer of this process would, and delete it without a look."""
    queue = ports.QueueFacade(process)
    process.world.messaging.queue(process.service).send(KILL)
    await queue.delete([each.receipt for each in await queue.receive(10, 20, 30)])


def test_10_a_message_that_is_deleted_before_anything_came_of_it() -> None:
    with world_at(30) as world:
        janitor = a_process(world, "janitor")
        assert "invariant 10: janitor#" in broken(world, lambda: delete_unhandled(janitor))


def careless(handler: Handler, alerts: object) -> Callable[[Incoming], Awaitable[Outcome]]:
    """Wrap a handler so that what fails is forgotten."""

    async def handle(incoming: Incoming) -> Outcome:
        try:
            return await handler.handle(incoming)
        except CloudError:
            return Done("never mind")

    return handle


def test_10_a_handler_that_is_done_though_its_change_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulation.process.guarded", careless)
    with world_at(1) as world:
        world.trouble.strike(Fault(1.0, "calls", "lost", "registry", "publish"))
        with pytest.raises(Violation, match=r"invariant 10: registry#.* is done with .* and publish failed"):
            world.run(3600)


def test_an_exception_in_a_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(view: View, *rest: object) -> None:
        raise KeyError("no such thing")

    monkeypatch.setattr(rolling, "rolled", wrong)
    with world_at(10) as world, pytest.raises(Violation, match=r"a handler of reconciler#.* raised KeyError"):
        world.run(600)


def granted(*servers: str) -> Rollout:
    return Rollout(
        fleet=NAME,
        number=1,
        began="2026-03-04T00:00:00Z",
        by="ada",
        taken=tuple(Taken(server=each, rollout=1, granted="2026-03-04T00:00:00Z") for each in servers),
    )


def test_a_rollout_that_takes_servers_without_audit_and_past_the_floor_and_too_many_at_once() -> None:
    with world_at(1500) as world:
        servers = [each.server for each in world.group().members]
        reconciler = a_process(world, "reconciler")
        wrote: list[str] = []
        world.violated = lambda number, what: wrote.append(f"{number}: {what}")  # type: ignore[method-assign]
        world.wrote(reconciler, rollout_key(NAME), granted(*servers).model_dump_json(by_alias=True).encode(), None)
        numbers = {each.split(":")[0] for each in wrote}
        assert {"4", "5", "11"} <= numbers, wrote


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"type":"tick"}', "failed 5 times; the last time: KeyError: 'x'"),
        ('{"type":"tick"}', "failed 5 times; the last time: Throttled: Rate exceeded"),
        ('{"type":"server.ready","fleet":"web"}', "server.ready.server: Field required"),
    ],
)
def test_14_a_dead_letter_that_nothing_explains(body: str, reason: str) -> None:
    with world_at(1500) as world:
        assert not list(unexplained(world))
        world.messaging.queues["autoprovisioner-registry-dead"].send(body, 0, {"reason": reason})
        assert any("a dead letter that nothing explains" in each for each in unexplained(world))


def test_14_a_dead_letter_that_trouble_or_a_person_explains() -> None:
    with world_at(1500) as world:
        dead = world.messaging.queues["autoprovisioner-registry-dead"]
        world.occurred["storm"] = 1
        dead.send('{"type":"tick"}', 0, {"reason": "failed 5 times; the last time: Throttled: Rate exceeded"})
        dead.send('{"type":"image.pin.requested"}', 0, {"reason": "there is no such image"})
        assert not list(unexplained(world))


def test_14_records_that_the_janitor_should_have_deleted() -> None:
    with world_at(60) as world:
        before = list(unexpired(world))
        world.messaging.queue("janitor").send('{"type":"tick"}')
        world.run(120)
        assert len(before) == 7
        assert list(unexpired(world)) == []


def test_14_runs_of_which_there_is_no_record() -> None:
    with world_at(60) as world:
        world.bucket.delete(launch_key(NAME, FORGOTTEN))
        world.bucket.delete(update_key(NAME, FORGOTTEN))
        assert f"{report_key(NAME, f'{FORGOTTEN}-1')} belongs to nothing" in list(unexpired(world))


async def act_on_half(process: Process) -> None:
    """List images, take no notice that half of them came, and deregister one."""
    cloud = ports.cloud_of(process)
    HANDLED.set(Handled("a tick", 0.0))
    with suppress(Incomplete):
        await cloud.servers.images(NAME)
    await cloud.servers.deregister(Image(STOCK, "stock", "available", START))


def test_6_whoever_acts_on_half_of_a_listing() -> None:
    with world_at(30) as world:
        janitor = a_process(world, "janitor")
        world.trouble.strike(Fault(1.0, "calls", "partial", "janitor", "images"))
        world.invariants._audited[STOCK] = {}
        assert "invariant 6: janitor#" in broken(world, lambda: act_on_half(janitor))
