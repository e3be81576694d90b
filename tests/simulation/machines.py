"""EC2 and Systems Manager: servers that boot, run plans and fail; images, launch templates and commands."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

import orjson

from shared.cloud import CommandState, CommandStatus, Image, Instance, NotFound, Refused, TemplateVersion
from shared.ids import FLEET_TAG
from shared.names import RUN_DOCUMENT
from shared.plan import Plan, PlannedStep
from shared.records import Report, StepResult
from tests.simulation.loop import START
from tests.simulation.objects import Bucket, key_of
from tests.simulation.past import Past

GROUP_TAG = "aws:autoscaling:groupName"
STOCK = "ami-00000000000000000"
HANGS_S = 30.0
"""How often what runs on a server that hangs is asked whether it goes on."""

FORGOTTEN_AFTER_S = 3600.0
"""How long EC2 shows a terminated instance."""

Trouble = Literal["", "sick", "hung", "mute"]
"""Sick: its page answers badly. Hung: nothing on it goes on. Mute: Systems Manager's agent never connects."""


@dataclass(eq=False)
class Disk:
    """What lasts from a server to its image: the ledger, and which release each component is at."""

    ledger: dict[str, str] = field(default_factory=dict)
    releases: dict[str, str] = field(default_factory=dict)
    broken: bool = False
    """The application on it never becomes healthy."""

    def copy(self) -> Disk:
        """Return another with the same on it."""
        return Disk(dict(self.ledger), dict(self.releases), self.broken)


@dataclass(eq=False)
class Machine:
    """An instance with what is on it."""

    past: Past[Instance]
    disk: Disk
    online: bool = False
    serving: bool = False
    restarting: bool = False
    """A plan changes what it serves: its page does not answer."""
    trouble: Trouble = ""
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def now(self) -> Instance:
        """The instance as it is."""
        return self.past.now

    @property
    def living(self) -> bool:
        """Whether it costs money."""
        return self.now.state not in ("shutting-down", "terminated")

    @property
    def well(self) -> bool:
        """Whether it truly serves."""
        return self.now.state == "running" and self.serving and not self.restarting and not self.trouble


@dataclass(eq=False)
class Sent:
    """A command on one machine."""

    command: str
    server: str
    comment: str
    sent: float
    status: CommandStatus = field(default_factory=lambda: CommandStatus(CommandState.RUNNING))
    task: asyncio.Task[None] | None = None


@dataclass(eq=False)
class Picture:
    """An image with the disk in it."""

    past: Past[Image]
    disk: Disk


@dataclass(eq=False)
class Weather:
    """What EC2 is up against just now; faults set it."""

    dark: set[str] = field(default_factory=set)
    """Zones that nothing launches in and nobody reaches."""
    full: bool = False
    """There is no capacity at all."""
    blind: bool = False
    """No health page can be reached."""
    next_launch: Trouble | Literal["lost"] = ""
    """What befalls the next server that is launched; lost: it vanishes while it boots."""
    next_image_fails: bool = False
    next_image_broken: bool = False


