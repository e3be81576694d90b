"""The simulation's model of AWS behind the same ports, for the tests of what the ports promise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from shared.aws import Cloud
from shared.cloud import AlarmState, Image, StoredObject
from shared.fleet import Fleet
from shared.names import ServiceName, TopicName
from tests.simulation.fleet import ZONES
from tests.simulation.machines import STOCK
from tests.simulation.ports import cloud_of
from tests.simulation.process import Process
from tests.simulation.world import Options, World

T = TypeVar("T")

PASSES_S = 5.0
"""How much virtual time passes before each call about servers: nobody waits for it."""


class _Caller(Process):
    """A process that does nothing but what a test has it do."""

    async def _run(self) -> None:
        """Do nothing by itself."""


class ModelledWorld(World):
    """A world without services, in which nothing is wrong and nobody watches."""

    def __init__(self) -> None:
        super().__init__(Options(seed=1, families=(), faults=(), deeds=(), people=False))
        self.ec2.stock(STOCK)

    def create(self, fleet: Fleet) -> None:
        """Make a fleet's group and launch template."""
        self.fleet = fleet
        self.ec2.make_template(fleet.fleet, STOCK)
        self.groups.create(fleet.model_copy(update={"zones": ZONES}))

    def carry_out(self, process: Process, method: str, effect: Callable[[], T]) -> T:
        """Apply a change."""
        return effect()

    def destroys(self, process: Process, fleet_name: str, server: str, how: str) -> None:
        """Anybody may."""

    def ends(self, process: Process, server: str) -> None:
        """Anybody may."""

    def retires(self, process: Process, image: Image) -> None:
        """Anybody may."""

    def wrote(self, process: Process, key: str, body: bytes, before: StoredObject | None) -> None:
        """Anybody may."""

    def violated(self, number: int, what: str) -> None:
        """Nobody watches."""

    def _group_changed(self, name: str) -> None:
        """Nobody watches."""

    def _heard(self, server: str, state: str) -> None:
        self.groups.hear(server, state)


class _Port:
    """A port whose calls are made in virtual time, one at a time, in a thread beside the test's event loop."""

    def __init__(self, port: object, model: Model, passes_s: float) -> None:
        self._port, self._model, self._passes_s = port, model, passes_s

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        method = getattr(self._port, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            return await self._model.do(lambda: method(*arguments, **options), self._passes_s)

        return call


class Model:
    """A world, and the ports to it."""

    def __init__(self) -> None:
        self.world = ModelledWorld()
        self._one = asyncio.Lock()

    def open(self) -> Cloud:
        """Return the ports as the registry has them."""
        process = _Caller(self.world, "registry", 1)
        own = cloud_of(process)
        slow = {name: _Port(getattr(own, name), self, PASSES_S) for name in ("groups", "servers", "commands")}
        quick = {name: _Port(getattr(own, name), self, 0.0) for name in ("objects", "publisher", "alarms", "queue")}
        return Cloud(**slow, **quick, health=own.health)

    async def do(self, call: Callable[[], Coroutine[Any, Any, T]], passes_s: float) -> T:
        """Let time pass, then make the call."""
        async with self._one:
            return await asyncio.to_thread(self._run, call, passes_s)

    def _run(self, call: Callable[[], Coroutine[Any, Any, T]], passes_s: float) -> T:
        if passes_s:
            self.world.run(self.world.loop.time() + passes_s)
        return self.world.loop.run_until_complete(call())

    def set_alarm(self, state: AlarmState) -> None:
        """Put the fleet's alarm into a state."""
        self.world.trouble.alarm = state

    def publish(self, topic: TopicName, body: str) -> None:
        """Publish on a topic, as a person does."""
        self.world.messaging.publish(topic, body)

    def taken(self, service: ServiceName) -> list[str]:
        """Take everything out of a service's queue, once what is on its way has arrived."""
        self.world.run(self.world.loop.time() + PASSES_S)
        queue = self.world.messaging.queue(service)
        return [message.body for message in queue.take(1000, 0) if queue.delete(message.receipt)]

    def empty(self) -> None:
        """Forget every message."""
        for queue in self.world.messaging.queues.values():
            queue.letters.clear()

    def close(self) -> None:
        """End it."""
        self.world.close()
