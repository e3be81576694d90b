"""What happened to every server, as the witness queue told it. Pure: messages in, marks and lines out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from shared.phases import ran
from shared.records import StepResult

Mark = Literal[
    "pending",
    "running",
    "waiting",
    "ready",
    "in service",
    "member",
    "announced",
    "leaving",
    "shutting-down",
    "terminated",
    "failed",
    "aside",
]

RECENT_LINES = 6

_LIFECYCLE = {
    "EC2 Instance-launch Lifecycle Action": "waiting",
    "EC2 Instance-terminate Lifecycle Action": "leaving",
    "EC2 Instance Launch Successful": "in service",
}


@dataclass
class ServerLine:
    """One server's life. Marks are seconds since the epoch, set once, from the sender's side of the queue."""

    server: str
    role: str = "member"
    image: str = ""
    marks: dict[Mark, float] = field(default_factory=dict)
    steps: tuple[StepResult, ...] = ()
    step: str = ""
    finished: bool = False
    """Whether its plan has ended, well or not."""
    updates: list[tuple[float, float]] = field(default_factory=list)
    """From when to when it was out of traffic, to be brought up to date."""

    @property
    def busy(self) -> bool:
        """Whether its plan may be running."""
        return not self.finished and not self.gone

    @property
    def state(self) -> str:
        """The last thing that happened to it."""
        return max(self.marks, key=lambda mark: self.marks[mark], default="pending")

    @property
    def gone(self) -> bool:
        """Whether its processes have ended."""
        return "terminated" in self.marks

    def between(self, first: Mark, last: Mark) -> float | None:
        """Return the seconds from one mark to another, None when one is missing."""
        if first not in self.marks or last not in self.marks:
            return None
        return self.marks[last] - self.marks[first]

    @property
    def boot_s(self) -> float | None:
        """Seconds from the launch to a server that answers commands."""
        return self.between("pending", "running")

    @property
    def launch_s(self) -> float | None:
        """Seconds from the launch to service."""
        return self.between("pending", "in service")

    @property
    def steps_s(self) -> float:
        """Seconds from the begin of the plan's first step to the end of its last; steps may run side by side."""
        between = ran(self.steps)
        return (between[1] - between[0]).total_seconds() if between else 0.0

    @property
    def added_s(self) -> float | None:
        """Seconds of the launch that are neither boot nor the plan's own steps: what the system itself adds."""
        if self.launch_s is None or self.boot_s is None or not self.steps:
            return None
        return self.launch_s - self.boot_s - self.steps_s


@dataclass(frozen=True)
class Line:
    """One thing to tell."""

    at: float
    text: str
    loud: bool = False


class Journal:
    """All servers' lives and everything worth telling, in the order in which it arrived."""

    def __init__(self) -> None:
        self.servers: dict[str, ServerLine] = {}
        self.lines: list[Line] = []
        self.alerts: list[Mapping[str, Any]] = []
        self.messages: list[tuple[float, Mapping[str, Any]]] = []
        self._changes: set[int] = set()

    def server(self, server: str) -> ServerLine:
        """Return the server's life, begun if it is new."""
        return self.servers.setdefault(server, ServerLine(server))

    def mark(self, server: str, mark: Mark, at: float) -> bool:
        """Set a mark; False when it was set before (deliveries may come twice)."""
        marks = self.server(server).marks
        if mark in marks:
            return False
        marks[mark] = at
        return True

    def read(self, body: Mapping[str, Any], at: float) -> None:
        """Take in one message: an EventBridge event or one of our own."""
        if "detail-type" in body:
            self._read_event(str(body["detail-type"]), body["detail"], at)
        elif "type" in body:
            self._read_message(body, at)

    def tell(self, text: str, at: float, *, loud: bool = False) -> None:
        """Add a line."""
        self.lines.append(Line(at, text, loud))

    def _read_event(self, kind: str, detail: Mapping[str, Any], at: float) -> None:
        if kind == "EC2 Instance State-change Notification":
            self._read_state(str(detail["instance-id"]), str(detail["state"]), at)
        elif kind in _LIFECYCLE:
            server, mark = str(detail["EC2InstanceId"]), _LIFECYCLE[kind]
            if self.mark(server, mark, at) and mark == "in service":  # type: ignore[arg-type]
                launch = self.server(server).launch_s
                self.tell(f"{server} is in service" + (f", {launch:.1f} s after its launch" if launch else ""), at)

    def _read_state(self, server: str, state: str, at: float) -> None:
        if state not in ("pending", "running", "shutting-down", "terminated"):
            return
        if not self.mark(server, state, at):  # type: ignore[arg-type]
            return
        if state == "pending":
            self.tell(f"{server} is launched", at)
        if state == "running":
            self.tell(f"{server} has booted in {self.server(server).boot_s or 0:.1f} s", at)
        if state == "terminated":
            self.tell(f"{server} is gone", at)

    def _read_message(self, body: Mapping[str, Any], at: float) -> None:
        self.messages.append((at, body))
        kind, server = str(body["type"]), str(body.get("server", ""))
        if kind == "server.ready":
            self.mark(server, "ready", at)
        elif kind == "server.provision.failed":
            self.mark(server, "failed", at)
            self.tell(f"{server} could not be provisioned: {body['reason']}", at, loud=True)
        elif kind == "server.replaced":
            self.mark(server, "aside" if body["how"] == "detached" else "leaving", at)
            self.tell(f"{server} is {body['how']} ({body['by']}: {body['reason']})", at)
        elif kind == "membership.changed":
            self._read_membership(body, at)
        elif kind == "alert.raised":
            self.alerts.append(body)
            self.tell(f"ALERT {body['fleet']} {body['cause']}: {body['reason']}", at, loud=True)
        elif kind in _TOLD:
            self._tell_once(_TOLD[kind].format(**body), at)

    def _tell_once(self, text: str, at: float) -> None:
        """Add a line unless it was the last but a few: facts may be delivered twice, one soon after the other."""
        if all(line.text != text for line in self.lines[-RECENT_LINES:]):
            self.tell(text, at)

    def _read_membership(self, body: Mapping[str, Any], at: float) -> None:
        """Take in who joined and who left; a change that was delivered before says nothing new."""
        if body["generation"] in self._changes:
            return
        self._changes.add(body["generation"])
        for server in body.get("left", ()):
            if self.mark(str(server), "announced", at):
                self.tell(f"{server} is announced as gone", at)
        for server in body.get("joined", ()):
            if self.mark(str(server), "member", at):
                self.tell(f"{server} is a member", at)
            elif "announced" in self.servers[server].marks:
                self.servers[server].updates.append((self.servers[server].marks.pop("announced"), at))
                self.tell(f"{server} is a member again", at)


_TOLD = {
    "image.ready": "image {image} is baked and proven",
    "image.bake.failed": "bake {bake} failed: {reason}",
    "image.promoted": "the pointer is at {image} ({by}, generation {generation})",
    "fleet.converged": "fleet {fleet} has converged: {healthy} of {wanted}",
    "fleet.degraded": "fleet {fleet} is degraded: {healthy} of {wanted}",
    "server.kill.requested": "{by} asks for a kill of {server}",
    "server.disable.requested": "{by} asks to disable {server}",
    "alert.cleared": "alert {cause} has passed",
    "request.refused": "{by}'s {request} of {server} is refused: {reason}",
}
