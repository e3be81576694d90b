"""The ports of ``shared.cloud`` in memory: they keep state, record calls, and fail when told to.

A fault is one-shot and comes either before the effect or after it (``applied``: the reply was lost).
``meanwhile`` runs something just before a call takes effect: another process that was quicker.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

from shared import cloud, ids, names
from shared.cloud import (
    AlarmState,
    CloudError,
    CommandState,
    CommandStatus,
    Conflict,
    Group,
    GroupMember,
    Image,
    Instance,
    LifecycleResult,
    LifecycleState,
    NotFound,
    Refused,
    StoredObject,
    TemplateVersion,
)
from shared.messages import Message

START = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
"""A Wednesday noon: where every fake clock starts unless told otherwise."""

M = TypeVar("M")


class FakeClock:
    """Time that passes only when told to: by ``step``, or by somebody who sleeps."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._passed = 0.0
        self.skew = timedelta()
        """How far the wall clock is off; the monotonic one never is."""
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._passed) + self.skew

    def monotonic(self) -> float:
        return self._passed

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.step(seconds)
        await asyncio.sleep(0)

    def step(self, seconds: float = 0, *, minutes: float = 0, hours: float = 0, days: float = 0) -> None:
        """Let time pass."""
        self._passed += timedelta(seconds=seconds, minutes=minutes, hours=hours, days=days).total_seconds()


@dataclass(frozen=True)
class Call:
    """A call that a fake received, whether or not it then failed."""

    method: str
    arguments: tuple[object, ...]


@dataclass(frozen=True)
class _Fault:
    method: str
    error: CloudError
    applied: bool


class _Taking:
    """One call under way. A class, since mypy knows of it that it swallows nothing."""

    def __init__(self, fake: Fake, call: Call) -> None:
        self._fake = fake
        self._call = call
        self._fault: _Fault | None = None

    async def __aenter__(self) -> None:
        await asyncio.sleep(0)
        self._fault = self._fake.begin(self._call)
        if self._fault is not None and not self._fault.applied:
            raise self._fault.error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._fault is not None:
            raise self._fault.error


class Fake:
    """What all fakes share: recorded calls, injected faults, and things that happen meanwhile."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._faults: list[_Fault] = []
        self._meanwhile: list[tuple[str, Callable[[], None]]] = []

    def fail(self, method: str, error: CloudError, *, applied: bool = False, times: int = 1) -> None:
        """Let the next calls of ``method`` raise; with ``applied`` after they took effect: the reply was lost."""
        self._faults.extend([_Fault(method, error, applied)] * times)

    def meanwhile(self, method: str, happening: Callable[[], None]) -> None:
        """Run ``happening`` once, just before the next call of ``method`` takes effect."""
        self._meanwhile.append((method, happening))

    def called(self, *methods: str) -> list[Call]:
        """Return the calls of these methods, in order."""
        return [call for call in self.calls if call.method in methods]

    def begin(self, call: Call) -> _Fault | None:
        """Record a call; return the fault it is to suffer."""
        self.calls.append(call)
        for waiting in [each for each in self._meanwhile if each[0] == call.method][:1]:
            self._meanwhile.remove(waiting)
            waiting[1]()
        fault = next((each for each in self._faults if each.method == call.method), None)
        if fault is not None:
            self._faults.remove(fault)
        return fault

    def _taking(self, method: str, *arguments: object) -> _Taking:
        return _Taking(self, Call(method, arguments))


class FakeGroups(Fake):
    """Auto Scaling groups that never act by themselves: tests set what they want with ``set`` and ``change``.

    Both lifecycle hooks are taken to exist: an action waits exactly while a member is in a ``:Wait`` state.
    """

    def __init__(self) -> None:
        super().__init__()
        self.groups: dict[str, Group] = {}

    def set(self, group: Group) -> None:
        """Put a group there, or replace it."""
        self.groups[group.fleet] = group

    def join(self, fleet: str, member: GroupMember) -> None:
        """Add a member."""
        group = self.groups[fleet]
        self.set(replace(group, members=(*group.members, member)))

    def leave(self, fleet: str, server: str) -> None:
        """Remove a member."""
        group = self.groups[fleet]
        self.set(replace(group, members=tuple(each for each in group.members if each.server != server)))

    def change(self, fleet: str, server: str, *, state: str | None = None, healthy: bool | None = None) -> None:
        """Change a member's state or health."""
        group = self.groups[fleet]
        old = self._member(fleet, server)
        new = replace(
            old,
            state=old.state if state is None else str(state),
            healthy=old.healthy if healthy is None else healthy,
        )
        self.set(replace(group, members=tuple(new if each == old else each for each in group.members)))

    async def describe(self, fleet: str) -> Group:
        async with self._taking("describe", fleet):
            if fleet not in self.groups:
                raise NotFound(f"no Auto Scaling group {fleet}")
            return self.groups[fleet]

    async def complete(self, fleet: str, server: str, hook: str, result: LifecycleResult) -> bool:
        async with self._taking("complete", fleet, server, hook, result):
            if not self._waits(fleet, server, hook):
                return False
            if hook == names.TERMINATE_HOOK:
                self.leave(fleet, server)
            elif result == "CONTINUE":
                self.change(fleet, server, state=LifecycleState.IN_SERVICE)
            else:
                self.change(fleet, server, state=LifecycleState.TERMINATING_WAIT)
            return True

    async def heartbeat(self, fleet: str, server: str, hook: str) -> bool:
        async with self._taking("heartbeat", fleet, server, hook):
            return self._waits(fleet, server, hook)

    async def mark_unhealthy(self, fleet: str, server: str) -> None:
        async with self._taking("mark_unhealthy", fleet, server):
            self.change(fleet, server, healthy=False)

    async def terminate(self, fleet: str, server: str) -> None:
        async with self._taking("terminate", fleet, server):
            self.change(fleet, server, state=LifecycleState.TERMINATING_WAIT)

    async def detach(self, fleet: str, server: str) -> None:
        async with self._taking("detach", fleet, server):
            self._member(fleet, server)
            self.leave(fleet, server)

    def _member(self, fleet: str, server: str) -> GroupMember:
        member = self.groups[fleet].member(server) if fleet in self.groups else None
        if member is None:
            raise NotFound(f"{server} is not in {fleet}")
        return member

    def _waits(self, fleet: str, server: str, hook: str) -> bool:
        states = {
            names.LAUNCH_HOOK: LifecycleState.PENDING_WAIT,
            names.TERMINATE_HOOK: LifecycleState.TERMINATING_WAIT,
        }
        member = self.groups[fleet].member(server) if fleet in self.groups else None
        return member is not None and member.state == states.get(hook)


