"""Run Command: scripts that really run in a machine, with time limits, cancelling, and what they print."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event, Lock
from typing import Literal

from localcloud import processes
from localcloud.background import run_in_background
from localcloud.documents import Step
from localcloud.machines import Machine, Machines, NoMachine
from localcloud.processes import Processes
from shared.clock import Clock

Status = Literal["Pending", "InProgress", "Success", "Failed", "TimedOut", "Cancelled", "Cancelling"]

FINAL = ("Success", "Failed", "TimedOut", "Cancelled")

LOOK_EVERY_S = 0.1
"""How often a running script is looked at for its end and a wish to cancel it."""

KEPT_OUTPUT = 24_000
KEPT_ERRORS = 8_000
"""Characters that GetCommandInvocation shows of standard output and standard error."""

_DETAILS = {"TimedOut": "Execution Timed Out"}


class NotOnline(Exception):
    """The machine's agent does not answer: it is not running, or there is none."""


@dataclass
class Invocation:
    """A command on one machine."""

    instance: str
    folder: Path
    status: Status = "Pending"
    code: int = -1
    started: datetime | None = None
    ended: datetime | None = None
    cancelled: Event = field(default_factory=Event)

    @property
    def details(self) -> str:
        """The status in Systems Manager's longer words."""
        return _DETAILS.get(self.status, self.status)

    @property
    def output(self) -> str:
        """The beginning of what the scripts printed."""
        return _beginning(self.folder / "stdout", KEPT_OUTPUT)

    @property
    def errors(self) -> str:
        """The beginning of what the scripts printed to standard error."""
        return _beginning(self.folder / "stderr", KEPT_ERRORS)


@dataclass
class Command:
    """A document sent to machines."""

    name: str
    document: str
    parameters: Mapping[str, Sequence[str]]
    comment: str
    timeout_s: int
    requested: datetime
    steps: tuple[Step, ...]
    invocations: tuple[Invocation, ...]

    @property
    def expires(self) -> datetime:
        """When the command would be given up if a machine never took it."""
        return self.requested + timedelta(seconds=self.timeout_s + sum(step.timeout_s for step in self.steps))

    @property
    def status(self) -> Status:
        """The command's own status: the worst of its invocations', once all have ended."""
        states = [invocation.status for invocation in self.invocations]
        if any(state not in FINAL for state in states):
            return "Pending" if set(states) == {"Pending"} else "InProgress"
        worst: tuple[Status, ...] = ("Failed", "TimedOut", "Cancelled")
        return next((state for state in worst if state in states), "Success")


Listener = Callable[[Command, Invocation], None]


class Commands:
    """All commands ever sent, in order."""

    def __init__(self, state: Path, machines: Machines, started: Processes, clock: Clock, listener: Listener):
        self._folder = state / "commands"
        self._machines = machines
        self._processes = started
        self._clock = clock
        self._listener = listener
        self._commands: dict[str, Command] = {}
        self._lock = Lock()

    def all(self) -> list[Command]:
        """Return every command, the newest first."""
        with self._lock:
            return list(self._commands.values())[::-1]

    def get(self, name: str) -> Command | None:
        """Return a command, or None."""
        return self._commands.get(name)

    def send(
        self,
        instances: Sequence[str],
        document: str,
        parameters: Mapping[str, Sequence[str]],
        steps: tuple[Step, ...],
        *,
        comment: str,
        timeout_s: int,
    ) -> Command:
        """Run scripts on machines. Raises NotOnline when one of the machines does not answer; then nothing runs."""
        machines = [self._online(instance) for instance in instances]
        name = str(uuid.uuid4())
        invocations = tuple(Invocation(instance, self._folder / name / instance) for instance in instances)
        now = self._clock.now()
        command = Command(name, document, parameters, comment, timeout_s, now, steps, invocations)
        with self._lock:
            self._commands[name] = command
        for machine, invocation in zip(machines, invocations, strict=True):
            invocation.folder.mkdir(parents=True)
            run_in_background(self._run, command, invocation, machine)
        return command

    def online(self, instance: str) -> bool:
        """Whether a command can be sent to this machine."""
        try:
            return self._machines.get(instance).online
        except NoMachine:
            return False

    def cancel(self, command: Command, instances: Sequence[str]) -> None:
        """End a command's processes, on these machines or on all."""
        for invocation in command.invocations:
            if invocation.instance in instances or not instances:
                invocation.cancelled.set()

    def _online(self, instance: str) -> Machine:
        if not self.online(instance):
            raise NotOnline(f"{instance} is not running, or is not known")
        return self._machines.get(instance)

    def _run(self, command: Command, invocation: Invocation, machine: Machine) -> None:
        invocation.started = self._clock.now()
        self._change(command, invocation, "InProgress")
        status: Status = "Success"
        for step in command.steps:
            status = self._run_step(step, invocation, machine)
            if status != "Success":
                break
        invocation.ended = self._clock.now()
        self._change(command, invocation, status)

    def _change(self, command: Command, invocation: Invocation, status: Status) -> None:
        invocation.status = status
        self._listener(command, invocation)

    def _run_step(self, step: Step, invocation: Invocation, machine: Machine) -> Status:
        script = invocation.folder / f"{step.name or 'script'}.sh"
        script.write_text(step.script)
        with (invocation.folder / "stdout").open("ab") as output, (invocation.folder / "stderr").open("ab") as errors:
            try:
                process = self._processes.start(
                    ("/bin/sh", str(script)),
                    output=output.fileno(),
                    errors=errors.fileno(),
                    instance=machine.name,
                    folder=machine.root / step.folder,
                    environment=self._machines.environment(machine),
                )
            except OSError as wrong:
                errors.write(f"the script could not start: {wrong}\n".encode())
                return "Failed"
        return self._outcome(process, step.timeout_s, invocation)

    def _outcome(self, process: subprocess.Popen[bytes], timeout_s: int, invocation: Invocation) -> Status:
        """Wait for a script's end, or bring it about."""
        deadline = self._clock.monotonic() + timeout_s
        while process.poll() is None:
            status: Status | None = None
            if invocation.cancelled.is_set():
                status = "Cancelled"
            elif self._clock.monotonic() > deadline:
                status = "TimedOut"
            if status:
                _end(process)
                return status
            try:
                process.wait(LOOK_EVERY_S)
            except subprocess.TimeoutExpired:
                continue
        code = process.returncode
        invocation.code = code if code >= 0 else 128 - code
        return "Success" if code == 0 else "Failed"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a script and what it started; what left the script's tree, such as a daemon, lives on."""
    found: set[int] = set()

    def still_there() -> set[int]:
        found.update(processes.tree(process.pid))
        process.poll()
        return processes.alive(found)

    processes.end(still_there)


def _beginning(path: Path, characters: int) -> str:
    try:
        with path.open(errors="replace") as text:
            return text.read(characters)
    except FileNotFoundError:
        return ""
