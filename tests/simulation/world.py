"""The whole system in virtual time: six services on a model of AWS, people, load, and what goes wrong."""

from __future__ import annotations

import asyncio
import math
import random
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar
from unittest import mock

import orjson
import structlog
from pydantic import BaseModel, ValidationError
from structlog.typing import EventDict

from shared.aws.publisher import topic_of
from shared.cloud import AlarmState, CloudError, Group, Image, StoredObject
from shared.messages import AlertCleared, AlertRaised, BuilderReaped, ImageRetired, Message, ServerReplaced
from shared.names import SERVICES, ServiceName
from shared.records import Pointer, config_key, pointer_key
from shared.tracing import add_handled
from shared.uncollected import uncollected
from tests.simulation import deletions, faults, operators
from tests.simulation.bygone import leave_behind
from tests.simulation.faults import FAMILIES, Family, Fault
from tests.simulation.fleet import BAD_VERSION, INCIDENT, NAME, VERSIONS, ZONES, fleet, releases
from tests.simulation.groups import SimulatedGroups
from tests.simulation.invariants import Invariants, Violated
from tests.simulation.loop import START, Stalled, VirtualLoop
from tests.simulation.machines import STOCK, Ec2
from tests.simulation.messaging import Messaging, SimulatedQueue
from tests.simulation.objects import Bucket
from tests.simulation.operators import Deed
from tests.simulation.people import People
from tests.simulation.process import OWNER, Process, Steps
from tests.simulation.trace import Trace
from tests.simulation.trouble import Trouble

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What is run."""

    seed: int
    days: float = 1.0
    servers: int = 4
    families: tuple[Family, ...] = FAMILIES
    people: bool = True
    faults: tuple[Fault, ...] | None = None
    """None: drawn from the seed."""
    deeds: tuple[Deed, ...] | None = None
    rest: bool = True
    """Whether all must come right at the end."""

    @property
    def drawn_faults(self) -> tuple[Fault, ...]:
        """What goes wrong."""
        return faults.draw(self.seed, self.days, self.families) if self.faults is None else self.faults

    @property
    def drawn_deeds(self) -> tuple[Deed, ...]:
        """What people do."""
        if self.deeds is not None:
            return self.deeds
        return operators.draw(self.seed, self.days) if self.people else ()


class Violation(Exception):
    """An invariant did not hold."""

    def __init__(self, options: Options, number: int, what: str, at: float, calls: int, trace: Trace) -> None:
        super().__init__(f"invariant {number}: {what}")
        self.options = options
        self.number = number
        self.what = what
        self.at = at
        self.calls = calls
        self.trace = trace

    def __reduce__(self) -> tuple[type[Violation], tuple[object, ...]]:
        """Travel between processes whole; an exception is otherwise made anew from its sentence alone."""
        return type(self), (self.options, self.number, self.what, self.at, self.calls, self.trace)


@dataclass(eq=False)
class World:
    """One run. ``begin`` starts it, ``run`` takes it to an hour."""

    options: Options
    loop: VirtualLoop = field(default_factory=VirtualLoop)
    trace: Trace = field(default_factory=Trace)
    skews: dict[str, timedelta] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    calls: int = 0
    """Calls of ports so far: the steps of the run."""
    announced: set[tuple[str, str]] = field(default_factory=set)
    """Servers and images taken away that were announced, and as what; twice is once."""
    occurred: Counter[str] = field(default_factory=Counter)
    """How often each kind of trouble befell somebody."""
    failure: BaseException | None = None
    _started: int = 0

    def __post_init__(self) -> None:
        self.seed = self.options.seed
        self.steps = Steps(self.loop)
        chance = random.Random(f"{self.seed} world")
        self.trouble = Trouble(self)
        self.invariants = Invariants(self)
        self.bucket = Bucket(self._written, self.now)
        self.messaging = Messaging(self.loop, chance, self._deliver)
        self.groups = SimulatedGroups(self.loop, self.messaging.emit, self._group_changed)
        self.ec2 = Ec2(
            self.loop,
            chance,
            self.bucket,
            self.messaging.emit,
            self._heard,
            lambda kind, text: self.say(kind, "ec2", text),
            self.invariants.ran,
            lambda kind: self.occurred.update((kind,)),
            self.invariants.changed,
            ZONES,
        )
        self.groups.stand_on(self.ec2)
        self.people = People(self)
        self.fleet = fleet(self.options.servers)
        self.chance = chance
        self.loop.set_exception_handler(self._unhandled)

    # The run.

    def begin(self) -> None:
        """Put everything in place at midnight, and start the services."""
        for key, body in releases().items():
            self.bucket.put(key, body)
        self.bucket.put(config_key(NAME), self.fleet.model_dump_json(by_alias=True).encode())
        leave_behind(self)
        self.ec2.stock(STOCK)
        self.ec2.make_template(NAME, STOCK)
        self.ec2.bad_versions = {BAD_VERSION}
        self.people.set_release(VERSIONS[0])
        self.groups.create(self.fleet)
        self.messaging.schedule()
        self.after(60, self._load)
        for service in SERVICES:
            self.start(service)
        for fault in self.options.drawn_faults:
            self.loop.call_at(fault.at, self.trouble.strike, fault)
        for deed in self.options.drawn_deeds:
            self.loop.call_at(deed.at, self.people.do, deed)

    def run(self, until: float) -> None:
        """Let time pass up to this second.

        Raises:
            Violation: an invariant did not hold.
        """
        self.loop.call_at(until, self.loop.stop)
        try:
            self.loop.run_forever()
        except Stalled as error:
            self.failure = self.failure or error
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    def start(self, service: ServiceName) -> Process:
        """Start a process of a service."""
        self._started += 1
        process = Process(self, service, self._started)
        self.processes.append(process)
        self.say("start", process.name, "")
        return process

    def kill(self, process: Process) -> None:
        """End a process."""
        if process in self.processes:
            self.processes.remove(process)
            self.say("kill", process.name, "")
            process.kill()

    def close(self) -> None:
        """End all that runs."""
        for process in list(self.processes):
            process.kill()
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        self.loop.set_exception_handler(lambda loop, context: None)
        if left:
            self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self.loop.close()

    # What others ask.

    def say(self, kind: str, who: str, text: str) -> None:
        """Add a line to the trace."""
        self.trace.say(self.loop.time(), kind, who, text)

    def now(self) -> datetime:
        """Return the true time."""
        return START + timedelta(seconds=self.loop.time())

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something in a while."""
        self.loop.call_later(seconds, action)

    def group(self) -> Group:
        """Return the group as it truly is."""
        return self.groups.seen[NAME].now

    def pointer(self) -> Pointer | None:
        """Return the pointer; None when there is none, or none that can be read."""
        stored = self.bucket.get(pointer_key(NAME))
        try:
            return Pointer.model_validate_json(stored.body) if stored else None
        except ValidationError:
            return None

    def alarm(self, name: str) -> AlarmState:
        """Return the state of an alarm."""
        return self.trouble.alarm if name == INCIDENT else "INSUFFICIENT_DATA"

    def broken(self, what: str) -> None:
        """Something happened that must not, whatever goes wrong."""
        self.violated(0, what)

    def violated(self, number: int, what: str) -> None:
        """End the run: an invariant does not hold."""
        self.say("violation", f"invariant {number}", what)
        if self.failure is None:
            self.failure = Violation(self.options, number, what, self.loop.time(), self.calls, self.trace)
        self.loop.stop()

    # What processes do, and what goes wrong with it.

    def strike(self, process: Process, method: str, *, writes: bool, late: bool) -> Fault | None:
        """Count a call; return the fault that it is to suffer."""
        self.calls += 1
        self.invariants.called(process)
        return self.trouble.of_call(process, method, writes=writes, late=late)

    def lag(self, process: Process, fault: Fault | None) -> float:
        """Return how many seconds old an answer of EC2, Auto Scaling or Systems Manager is."""
        return fault.amount if fault is not None and fault.kind == "stale" else self.trouble.lag(process)

    def carry_out(self, process: Process, method: str, effect: Callable[[], T]) -> T:
        """Apply a change, and look whether all still holds."""
        answer = effect()
        self.invariants.after(process, method)
        return answer

    def later(self, process: Process, seconds: float, method: str, effect: Callable[[], object]) -> None:
        """Apply a change long after its caller has given up on it."""

        def apply() -> None:
            try:
                self.carry_out(process, method, effect)
            except CloudError as error:
                self.say("late", process.name, f"{method} came to nothing: {error}")
            else:
                self.say("late", process.name, f"{method} took effect only now")

        self.after(seconds, apply)

    def destroys(self, process: Process, fleet_name: str, server: str, how: str) -> None:
        """A process is about to take a server out of its group."""
        self.say("takes-out", process.name, f"{server} {how}")
        self.invariants.takes_out(process, fleet_name, server, how)

    def ends(self, process: Process, server: str) -> None:
        """A process is about to terminate an instance."""
        self.say("ends", process.name, server)
        self.invariants.ends(process, server)

    def retires(self, process: Process, image: Image) -> None:
        """A process is about to deregister an image."""
        self.say("retires", process.name, image.image)
        self.invariants.retires(process, image)

    def wrote(self, process: Process, key: str, body: bytes, before: StoredObject | None) -> None:
        """A process has written an object."""
        self.say("wrote", process.name, key)
        self.invariants.wrote(process, key, body, before)

    def published(self, process: Process, message: Message, body: str, attributes: Mapping[str, str]) -> None:
        """A process publishes a message."""
        topic = topic_of(message)
        match message:
            case ServerReplaced() | BuilderReaped():
                self.announced.add((message.type, message.server))
            case ImageRetired():
                self.announced.add((message.type, message.image))
            case AlertRaised():
                self.people.called(message)
        self.say("alert" if topic == "alerts" else "publish", process.name, _sentence(message) or body[:400])
        self.messaging.publish(topic, body, attributes)

    def delivered(self, queue: SimulatedQueue, body: str, attributes: Mapping[str, str], delay_s: float) -> None:
        """A process sends to its own queue."""
        queue.send(body, delay_s, attributes)

    def pointer_by_hand(self) -> None:
        """A person is about to write the pointer."""
        self.invariants.by_hand = True

    def paused(self, what: str) -> None:
        """A person pauses chaos or automation, or lifts that."""
        self.invariants.paused(what)

    # What the world does by itself.

    def _deliver(self, queue: SimulatedQueue, body: str, attributes: Mapping[str, str]) -> None:
        for delay in self.trouble.deliveries(queue.name):
            queue.send(body, delay + self.chance.random(), attributes)

    def _written(self, key: str, name: str) -> None:
        self.messaging.notify_of(key, name)

    def _heard(self, server: str, state: str) -> None:
        self.groups.hear(server, state)
        self.invariants.changed()

    def _group_changed(self, name: str) -> None:
        group = self.groups.seen[name].now
        states = ", ".join(f"{each.server} {each.state}" for each in group.members)
        self.say("group", name, f"{group.desired} wanted: {states}")
        self.invariants.changed()

    def _load(self) -> None:
        """Once a minute: the load of the hour, over those who serve, against the alarms of the scaling policies."""
        scaling, group = self.fleet.scaling, self.group()
        if scaling is not None and not self.trouble.at_rest:
            serving = max(1, sum(member.in_service for member in group.members))
            hour = self.loop.time() / 3600 % 24
            load = self.options.servers * (55 + 35 * math.sin((hour - 9) / 24 * 2 * math.pi)) / serving
            if load > scaling.high:
                self.groups.execute(NAME, "load-high")
            elif load < scaling.low:
                self.groups.execute(NAME, "load-low")
        self.after(60, self._load)

    def _unhandled(self, loop: Any, context: Mapping[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Violated | Exception) and not isinstance(error, CloudError):
            self.failure = self.failure or error
            self.loop.stop()


@contextmanager
def seeded(world: World) -> Iterator[None]:
    """Have ids follow from the seed, and log lines go into the trace, while the world runs."""
    chance = random.Random(f"{world.seed} ids")
    deletions.forget()

    def new_id() -> uuid.UUID:
        return uuid.UUID(int=chance.getrandbits(128), version=4)

    def log(logger: Any, method: str, event: EventDict) -> EventDict:
        owner = OWNER.get(None)
        if owner is not None and not owner.alive:
            raise structlog.DropEvent  # whoever was killed says nothing more
        who, what = str(event.pop("service", "")), str(event.pop("event", ""))
        trouble = event.pop("exc_info", None)
        if what == "the handler failed":
            world.broken(f"a handler of {who} raised {sys.exc_info()[1]!r}")
        world.say("log", who, f"{what} {_told(event)}{' ' + repr(trouble) if trouble else ''}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, add_handled, log],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        cache_logger_on_first_use=False,
    )
    try:
        with (
            uncollected(),
            mock.patch.object(uuid, "uuid4", new_id),
            mock.patch.object(random, "getrandbits", chance.getrandbits),
            mock.patch.object(BaseModel, "model_validate_json", classmethod(_remembering())),
        ):
            yield
    finally:
        structlog.configure(**before)


def _remembering() -> Callable[..., BaseModel]:
    """Return a reader of models that reads the same text once: they are frozen, and reading takes a third of a run."""
    read: dict[tuple[type[BaseModel], str | bytes], BaseModel] = {}
    original = BaseModel.model_validate_json.__func__  # type: ignore[attr-defined]

    def validate(model: type[BaseModel], body: str | bytes, **options: Any) -> BaseModel:
        found = read.get((model, body))
        if found is None:
            if len(read) > 2000:
                read.clear()
            found = read[model, body] = original(model, body, **options)
        return found

    return validate


def _sentence(message: Message) -> str | None:
    """Say an alert as people read it; None: it is none."""
    match message:
        case AlertRaised():
            return f"{message.cause} raised: {message.reason}; next: {message.next}"
        case AlertCleared():
            return f"{message.cause} is over"
    return None


def _told(event: Mapping[str, Any]) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_SORT_KEYS).decode()


def serving(world: World) -> Sequence[str]:
    """Return who truly serves: in service for the group, and well."""
    machines = world.ec2.machines
    return [
        each.server
        for each in world.group().members
        if each.in_service and each.server in machines and machines[each.server].well
    ]