class FakeServers(Fake):
    """EC2: instances, images, launch templates. New instances run at once; new images are pending until set."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock
        self._made = 0
        self.known: dict[str, Instance] = {}
        self.invisible: set[str] = set()
        """Instances and images that exist but are not seen yet (eventual consistency)."""
        self.stored: dict[str, Image] = {}
        self.versions: dict[str, list[TemplateVersion]] = {}
        self.stocks: dict[str, str] = {}
        self.tokens: dict[str, tuple[str, str, Mapping[str, str]]] = {}

    def set(self, instance: Instance) -> None:
        """Put an instance there, or replace it."""
        self.known[instance.server] = instance

    def set_image(self, image: Image) -> None:
        """Put an image there, or replace it."""
        self.stored[image.image] = image

    def change_image(self, image: str, *, state: str) -> None:
        """Change an image's state: ``available`` when its snapshots are done."""
        self.stored[image] = replace(self.stored[image], state=state)

    async def instances(self, servers: Sequence[str]) -> Mapping[str, Instance]:
        async with self._taking("instances", tuple(servers)):
            return {each: self.known[each] for each in servers if each in self.known and each not in self.invisible}

    async def tagged(self, tags: Mapping[str, str]) -> Sequence[Instance]:
        async with self._taking("tagged", dict(tags)):
            if not tags:
                raise ValueError("no tags: that would be every instance of the account")
            return [
                each
                for each in self.known.values()
                if each.state != "terminated"
                and each.server not in self.invisible
                and tags.items() <= each.tags.items()
            ]

    async def launch(self, token: str, image: str, fleet: str, tags: Mapping[str, str]) -> str:
        async with self._taking("launch", token, image, fleet, dict(tags)):
            if token not in self.tokens:
                server = self._new_id("i")
                address = f"10.0.0.{self._made}"
                self.set(Instance(server, "running", image, address, self._clock.now(), "us-east-1a", dict(tags)))
                self.tokens[token] = (server, image, dict(tags))
            launched, *asked = self.tokens[token]
            if asked != [image, dict(tags)]:
                raise Refused(f"the client token {token} was used with other parameters")
            return launched

    async def tag(self, resource: str, tags: Mapping[str, str]) -> None:
        async with self._taking("tag", resource, dict(tags)):
            if resource in self.known:
                old = self.known[resource]
                self.set(replace(old, tags={**old.tags, **tags}))
            elif resource in self.stored:
                image = self.stored[resource]
                self.set_image(replace(image, tags={**image.tags, **tags}))
            elif not any(resource in image.snapshots for image in self.stored.values()):
                raise NotFound(f"no resource {resource}")

    async def terminate(self, server: str) -> None:
        async with self._taking("terminate", server):
            if server not in self.known:
                raise NotFound(f"no instance {server}")
            self.set(replace(self.known[server], state="terminated"))

    async def create_image(self, server: str, name: str, tags: Mapping[str, str]) -> str:
        async with self._taking("create_image", server, name, dict(tags)):
            existing = next((each for each in self.stored.values() if each.name == name), None)
            if existing is not None and tags.items() <= existing.tags.items():
                return existing.image
            if existing is not None:
                raise Refused(f"{existing.image} has the name {name!r} and other tags")
            if server not in self.known:
                raise NotFound(f"no instance {server}")
            image = self._new_id("ami")
            self.set_image(Image(image, name, "pending", self._clock.now(), (self._new_id("snap"),), dict(tags)))
            return image

    async def images(self, fleet: str) -> Sequence[Image]:
        async with self._taking("images", fleet):
            return [
                each
                for each in self.stored.values()
                if each.tags.get(ids.FLEET_TAG) == fleet and each.image not in self.invisible
            ]

    async def image(self, image: str) -> Image | None:
        async with self._taking("image", image):
            return None if image in self.invisible else self.stored.get(image)

    async def deregister(self, image: Image) -> None:
        async with self._taking("deregister", image):
            self.stored.pop(image.image, None)

    async def stock_image(self, stock: str) -> str:
        async with self._taking("stock_image", stock):
            if stock.startswith("ami-"):
                return stock
            if stock not in self.stocks:
                raise NotFound(f"no parameter {stock}")
            return self.stocks[stock]

    async def templates(self, fleet: str) -> Sequence[TemplateVersion]:
        async with self._taking("templates", fleet):
            if fleet not in self.versions:
                raise NotFound(f"there is no launch template {fleet}")
            return tuple(self.versions[fleet])

    async def set_template_image(self, fleet: str, image: str) -> int:
        async with self._taking("set_template_image", fleet, image):
            versions = self.versions.get(fleet, [])
            last = max((each.version for each in versions), default=0)
            chosen = next((each.version for each in reversed(versions) if each.image == image), last + 1)
            if chosen > last:
                versions = [*versions, TemplateVersion(chosen, image, default=False)]
            self.versions[fleet] = [replace(each, default=each.version == chosen) for each in versions]
            return chosen

    def _new_id(self, prefix: str) -> str:
        self._made += 1
        return f"{prefix}-{self._made:017x}"


