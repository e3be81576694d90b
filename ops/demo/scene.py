"""What the stages of the story stand on: looking at what is really there, acting as an operator would, and judging."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiohttp
import orjson

from ops.demo.journal import Journal
from ops.demo.report import Result
from ops.demo.screen import Screen
from ops.demo.traffic import Traffic
from shared.aws import Cloud
from shared.aws.session import Clients
from shared.clock import Clock
from shared.cloud import CloudError, Group
from shared.documents import Documents
from shared.fleet import Fleet
from shared.ids import ROLE_TAG
from shared.names import ServiceName, topic_name
from shared.records import (
    Bake,
    Launch,
    Membership,
    Pointer,
    Report,
    bakes_prefix,
    launch_key,
    membership_key,
    pointer_key,
    report_key,
)

T = TypeVar("T")

LOOK_S = 0.25
"""How often the state of things is looked at."""


class StageFailed(Exception):
    """A stage did not end as it should. The message is the reason, for a person."""


class Played(Protocol):
    """What a story is played on: a system that runs, whoever started it."""

    @property
    def url(self) -> str:
        """Where queues and topics are."""
        ...

    def environment(self) -> dict[str, str]:
        """Return the environment for an operator's commands."""
        ...

    def topic_arn(self, name: str) -> str:
        """Return the ARN of one of our topics."""
        ...

    def queue_url(self, service: ServiceName) -> str:
        """Return the URL of a service's queue."""
        ...

    async def start_service(self, service: ServiceName) -> None:
        """Start a service that was killed."""
        ...

    def kill_service(self, service: ServiceName) -> None:
        """End a service with SIGKILL."""
        ...


