"""Machines: an instance is a directory, its root disk, plus real processes with an address of their own.

A machine has one init process; when that dies, the machine is dead, as when its hardware fails. Boot is what the real
work takes: the image's disk is copied, ``etc/rc.local`` runs. Nothing here knows of AWS: states go to a listener.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, RLock
from typing import BinaryIO, Literal

from localcloud import processes
from localcloud.background import run_in_background
from localcloud.processes import Processes

MachineState = Literal["pending", "running", "stopping", "stopped", "shutting-down", "terminated"]
Listener = Callable[[str, MachineState, str], None]
"""Called with the machine, its new state, and why."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

RC_LOCAL_S = 300.0
"""A machine whose ``rc.local`` takes longer counts as running all the same, as systemd would have it."""

HARDWARE_FAILURE = "Server.InternalError: the machine's init process died"
BY_USER = "Client.UserInitiatedShutdown: User initiated shutdown"

ROOM_BYTES = 20_000_000_000
"""Discarded disks are kept while the file system has this much left."""

_INIT = ("sleep", "infinity")
_STILL_MEANT_TO_RUN = ("pending", "running")


class NoMachine(Exception):
    """There is no such machine, or it is not in a state for this."""


class DiskFailure(Exception):
    """A disk could not be copied; the message says why."""


@dataclass
class Machine:
    """One instance's directory, address and processes."""

    name: str
    folder: Path
    address: str
    state: MachineState = "pending"
    init: subprocess.Popen[bytes] | None = None
    power: RLock = field(default_factory=RLock)
    """Held while the machine boots, goes down, or has its disk copied."""

    @property
    def root(self) -> Path:
        """The root disk."""
        return self.folder / "root"

    @property
    def online(self) -> bool:
        """Whether it is up, so that its Systems Manager agent would answer."""
        return self.state == "running" and self.init is not None