@dataclass(eq=False)
class Ec2:
    """All instances, images, templates and commands of the account."""

    loop: asyncio.AbstractEventLoop
    chance: random.Random
    bucket: Bucket
    emit: Callable[[Mapping[str, object]], None]
    hear: Callable[[str, str], None]
    """Told of each instance that runs, or has terminated."""
    noticed: Callable[[str, str], None]
    """Told what happened, for the trace: a kind, and a sentence."""
    stepped: Callable[[str, str, str, bool], None]
    """Told of each step that a server ran: server, step, fingerprint, whether it went well."""
    befallen: Callable[[str], None]
    """Told of each kind of trouble that befell something."""
    changed: Callable[[], None]
    """Told when a server begins to serve, or ceases to."""
    zones: tuple[str, ...] = ()
    machines: dict[str, Machine] = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)
    snapshots: dict[str, str] = field(default_factory=dict)
    """Snapshot to the image that it belongs to."""
    templates: dict[str, Past[tuple[TemplateVersion, ...]]] = field(default_factory=dict)
    commands: dict[str, Sent] = field(default_factory=dict)
    tokens: dict[str, tuple[str, str, Mapping[str, str]]] = field(default_factory=dict)
    """Client token to the server that was launched with it, and from what image and with what tags."""
    addresses: dict[str, str] = field(default_factory=dict)
    """Address to server."""
    bad_versions: set[str] = field(default_factory=set)
    """Releases that do not build."""
    weather: Weather = field(default_factory=Weather)
    pace: float = 1.0
    """How long steps take, 1 being forty minutes for a full provisioning."""
    _made: int = 0

    def _new(self, prefix: str) -> str:
        self._made += 1
        return f"{prefix}-{self._made:017x}"

    def _moment(self) -> datetime:
        return START + timedelta(seconds=self.loop.time())

    # Instances.

    def launch(self, image: str, zone: str, tags: Mapping[str, str]) -> str:
        """Start an instance; NotFound without such an image, Refused without capacity."""
        picture = self.pictures.get(image)
        if picture is None or picture.past.now.state != "available":
            raise NotFound(f"the image {image} does not exist, or is not available")
        lit = [each for each in self.zones if each not in self.weather.dark]
        if self.weather.full or not lit:
            raise Refused("there is no capacity")
        server = self._new("i")
        address = f"10.{self._made >> 16 & 255}.{self._made >> 8 & 255}.{self._made & 255}"
        place = zone if zone in lit else lit[0]
        instance = Instance(server, "pending", image, address, self._moment(), place, dict(tags))
        self.addresses[address] = server
        self.machines[server] = Machine(Past(self.loop.time(), instance), picture.disk.copy())
        fate, self.weather.next_launch = self.weather.next_launch, ""
        if fate:
            self.befallen(f"launch {fate}")
        self.noticed("launched", f"{server} from {image} in {place}{f', {fate}' if fate else ''}")
        self.loop.call_later(self.chance.uniform(10, 40), self._run, server, fate)
        return server

    def launch_once(self, token: str, image: str, zone: str, tags: Mapping[str, str]) -> str:
        """Start an instance, or return the one that was started with this token; Refused when that was another."""
        if token not in self.tokens:
            self.tokens[token] = (self.launch(image, zone, tags), image, dict(tags))
        server, *asked = self.tokens[token]
        if asked != [image, dict(tags)]:
            raise Refused(f"the client token {token} was used with other parameters")
        return server

    def _run(self, server: str, fate: str) -> None:
        machine = self.machines[server]
        if machine.now.state != "pending":
            return
        self._change(server, state="running")
        self.hear(server, "running")
        if fate == "lost":
            self.vanish(server)
        elif fate == "mute":
            machine.trouble = "mute"
        else:
            machine.trouble = "sick" if fate == "sick" else "hung" if fate == "hung" else ""
            self.loop.call_later(self.chance.uniform(5, 20), self._connect, server)

    def _connect(self, server: str) -> None:
        machine = self.machines[server]
        machine.online = machine.now.state == "running"

    def _change(self, server: str, *, state: str | None = None, tags: Mapping[str, str] | None = None) -> None:
        machine = self.machines[server]
        old = machine.now
        new = replace(old, state=state or old.state, tags={**old.tags, **(tags or {})})
        machine.past.set(self.loop.time(), new)
        if state is not None:
            self.emit(
                event("aws.ec2", "EC2 Instance State-change Notification", {"instance-id": server, "state": state})
            )

    def tag_instance(self, server: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._change(server, tags=tags)

    def disown(self, server: str) -> None:
        """Take the group's tag off."""
        machine = self.machines[server]
        kept = {key: value for key, value in machine.now.tags.items() if key != GROUP_TAG}
        machine.past.set(self.loop.time(), replace(machine.now, tags=kept))

    def terminate(self, server: str) -> None:
        """Begin to terminate an instance; nothing happens to one that is on its way already."""
        if server not in self.machines:
            raise NotFound(f"there is no instance {server}")
        if self.machines[server].living:
            self._down(server, "shutting-down")
            self.loop.call_later(self.chance.uniform(5, 30), self._gone, server)

    def vanish(self, server: str) -> None:
        """Lose an instance at once, as when its host dies."""
        if self.machines[server].living:
            self.noticed("vanished", server)
            self._down(server, None)
            self._gone(server)

    def _down(self, server: str, state: str | None) -> None:
        machine = self.machines[server]
        machine.online = machine.serving = False
        for task in machine.tasks:
            task.cancel()
        machine.tasks.clear()
        if state:
            self._change(server, state=state)

    def _gone(self, server: str) -> None:
        self._change(server, state="terminated")
        self.noticed("terminated", server)
        self.hear(server, "terminated")
        self.loop.call_later(FORGOTTEN_AFTER_S, self.machines.pop, server)

    def instances(self, servers: Sequence[str], at: float) -> dict[str, Instance]:
        """Return those that were there at that moment."""
        found = {each: self.machines[each].past.at(at) for each in servers if each in self.machines}
        return {server: instance for server, instance in found.items() if instance is not None}

    def tagged(self, tags: Mapping[str, str], at: float) -> list[Instance]:
        """Return the instances with all of these tags that were not terminated at that moment."""
        seen = [machine.past.at(at) for machine in self.machines.values()]
        return [each for each in seen if each and each.state != "terminated" and tags.items() <= each.tags.items()]

    def page(self, address: str) -> bool | None:
        """Answer for a server's health page."""
        machine = self.machines.get(self.addresses.get(address, ""))
        if machine is None or machine.now.state != "running" or machine.trouble == "hung":
            return None
        if self.weather.blind or machine.now.zone in self.weather.dark:
            return None
        return machine.serving and not machine.restarting and machine.trouble != "sick"

    # Images and templates.

    def stock(self, image: str) -> None:
        """Put the stock image there; it is nobody's, so it carries no tags of ours."""
        self.pictures[image] = Picture(
            Past(self.loop.time(), Image(image, "stock", "available", self._moment())), Disk()
        )

    def make_template(self, fleet: str, image: str) -> None:
        """Make a fleet's launch template."""
        self.templates[fleet] = Past(self.loop.time(), (TemplateVersion(1, image, default=True),))

    def create_image(self, server: str, name: str, tags: Mapping[str, str]) -> str:
        """Begin to make an image, or return the one of that name."""
        for picture in self.pictures.values():
            image = picture.past.now
            if image.name == name:
                if tags.items() <= image.tags.items():
                    return image.image
                raise Refused(f"{image.image} has the name {name!r} and other tags")
        machine = self.machines.get(server)
        if machine is None or machine.now.state != "running":
            raise NotFound(f"there is no running instance {server}")
        made, snapshot = self._new("ami"), self._new("snap")
        disk = machine.disk.copy()
        disk.broken, self.weather.next_image_broken = self.weather.next_image_broken, False
        image = Image(made, name, "pending", self._moment(), (snapshot,), dict(tags))
        self.pictures[made], self.snapshots[snapshot] = Picture(Past(self.loop.time(), image), disk), made
        if disk.broken:
            self.befallen("image-broken")
        self.noticed("image", f"{made} of {server} is being made{', broken' if disk.broken else ''}")
        self.loop.call_later(self.chance.uniform(60, 240), self._image_done, made)
        return made

    def _image_done(self, made: str) -> None:
        if made not in self.pictures:
            return
        failed, self.weather.next_image_fails = self.weather.next_image_fails, False
        if failed:
            self.befallen("image-fails")
        past, state = self.pictures[made].past, "failed" if failed else "available"
        past.set(self.loop.time(), replace(past.now, state=state, reason="internal error" if failed else ""))
        self.noticed("image", f"{made} is {state}")
        self.emit(event("aws.ec2", "EC2 AMI State Change", {"ImageId": made, "State": state, "ErrorMessage": ""}))

    def tag_image(self, image: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        past = self.pictures[image].past
        past.set(self.loop.time(), replace(past.now, tags={**past.now.tags, **tags}))

    def deregister(self, image: str) -> None:
        """Deregister an image, its snapshots with it."""
        picture = self.pictures.pop(image, None)
        if picture is not None:
            for snapshot in picture.past.now.snapshots:
                self.snapshots.pop(snapshot, None)
            self.noticed("deregistered", image)

    def images(self, fleet: str, at: float) -> list[Image]:
        """Return the images with the fleet's tag that were there at that moment."""
        seen = [picture.past.at(at) for picture in self.pictures.values()]
        return [each for each in seen if each is not None and each.tags.get(FLEET_TAG) == fleet]

    def image(self, image: str, at: float) -> Image | None:
        """Return an image as it was at that moment."""
        return self.pictures[image].past.at(at) if image in self.pictures else None

    def set_template_image(self, fleet: str, image: str) -> int:
        """Make a version with this image the default one."""
        if fleet not in self.templates:
            raise NotFound(f"there is no launch template {fleet}")
        versions = self.templates[fleet].now
        number = next((each.version for each in reversed(versions) if each.image == image), 0)
        if not number:
            number = versions[-1].version + 1
            versions = (*versions, TemplateVersion(number, image, default=False))
        new = tuple(replace(each, default=each.version == number) for each in versions)
        self.templates[fleet].set(self.loop.time(), new)
        return number

    def default_version(self, fleet: str) -> TemplateVersion:
        """Return the version of the launch template that launches use."""
        return next(each for each in self.templates[fleet].now if each.default)

    # Commands.

    def send(self, server: str, document: str, parameters: Mapping[str, str], comment: str, timeout_s: int) -> str:
        """Run a plan on a server, unless it hangs for so long that it has not begun in time."""
        machine = self.machines.get(server)
        if machine is None or not machine.online:
            raise NotFound(f"{server} is not connected")
        if document != RUN_DOCUMENT:
            raise NotFound(f"there is no document {document}")
        self._made += 1
        sent = Sent(f"{self._made:08x}-0000-4000-8000-000000000000", server, comment, self.loop.time())
        self.commands[sent.command] = sent
        stored = self.bucket.get(key_of(parameters["PlanUrl"], "get"))
        plan = Plan.model_validate_json(stored.body) if stored else None
        sent.task = self.loop.create_task(self._execute(machine, sent, plan, timeout_s), context=Context())
        machine.tasks.append(sent.task)
        return sent.command

    def cancel(self, server: str, command: str) -> None:
        """End a command; nothing happens to one that has ended."""
        sent = self.commands.get(command)
        if sent is None:
            raise NotFound(f"there is no command {command}")
        if sent.server == server and sent.task is not None and not sent.task.done():
            sent.task.cancel()
            self._over(sent, CommandStatus(CommandState.CANCELLED, detail="Cancelled"))

    async def _execute(self, machine: Machine, sent: Sent, plan: Plan | None, timeout_s: int) -> None:
        """Do as the agent does: one run at a time, each step that the ledger does not have, and a report."""
        await self._hangs(machine, sent.sent + timeout_s)
        if machine.trouble == "hung":
            self._over(sent, CommandStatus(CommandState.TIMED_OUT, detail="Delivery Timed Out"))
            return
        if plan is None:
            self._ended(sent, failed="the plan cannot be fetched")
            return
        async with machine.busy:
            machine.tasks = [task for task in machine.tasks if not task.done()]
            results: list[StepResult] = []
            began = self._moment()
            for step in plan.steps:
                done = self._skipped(machine, step)
                if done is None:
                    self._restart(machine, step)
                    self._report(plan, began, "running", step.step, results)
                    done = await self._step(machine, step)
                results.append(done)
                if done.result == "failed":
                    self._served(machine)
                    self._report(plan, began, "failed", step.step, results)
                    self._ended(sent, failed=done.reason)
                    return
            machine.serving = True
            self._served(machine)
            self._report(plan, began, "ok", None, results)
            self._ended(sent)

    def _restart(self, machine: Machine, step: PlannedStep) -> None:
        if machine.serving and step.kind != "check":
            machine.restarting = True
            self.changed()

    def _served(self, machine: Machine) -> None:
        machine.restarting = False
        self.changed()

    def _skipped(self, machine: Machine, step: PlannedStep) -> StepResult | None:
        if step.kind == "check" or machine.disk.ledger.get(step.step) != step.fingerprint:
            return None
        return StepResult(step=step.step, result="skipped", fingerprint=step.fingerprint)

    async def _step(self, machine: Machine, step: PlannedStep) -> StepResult:
        began, disk = self._moment(), machine.disk
        again = step.step in disk.ledger or step.component in disk.releases
        await asyncio.sleep(_seconds(step, again, machine.disk.broken) * self.pace * self.chance.uniform(0.8, 1.2))
        await self._hangs(machine)
        why = self._failure(machine, step)
        self.stepped(machine.now.server, step.step, step.fingerprint, not why)
        if not why and step.kind != "check":
            disk.ledger[step.step] = step.fingerprint
        if not why and step.kind == "sync":
            disk.releases[step.component] = step.version
        return StepResult(
            step=step.step,
            result="failed" if why else "done",
            fingerprint=step.fingerprint,
            began=began,
            seconds=(self._moment() - began).total_seconds(),
            reason=why,
            log_tail=f"{step.step}: {why}" if why else "",
        )

    async def _hangs(self, machine: Machine, until: float = float("inf")) -> None:
        """Let time pass while it does, at most until then."""
        while machine.trouble == "hung" and self.loop.time() < until:  # noqa: ASYNC110  many set it
            await asyncio.sleep(HANGS_S)

    def _failure(self, machine: Machine, step: PlannedStep) -> str:
        if step.kind == "check" and (machine.disk.broken or machine.trouble):
            return "the page does not answer 200"
        if step.kind == "run" and step.step == "build" and self.bad_versions & set(machine.disk.releases.values()):
            return "the build ended with exit status 2"
        return ""

    def _report(
        self,
        plan: Plan,
        began: datetime,
        state: Literal["running", "ok", "failed"],
        step: str | None,
        done: list[StepResult],
    ) -> None:
        report = Report(
            state=state, attempt=plan.attempt, step=step, began=began, updated=self._moment(), steps=tuple(done)
        )
        self.bucket.put(key_of(plan.report_url, "put"), report.model_dump_json().encode())

    def _ended(self, sent: Sent, failed: str = "") -> None:
        state = CommandState.FAILED if failed else CommandState.SUCCEEDED
        self._over(sent, CommandStatus(state, 1 if failed else 0, failed))

    def _over(self, sent: Sent, status: CommandStatus) -> None:
        sent.status = status
        self.noticed("ran", f"{sent.comment} on {sent.server}: {status.output or _EVENT_WORD[status.state].lower()}")
        detail = {
            "command-id": sent.command,
            "instance-id": sent.server,
            "document-name": RUN_DOCUMENT,
            "status": _EVENT_WORD[status.state],
        }
        self.emit(event("aws.ssm", "EC2 Command Invocation Status-change Notification", detail))

    def find(self, server: str, comment: str, at: float) -> str | None:
        """Return the command with this comment, if it was there at that moment."""
        found = [each for each in self.commands.values() if (each.server, each.comment) == (server, comment)]
        return found[0].command if found and found[0].sent <= at else None

    def status(self, server: str, command: str, at: float) -> CommandStatus:
        """Return how a command stands."""
        sent = self.commands.get(command)
        if sent is None or sent.server != server or sent.sent > at:
            return CommandStatus(CommandState.UNKNOWN)
        return sent.status


_EVENT_WORD = {
    CommandState.SUCCEEDED: "Success",
    CommandState.FAILED: "Failed",
    CommandState.CANCELLED: "Cancelled",
    CommandState.TIMED_OUT: "TimedOut",
}
"""What Systems Manager calls the end of a command in its events."""


def _seconds(step: PlannedStep, again: bool, broken: bool) -> float:
    """Say how long a step takes on a server: forty minutes in all from nothing, a few if it was done before. Pure."""
    if step.kind == "check":
        return 60.0 if broken else 5.0
    full = 1200.0 if step.kind == "sync" else 400.0
    return full / 20 if again else full


def event(source: str, kind: str, detail: Mapping[str, object]) -> dict[str, object]:
    """Return an event as EventBridge matches and delivers it."""
    return {"version": "0", "source": source, "detail-type": kind, "resources": [], "detail": detail}


def dumped(event: Mapping[str, object]) -> str:
    """Return an event as it is delivered."""
    return orjson.dumps(event).decode()