@dataclass
class Scene:
    """Everything that a stage may look at or touch."""

    stack: Played
    clients: Clients
    cloud: Cloud
    documents: Documents
    fleet: Fleet
    journal: Journal
    screen: Screen
    traffic: Traffic
    clock: Clock
    workspace: Path
    scale: float = 1.0
    """How much there is of the example; see ``first_releases``."""

    result: Result = field(default_factory=Result)
    background: list[asyncio.Task[None]] = field(default_factory=list)
    """What runs beside the stages until the end; an error in it ends the story."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self.clock.now().timestamp()

    def check(self, holds: bool, sentence: str) -> None:
        """Fail the stage with the sentence unless it holds."""
        if not holds:
            raise StageFailed(sentence)

    async def until(self, what: str, look: Callable[[], Awaitable[T | None]], timeout_s: float) -> T:
        """Look again and again until there is an answer; fail the stage when there is none in time."""
        self.screen.waiting_for = what
        deadline = self.clock.monotonic() + timeout_s
        while self.clock.monotonic() < deadline:
            self._check_background()
            answer = await look()
            if answer is not None and answer is not False:
                return answer
            await self.clock.sleep(LOOK_S)
        raise StageFailed(f"waited {timeout_s:.0f} s in vain for {what}")

    def _check_background(self) -> None:
        for task in self.background:
            if task.done():
                task.result()

    # Looking.

    async def group(self) -> Group:
        """Return the Auto Scaling group."""
        return await self.cloud.groups.describe(self.fleet.fleet)

    async def in_service(self) -> set[str]:
        """Return who is in service, as the group sees it."""
        return {member.server for member in (await self.group()).members if member.in_service}

    async def members(self) -> set[str]:
        """Return who is a member, as the registry announced it."""
        membership = await self.documents.get(Membership, membership_key(self.fleet.fleet))
        return {member.server for member in membership.members} if membership else set()

    async def pointer(self) -> Pointer | None:
        """Return the pointer."""
        return await self.documents.get(Pointer, pointer_key(self.fleet.fleet))

    async def launch(self, server: str) -> Launch | None:
        """Return the record of a server's launch."""
        return await self.documents.get(Launch, launch_key(self.fleet.fleet, server))

    async def bakes(self) -> list[Bake]:
        """Return the records of all bakes, oldest first."""
        return await self.documents.all(Bake, bakes_prefix(self.fleet.fleet))

    async def health(self, server: str) -> dict[str, Any]:
        """Return what a server's own health page says; fail the stage when it is not well."""
        instance = (await self.cloud.servers.instances([server])).get(server)
        if instance is None:
            raise StageFailed(f"EC2 does not know {server}")
        url = self.fleet.health.url.format(address=instance.address)
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            self.check(answer.status == 200, f"the health page of {server} answers {answer.status}")
            page: dict[str, Any] = orjson.loads(await answer.read())
            return page

    async def at_strength(self, without: Sequence[str] = ()) -> set[str] | None:
        """Return the servers in service when they are as many as desired, nobody is on the way, and all are members."""
        group = await self.group()
        serving = {member.server for member in group.members if member.in_service}
        settled = len(serving) == len(group.members) == group.desired
        if settled and serving == await self.members() and not serving & set(without):
            return serving
        return None

    # Acting as an operator.

    async def aws(self, *arguments: str) -> str:
        """Run the real AWS CLI, showing the command; return what it printed."""
        self.screen.say("$ aws " + shlex.join(arguments), "magenta")
        return await self._run(str(Path(sys.executable).with_name("aws")), *arguments)

    async def ops(self, *arguments: str) -> str:
        """Run our own command line, showing the command; return what it printed."""
        self.screen.say("$ python -m ops " + shlex.join(arguments), "magenta")
        return await self._run(sys.executable, "-m", "ops", *arguments)

    async def publish_command(self, **message: str) -> None:
        """Publish a request with the AWS CLI."""
        topic = self.stack.topic_arn(topic_name("commands"))
        await self.aws("sns", "publish", "--topic-arn", topic, "--message", orjson.dumps(message).decode())

    async def tick(self, service: ServiceName) -> None:
        """Send a service the tick that an operator sends to have one fleet looked at now."""
        body = orjson.dumps({"type": "tick", "fleet": self.fleet.fleet}).decode()
        # Version 1 of the AWS CLI does not take SQS's endpoint from the environment.
        to = ("--endpoint-url", self.stack.url, "sqs", "send-message", "--queue-url", self.stack.queue_url(service))
        await self.aws(*to, "--message-body", body)

    async def _run(self, *command: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self.stack.environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        said = output.decode(errors="replace").strip()
        self.check(
            process.returncode == 0, f"{shlex.join(command[1:4])} ended with {process.returncode}: {said[-500:]}"
        )
        return said

    # Watching.

    async def watch(self) -> None:
        """Keep the screen up to date until cancelled: steps from the servers' own reports, roles from the bakes."""
        while True:
            try:
                await self._watch_once()
            except CloudError as error:
                self.screen.waiting_for = f"the local cloud ({error})"
            self.screen.refresh()
            await self.clock.sleep(LOOK_S * 2)

    async def _watch_once(self) -> None:
        pointer = await self.pointer()
        self.screen.pointer = pointer.image if pointer else ""
        unnamed = [server for server, line in self.journal.servers.items() if not line.image]
        for server, instance in (await self.cloud.servers.instances(unnamed)).items():
            self.journal.servers[server].image = instance.image
            self.journal.servers[server].role = instance.tags.get(ROLE_TAG, "member")
        for server, line in list(self.journal.servers.items()):  # the witness adds to it meanwhile
            if line.busy:
                await self._follow(server)

    async def _follow(self, server: str) -> None:
        """Take a busy server's steps from the report that it writes as it goes."""
        line = self.journal.servers[server]
        attempt = await self._attempt(server, line.role)
        stored = await self.cloud.objects.get(report_key(self.fleet.fleet, attempt)) if attempt else None
        if stored:
            report = Report.model_validate_json(stored.body)
            line.steps = report.steps
            line.step = report.step or ("" if report.state == "running" else report.state)
            line.finished = report.state != "running"

    async def _attempt(self, server: str, role: str) -> str | None:
        if role == "member":
            launch = await self.launch(server)
            return launch.attempts[-1].attempt if launch and launch.attempts else None
        for bake in reversed(await self.bakes()):
            if bake.builder == server and bake.provision:
                return bake.provision.attempt
            if bake.prover == server and bake.proof:
                return bake.proof.attempt
        return None