@dataclass(frozen=True)
class SentCommand:
    """A command as it was sent."""

    command: str
    server: str
    document: str
    parameters: Mapping[str, str]
    comment: str
    timeout_s: int


class FakeCommands(Fake):
    """Run Command: what was sent stays running until ``answer``."""

    def __init__(self) -> None:
        super().__init__()
        self.offline: set[str] = set()
        """Servers whose agent does not answer; all others do."""
        self.sent: list[SentCommand] = []
        self.answers: dict[str, CommandStatus] = {}

    def answer(self, command: str, state: CommandState, *, code: int = 0, output: str = "", errors: str = "") -> None:
        """Say how a command stands from now on."""
        self.answers[command] = CommandStatus(state, code, output, errors)

    async def online(self, server: str) -> bool:
        async with self._taking("online", server):
            return server not in self.offline

    async def send(
        self, server: str, document: str, parameters: Mapping[str, str], comment: str, timeout_s: int
    ) -> str:
        async with self._taking("send", server, document, dict(parameters), comment, timeout_s):
            if server in self.offline:
                raise Refused(f"{server} is not connected")
            command = f"00000000-0000-4000-8000-{len(self.sent) + 1:012x}"
            self.sent.append(SentCommand(command, server, document, dict(parameters), comment, timeout_s))
            self.answers[command] = CommandStatus(CommandState.RUNNING)
            return command

    async def find(self, server: str, comment: str) -> str | None:
        async with self._taking("find", server, comment):
            matching = [each.command for each in self.sent if each.server == server and each.comment == comment]
            return matching[-1] if matching else None

    async def status(self, server: str, command: str) -> CommandStatus:
        async with self._taking("status", server, command):
            return self.answers.get(command, CommandStatus(CommandState.UNKNOWN))

    async def cancel(self, server: str, command: str) -> None:
        async with self._taking("cancel", server, command):
            if self.answers.get(command, CommandStatus(CommandState.UNKNOWN)).state == CommandState.RUNNING:
                self.answers[command] = CommandStatus(CommandState.CANCELLED)