class Machines:
    """All machines and image disks under one state folder. Calls return at once; the work is done in the background."""

    def __init__(self, state: Path, network: str, started: Processes, listener: Listener):
        self._state = state
        self._network = network
        self._processes = started
        self._listener = listener
        self._machines: dict[str, Machine] = {}
        self._copying: Counter[str] = Counter()
        self._changed = Condition()
        self._addresses = iter(_addresses(network))

    def get(self, name: str) -> Machine:
        """Return a machine. Raises NoMachine."""
        machine = self._machines.get(name)
        if machine is None:
            raise NoMachine(f"there is no machine {name}")
        return machine

    def image_disk(self, image: str) -> Path:
        """Return where an image's disk is."""
        return self._state / "images" / image

    def launch(self, name: str, image: str) -> Machine:
        """Make a machine from an image and boot it; the listener hears of it from ``pending`` on."""
        with self._changed:
            machine = Machine(name, self._state / "instances" / name, self._free_address())
            self._machines[name] = machine
        run_in_background(self._create, machine, image)
        return machine

    def terminate(self, name: str, why: str = BY_USER) -> None:
        """Take a machine down for good and delete its disk. No error when that has begun already."""
        machine = self.get(name)
        with self._changed:
            if machine.state in ("shutting-down", "terminated"):
                return
            machine.state = "shutting-down"
        self._listener(name, "shutting-down", why)
        run_in_background(self._destroy, machine, why)

    def stop(self, name: str) -> None:
        """Take a machine down and keep its disk. Raises NoMachine when it is not running."""
        machine = self._claim(name, "running", "stopping")
        self._listener(name, "stopping", BY_USER)
        run_in_background(self._halt, machine)

    def start(self, name: str) -> None:
        """Boot a stopped machine. Raises NoMachine when it is not stopped."""
        machine = self._claim(name, "stopped", "pending")
        self._listener(name, "pending", "")
        run_in_background(self._boot, machine)

    def reboot(self, name: str) -> None:
        """Take a running machine down and boot it again. Raises NoMachine when it is not running."""
        machine = self._claim(name, "running", "running")
        run_in_background(self._reboot, machine)

    def snapshot(self, name: str, image: str, *, reboot: bool, done: Callable[[str], None]) -> None:
        """Copy a machine's disk to an image, rebooting the machine round it; ``done`` gets what went wrong, or ''."""
        run_in_background(self._snapshot, self.get(name), image, reboot, done)

    def delete_image(self, image: str) -> None:
        """Delete an image's disk, once nothing is being launched from it."""
        run_in_background(self._delete_image, image)

    def environment(self, machine: Machine) -> Mapping[str, str]:
        """Return what a process in the machine finds in its environment."""
        root = str(machine.root)
        return {"PATH": PATH, "HOME": root, "LANG": "C.UTF-8", "SERVER_ROOT": root, "ADDRESS": machine.address}

    def _claim(self, name: str, state: MachineState, to: MachineState) -> Machine:
        machine = self.get(name)
        with self._changed:
            if machine.state != state:
                raise NoMachine(f"{name} is {machine.state}, not {state}")
            machine.state = to
        return machine

    def _free_address(self) -> str:
        taken = {machine.address for machine in self._machines.values() if machine.state != "terminated"}
        for _ in range(len(taken) + 1):
            address = next(self._addresses)
            if address not in taken:
                return address
        raise NoMachine(f"no address is free in {self._network}.0/24")

    def _create(self, machine: Machine, image: str) -> None:
        self._listener(machine.name, "pending", "")
        try:
            with machine.power, self._reading(image):
                self._copy(self.image_disk(image), machine.root, machine)
        except DiskFailure as failure:
            self.terminate(machine.name, f"Server.InternalError: {failure}")
            return
        self._boot(machine)

    def _boot(self, machine: Machine) -> None:
        with machine.power:
            if machine.state not in _STILL_MEANT_TO_RUN:
                return
            self._start(machine)
            with self._changed:
                if machine.state != "pending":
                    return
                machine.state = "running"
        self._listener(machine.name, "running", "")

    def _start(self, machine: Machine) -> None:
        """Start the init process and run ``etc/rc.local``, as far as it gets in time."""
        _clear_runtime_files(machine.root)
        with (machine.folder / "console.log").open("ab") as console:
            machine.init = init = self._spawn(machine, _INIT, console)
            (machine.folder / "init.pid").write_text(f"{init.pid}\n")
            run_in_background(self._watch, machine, init)
            script = machine.root / "etc" / "rc.local"
            if os.access(script, os.X_OK):
                _wait(self._spawn(machine, (str(script),), console), RC_LOCAL_S)

    def _spawn(self, machine: Machine, command: tuple[str, ...], output: BinaryIO) -> subprocess.Popen[bytes]:
        return self._processes.start(
            command,
            output=output.fileno(),
            instance=machine.name,
            folder=machine.root,
            environment=self.environment(machine),
        )

    def _watch(self, machine: Machine, init: subprocess.Popen[bytes]) -> None:
        init.wait()
        if machine.init is init:
            self.terminate(machine.name, HARDWARE_FAILURE)

    def _halt(self, machine: Machine) -> None:
        with machine.power:
            self._end_processes(machine)
            with self._changed:
                if machine.state != "stopping":
                    return
                machine.state = "stopped"
        self._listener(machine.name, "stopped", BY_USER)

    def _reboot(self, machine: Machine) -> None:
        with machine.power:
            self._end_processes(machine)
            if machine.state in _STILL_MEANT_TO_RUN:
                self._start(machine)

    def _end_processes(self, machine: Machine) -> None:
        machine.init = None
        processes.end(lambda: processes.marked(self._state, machine.name))

    def _destroy(self, machine: Machine, why: str) -> None:
        self._end_processes(machine)  # not waiting for a boot under way: this ends it
        with machine.power:
            self._end_processes(machine)
            machine.state = "terminated"
            self._discard(machine.folder)
        self._listener(machine.name, "terminated", why)

    def _snapshot(self, machine: Machine, image: str, reboot: bool, done: Callable[[str], None]) -> None:
        try:
            with machine.power:
                self._copy_disk_at_rest(machine, image, reboot)
        except DiskFailure as failure:
            self._discard(self.image_disk(image))
            done(str(failure))
        else:
            done("")

    def _copy_disk_at_rest(self, machine: Machine, image: str, reboot: bool) -> None:
        if machine.state == "running" and reboot:
            self._end_processes(machine)
            self._copy(machine.root, self.image_disk(image), machine)
            if machine.state == "running":
                self._start(machine)
        elif machine.state in ("running", "stopped"):
            self._copy(machine.root, self.image_disk(image), machine)
        else:
            raise DiskFailure(f"{machine.name} is {machine.state}")

    def _copy(self, source: Path, target: Path, machine: Machine) -> None:
        target.mkdir(parents=True)
        log = machine.folder / "disk.log"
        with log.open("wb") as output:
            command = ("cp", "-a", "--reflink=auto", f"{source}/.", str(target))
            copy = self._processes.start(command, output=output.fileno(), instance=machine.name)
            if copy.wait() != 0:
                raise DiskFailure(log.read_text(errors="replace").strip() or "the copy was ended")

    @contextmanager
    def _reading(self, image: str) -> Iterator[None]:
        """Keep an image's disk while it is read."""
        with self._changed:
            self._copying[image] += 1
        try:
            yield
        finally:
            with self._changed:
                self._copying[image] -= 1
                self._changed.notify_all()

    def _delete_image(self, image: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._copying[image])
        self._discard(self.image_disk(image))

    def _discard(self, folder: Path) -> None:
        """Move a folder out of the way at once; delete it when the disk runs short, else when the cloud starts again.

        Not at once: for minutes after many files were deleted, ext4 looks at each of their inodes before it makes a new
        one, and copying the next machine's disk takes ten times as long.
        """
        if not folder.exists():
            return
        away = self._state / "discarded" / folder.name
        away.parent.mkdir(exist_ok=True)
        folder.rename(away)
        run_in_background(_make_room, away.parent)


def _make_room(discarded: Path) -> None:
    """Delete what was discarded, oldest first, until the disk has room again."""
    for folder in sorted(discarded.iterdir(), key=lambda each: each.lstat().st_ctime):
        if shutil.disk_usage(discarded).free >= ROOM_BYTES:
            return
        shutil.rmtree(folder, ignore_errors=True)


def _addresses(network: str) -> Iterator[str]:
    """Yield a network's host addresses, again and again."""
    while True:
        for host in range(1, 255):
            yield f"{network}.{host}"


def _clear_runtime_files(root: Path) -> None:
    """Empty ``run`` and ``var/run``, as a real boot finds them empty."""
    for name in ("run", "var/run"):
        folder = root / name
        if folder.is_dir() and folder.resolve().is_relative_to(root.resolve()):  # else it links to the host's own
            for entry in folder.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()


def _wait(process: subprocess.Popen[bytes], limit_s: float) -> None:
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        run_in_background(process.wait)
