"""Makes the faults that were drawn happen: armed for the next call that fits, or for a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from shared.cloud import AlarmState
from shared.names import SERVICES, ServiceName
from tests.simulation.faults import Fault
from tests.simulation.fleet import INCIDENT, NAME

if TYPE_CHECKING:
    from tests.simulation.machines import Disk, Machine
    from tests.simulation.process import Process
    from tests.simulation.world import World

WRITE_ONLY = ("lost", "late", "retried", "echo")
LATE_ONLY = ("stale",)
WINDOWS = ("storm", "lagging", "denied")


class Trouble:
    """All that is wrong just now."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._armed: dict[str, list[Fault]] = {service: [] for service in SERVICES}
        """What each service's next calls are to suffer."""
        self._windows: dict[str, list[Fault]] = {service: [] for service in SERVICES}
        self._deliveries: dict[str, list[Fault]] = {}
        self._strikes: dict[str, tuple[Fault, int]] = {}
        """The strike that each service is to suffer, and the awaits left until then."""
        self.alarm: AlarmState = "OK"
        self.at_rest = False
        """Nothing goes wrong any more."""

    def strike(self, fault: Fault) -> None:
        """A fault's time has come."""
        if self.at_rest:
            return
        self._world.say("fault", fault.target or "world", str(fault))
        _STRIKE[fault.family](self, fault)

    def rest(self) -> None:
        """End all trouble."""
        self.at_rest = True
        for armed in self._armed.values():
            armed.clear()
        if self._strikes:
            self._strikes.clear()
            self._world.steps.unwatch(self._step)
        for windows in self._windows.values():
            windows.clear()
        self._deliveries.clear()
        weather = self._world.ec2.weather
        weather.dark.clear()
        weather.full = weather.blind = weather.next_image_fails = weather.next_image_broken = False
        weather.next_launch = ""
        self._set_alarm("OK")
        self._world.skews.clear()
        for process in list(self._world.processes):
            process.clock.skew = timedelta()
            process.resume()
        for picture in self._world.ec2.pictures.values():
            picture.disk.broken = False
        for machine in self._world.ec2.machines.values():
            machine.disk.broken = False
            machine.trouble = "" if machine.trouble in ("hung", "sick") else machine.trouble
        self._one_of_each()

    def _one_of_each(self) -> None:
        for service in SERVICES:
            alive = [each for each in self._world.processes if each.service == service]
            for twin in alive[1:]:
                self._world.kill(twin)
            if not alive:
                self._world.start(service)

    # Calls.

    def of_call(self, process: Process, method: str, *, writes: bool, late: bool) -> Fault | None:
        """Return what this call is to suffer; kills happen here."""
        if armed := self._armed[process.service]:
            for wanted in (method, ""):  # meant for this method, or for any
                for fault in armed:
                    if fault.method == wanted and _fits(fault, writes=writes, late=late):
                        return self._taken(process, method, fault, writes=writes)
        for window in self._windows[process.service]:
            if window.kind == "denied" or (window.kind == "storm" and process.chance.random() < 0.5):
                self._world.occurred[window.kind] += 1
                return window
        return None

    def _arm(self, fault: Fault) -> None:
        self._armed[fault.target].append(fault)

    def _taken(self, process: Process, method: str, fault: Fault, *, writes: bool) -> Fault | None:
        self._armed[process.service].remove(fault)
        self._world.say("struck", process.name, f"{method}: {fault.kind}")
        self._world.occurred[f"{fault.kind} {'write' if writes else 'read'}"] += 1
        if fault.kind != "kill":
            return fault
        self._kill(process, fault)
        return None

    def _kill(self, process: Process, fault: Fault) -> None:
        """Half of the kills come before the call takes effect, half after it."""
        delay = 0.0 if process.chance.random() < 0.5 else 0.25
        self._world.after(delay, lambda: self._world.kill(process))
        self._world.after(delay + fault.amount, lambda: self._restart(process.service))

    def _restart(self, service: ServiceName) -> None:
        if all(each.service != service for each in self._world.processes):
            self._world.start(service)

    def _restart_all(self) -> None:
        for service in SERVICES:
            self._restart(service)

    def lag(self, process: Process) -> float:
        """Return how late reads of EC2 and Auto Scaling are just now."""
        for window in self._windows[process.service]:
            if window.kind == "lagging":
                return process.chance.random() * 10
        return 0.0

    def _call(self, fault: Fault) -> None:
        if fault.kind == "blind":
            self._world.ec2.weather.blind = True
            self._world.occurred["blind"] += 1
            self._world.after(fault.amount, self._see)
        elif fault.kind in WINDOWS:
            self._windows[fault.target].append(fault)
            self._world.after(fault.amount, lambda: _remove(self._windows[fault.target], fault))
        else:
            self._arm(fault)

    def _see(self) -> None:
        self._world.ec2.weather.blind = False

    # Processes.

    def _process(self, fault: Fault) -> None:
        services = [each for each in SERVICES if fault.target in ("", each)]
        if fault.kind != "kill":
            self._world.occurred[fault.kind] += fault.kind != "strike"
        if fault.kind == "outage":
            for process in list(self._world.processes):
                self._world.kill(process)
            self._world.after(fault.amount, self._restart_all)
        elif fault.kind == "kill":
            self._arm(fault)
        elif fault.kind == "strike":
            self._count_down(fault)
        elif fault.kind == "pause":
            for process in [each for each in self._world.processes if each.service in services]:
                process.pause()
                self._world.after(fault.amount, process.resume)
        elif fault.kind == "twin":
            twin = self._world.start(services[0])
            self._world.after(fault.amount, lambda: self._end_twin(twin))

    def _count_down(self, fault: Fault) -> None:
        if not self._strikes:
            self._world.steps.watch(self._step)
        self._strikes[fault.target] = fault, fault.steps

    def _step(self, process: Process) -> None:
        """A process is about to go on after an await: it may be its last."""
        fault, left = self._strikes.get(process.service, (None, 0))
        if fault is None:
            return
        self._strikes[process.service] = fault, left - 1
        if left <= 1:
            del self._strikes[process.service]
            if not self._strikes:
                self._world.steps.unwatch(self._step)
            self._world.say("struck", process.name, "at an await: killed")
            self._world.occurred["kill at an await"] += 1
            self._world.kill(process)
            self._world.after(fault.amount, lambda: self._restart(process.service))

    def _end_twin(self, twin: Process) -> None:
        if not self.at_rest:
            self._world.kill(twin)
            self._restart(twin.service)

    # Messages.

    def _message(self, fault: Fault) -> None:
        self._deliveries.setdefault(fault.target, []).append(fault)

    def deliveries(self, queue: str) -> tuple[float, ...]:
        """Return after how many seconds a message to the queue arrives: once, mostly."""
        waiting = self._deliveries.get(queue)
        if not waiting:
            return (0.0,)
        fault = waiting.pop(0)
        self._world.say("struck", queue, fault.kind)
        self._world.occurred[f"message {fault.kind}"] += 1
        return {"duplicate": (0.0, fault.amount), "delay": (fault.amount,), "lose": ()}[fault.kind]

    # Servers and the cloud.

    def _server(self, fault: Fault) -> None:
        if fault.kind.startswith("next-"):
            fate = fault.kind.removeprefix("next-")
            self._world.ec2.weather.next_launch = fate  # type: ignore[assignment]
            return
        machines = self._world.ec2.machines
        living = [each for each in sorted(machines) if machines[each].now.state == "running"]
        if living:
            self._befall(living[int(fault.amount * len(living))], fault.kind)

    def _befall(self, server: str, kind: str) -> None:
        self._world.occurred[f"server {kind}"] += 1
        self._world.say("befalls", server, kind)
        machine: Machine = self._world.ec2.machines[server]
        if kind == "vanish":
            self._world.ec2.vanish(server)
        elif kind == "stopped":
            self._world.ec2.terminate(server)
        else:
            machine.trouble = "sick" if kind == "sick" else "hung"
            if kind == "hung":
                self._world.after(1800, lambda: self._world.ec2.vanish(server) if machine.living else None)
        self._world.invariants.changed()

    def _of_cloud(self, fault: Fault) -> None:
        if fault.kind not in ("image-fails", "image-broken", "image-breaks"):
            self._world.occurred[fault.kind] += 1
        ec2 = self._world.ec2
        match fault.kind:
            case "zone-dark" | "zone-lost":
                ec2.weather.dark.add(fault.target)
                self._world.after(fault.amount, lambda: ec2.weather.dark.discard(fault.target))
                self._lose_zone(fault)
            case "full":
                ec2.weather.full = True
                self._world.after(fault.amount, self._room)
            case "image-fails":
                ec2.weather.next_image_fails = True
            case "image-broken":
                ec2.weather.next_image_broken = True
            case "image-breaks":
                self._break_image(fault)
            case "incident" | "unknown-alarm":
                self._set_alarm("ALARM" if fault.kind == "incident" else "INSUFFICIENT_DATA")
                self._world.after(fault.amount, lambda: self._set_alarm("OK"))
        self._world.invariants.changed()

    def _lose_zone(self, fault: Fault) -> None:
        machines = self._world.ec2.machines
        for server in sorted(machines):
            if fault.kind == "zone-lost" and machines[server].now.zone == fault.target:
                self._world.ec2.vanish(server)

    def _room(self) -> None:
        self._world.ec2.weather.full = False

    def _break_image(self, fault: Fault) -> None:
        """What the pointer's image needs is gone from outside: no server from it becomes healthy, for a while."""
        pointer = self._world.pointer()
        picture = self._world.ec2.pictures.get(pointer.image) if pointer else None
        if picture is None:
            return
        picture.disk.broken = True
        self._world.after(fault.amount, lambda: self._mend(picture.disk))
        self._world.occurred["image-breaks"] += 1
        self._world.say("befalls", picture.past.now.image, "breaks")

    def _mend(self, broken: Disk) -> None:
        broken.broken = False

    def _set_alarm(self, state: AlarmState) -> None:
        if self.alarm != state:
            self.alarm = state
            self._world.say("alarm", INCIDENT, state)
            self._world.invariants.alarmed(state)
            body = f'{{"AlarmName":"{INCIDENT}","NewStateValue":"{state}","NewStateReason":"{NAME}"}}'
            self._world.messaging.publish("alarms", body)

    def _clock(self, fault: Fault) -> None:
        self._world.occurred["clock jump"] += 1
        skew = timedelta(seconds=fault.amount)
        self._world.skews[fault.target] = skew
        for process in self._world.processes:
            if process.service == fault.target:
                process.clock.skew = skew


def _fits(fault: Fault, *, writes: bool, late: bool) -> bool:
    if fault.kind in WRITE_ONLY:
        return writes
    return late if fault.kind in LATE_ONLY else True


def _remove(faults: list[Fault], fault: Fault) -> None:
    if fault in faults:
        faults.remove(fault)


_STRIKE: Mapping[str, Callable[[Trouble, Fault], None]] = {
    "calls": Trouble._call,
    "processes": Trouble._process,
    "messages": Trouble._message,
    "servers": Trouble._server,
    "cloud": Trouble._of_cloud,
    "clocks": Trouble._clock,
}