class FakeObjects(Fake):
    """S3, one bucket. As there, the entity tag is the MD5 of the body: the same bytes have the same tag."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: dict[str, bytes] = {}
        self.modified: dict[str, datetime] = {}
        """When objects were written, where a test says so."""

    async def get(self, key: str) -> StoredObject | None:
        async with self._taking("get", key):
            body = self.bodies.get(key)
            return None if body is None else StoredObject(body, etag_of(body), self.modified.get(key, START))

    async def put(self, key: str, body: bytes, *, match: str | None = None, absent: bool = False) -> str:
        if match is not None and absent:
            raise ValueError("match and absent exclude each other")
        async with self._taking("put", key, body, match, absent):
            present = self.bodies.get(key)
            if absent and present is not None:
                raise Conflict(f"{key} is there already")
            if match is not None and (present is None or etag_of(present) != match):
                raise Conflict(f"{key} is another now")
            self.bodies[key] = body
            return etag_of(body)

    async def delete(self, key: str) -> None:
        async with self._taking("delete", key):
            self.bodies.pop(key, None)

    async def etags(self, prefix: str) -> Mapping[str, str]:
        async with self._taking("etags", prefix):
            return {key: etag_of(body) for key, body in sorted(self.bodies.items()) if key.startswith(prefix)}

    async def folders(self, prefix: str) -> Sequence[str]:
        async with self._taking("folders", prefix):
            below = [key.removeprefix(prefix) for key in self.bodies if key.startswith(prefix)]
            return sorted({key.partition("/")[0] for key in below if "/" in key})

    async def presign_get(self, key: str, expires_s: int) -> str:
        async with self._taking("presign_get", key, expires_s):
            return f"https://objects.invalid/{key}?method=get&expires={expires_s}"

    async def presign_put(self, key: str, expires_s: int) -> str:
        async with self._taking("presign_put", key, expires_s):
            return f"https://objects.invalid/{key}?method=put&expires={expires_s}"


def etag_of(body: bytes) -> str:
    """Return the entity tag that S3 gives to a body."""
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


class FakePublisher(Fake):
    """SNS: everything that was published, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[Message] = []

    async def publish(self, message: Message) -> None:
        async with self._taking("publish", message):
            self.published.append(message)

    def of(self, kind: type[M]) -> list[M]:
        """Return what was published of one kind."""
        return [message for message in self.published if isinstance(message, kind)]


class FakeAlarms(Fake):
    """CloudWatch alarms, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, AlarmState] = {}

    async def states(self, names: Sequence[str]) -> Mapping[str, AlarmState]:
        async with self._taking("states", tuple(names)):
            return {name: self.known.get(name, "INSUFFICIENT_DATA") for name in names}


class FakeHealth(Fake):
    """Health pages: well unless set. A list is answered one by one, and its last answer stays."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, list[bool | None]] = {}

    def set(self, url: str, *answers: bool | None) -> None:
        """Say what a page answers from now on."""
        self.answers[url] = list(answers)

    async def probe(self, url: str, timeout_s: float) -> bool | None:
        async with self._taking("probe", url, timeout_s):
            waiting = self.answers.get(url, [True])
            return waiting.pop(0) if len(waiting) > 1 else waiting[0]


@dataclass
class World:
    """All fakes on one clock."""

    clock: FakeClock = field(default_factory=FakeClock)
    groups: FakeGroups = field(default_factory=FakeGroups)
    commands: FakeCommands = field(default_factory=FakeCommands)
    objects: FakeObjects = field(default_factory=FakeObjects)
    publisher: FakePublisher = field(default_factory=FakePublisher)
    alarms: FakeAlarms = field(default_factory=FakeAlarms)
    health: FakeHealth = field(default_factory=FakeHealth)
    servers: FakeServers = field(init=False)

    def __post_init__(self) -> None:
        self.servers = FakeServers(self.clock)

    @property
    def fakes(self) -> tuple[Fake, ...]:
        """All fakes that a service may call."""
        return (self.groups, self.servers, self.commands, self.objects, self.publisher, self.alarms, self.health)


class _Ports(Protocol):
    """What a world must be, checked by mypy: every fake implements its port."""

    @property
    def groups(self) -> cloud.GroupsPort: ...
    @property
    def servers(self) -> cloud.ServersPort: ...
    @property
    def commands(self) -> cloud.CommandsPort: ...
    @property
    def objects(self) -> cloud.ObjectsPort: ...
    @property
    def publisher(self) -> cloud.PublisherPort: ...
    @property
    def alarms(self) -> cloud.AlarmsPort: ...
    @property
    def health(self) -> cloud.HealthPort: ...


if TYPE_CHECKING:
    _checked: _Ports = World()
