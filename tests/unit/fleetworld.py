"""A world of fakes with one fleet in it, and a way to have a service die at any call that it makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from shared.alerts import Alerts
from shared.aws import Cloud
from shared.cloud import CommandState, Group, GroupMember, Image, Instance, TemplateVersion
from shared.components import Components
from shared.documents import Documents
from shared.fleet import Fleet
from shared.fleets import Fleets
from shared.ids import BAKE_TAG, FLEET_TAG, MANAGED_TAG, PROVEN_TAG
from shared.manifests import Manifest
from shared.plan import Plan
from shared.records import Report, StepResult, config_key, manifest_key, report_key, run_prefix
from tests.fakes import Call, Fake, SentCommand, World

STOCK = "ami-0000000000000000a"
FIRST = "i-00000000000000001"

FLEET: Mapping[str, Any] = {
    "fleet": "web",
    "stock": "/images/stock",
    "capacity": {"min": 0, "desired": 1, "max": 3},
    "plan": [
        {"step": "code", "sync": "monolith", "to": "srv/monolith"},
        {"step": "compile", "run": "scripts/compile.sh", "script": "true", "needs": ["code"]},
        {"step": "health", "check": "http://{address}/health", "needs": ["compile"]},
    ],
    "health": {"url": "http://{address}/health"},
    "policies": {"launch": {"attempts": 2, "deadline": 3600, "heartbeat": 300}, "drain": {"seconds": 10}},
}


class FleetWorld(World):
    """All fakes, and the fleet ``web`` with release 1 of its monolith and a launch template of the stock image."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet.model_validate(FLEET)
        self.describe(self.fleet)
        self.documents = Documents(self.objects)
        self.fleets = Fleets(self.objects)
        self.components = Components(self.objects, self.publisher, self.clock)
        self.alerts = Alerts(self.documents, self.publisher, self.clock)
        self.groups.set(Group("web", 0, 1, 3, (), managed=True))
        self.servers.stocks["/images/stock"] = STOCK
        self.servers.versions["web"] = [TemplateVersion(1, STOCK, default=True)]

    def describe(self, fleet: Fleet) -> None:
        """Put a fleet's description there."""
        self.objects.bodies[config_key(fleet.fleet)] = fleet.model_dump_json(by_alias=True).encode()

    def publish(self, version: str, component: str = "monolith") -> None:
        """Publish a release of a component."""
        manifest = Manifest(form=1, component=component, version=version, entries=())
        self.objects.bodies[manifest_key(component, version)] = manifest.model_dump_json().encode()

    async def release(self, version: str) -> None:
        """Publish a release of the monolith, and make it the fleet's."""
        self.publish(version)
        await self.components.point("web", "monolith", version, by="test")

    def server(self, server: str = FIRST, state: str = "Pending:Wait", image: str = STOCK) -> None:
        """Let the group have one more server."""
        self.groups.join("web", GroupMember(server, state, healthy=True, zone="us-east-1a"))
        tags = {MANAGED_TAG: "true", FLEET_TAG: "web"}
        self.servers.set(Instance(server, "running", image, "10.0.1.1", self.clock.now(), "us-east-1a", tags))

    def image(self, image: str, bake: str, *, state: str = "available", proven: bool = True) -> None:
        """Put a baked image there."""
        tags = {MANAGED_TAG: "true", FLEET_TAG: "web", BAKE_TAG: bake} | ({PROVEN_TAG: "true"} if proven else {})
        self.servers.set_image(Image(image, f"autoprovisioner-{bake}", state, self.clock.now(), (), tags))

    def report(self, sent: SentCommand, state: str, steps: tuple[StepResult, ...] = (), reason: str = "") -> None:
        """Let the agent leave its report, and the command end as it then does."""
        now = self.clock.now()
        failed = next((step.step for step in steps if step.result == "failed"), None)
        report = Report.model_validate(
            {
                "state": state,
                "attempt": sent.comment,
                "step": failed,
                "began": now,
                "updated": now,
                "steps": steps,
                "reason": reason,
            }
        )
        self.objects.bodies[report_key("web", sent.comment)] = report.model_dump_json().encode()
        ended = {"ok": CommandState.SUCCEEDED, "failed": CommandState.FAILED}.get(state)
        if ended is not None:
            self.commands.answer(sent.command, ended, code=0 if state == "ok" else 1)

    @property
    def cloud(self) -> Cloud:
        """All ports, as an operator's commands have them."""
        return Cloud(
            groups=self.groups,
            servers=self.servers,
            commands=self.commands,
            objects=self.objects,
            publisher=self.publisher,
            alarms=self.alarms,
            health=self.health,
            queue=None,
        )

    @property
    def running(self) -> list[SentCommand]:
        """The commands that have not ended."""
        return [each for each in self.commands.sent if self.commands.answers[each.command].state == "running"]

    @property
    def now(self) -> datetime:
        """The time."""
        return self.clock.now()


class Killed(BaseException):
    """The process died. Nothing that handles errors sees this."""


class _Fatal:
    """A fault that kills the process after the call took effect."""

    applied = True

    def __init__(self) -> None:
        self.error = Killed()


@contextmanager
def killed_at(world: World, number: int, *, applied: bool) -> Iterator[Callable[[], int]]:
    """Kill the process once, at its call with this number: before it takes effect, or (``applied``) just after.

    Yields a function that says how many calls there were.
    """
    count = 0
    originals: list[tuple[Fake, Callable[[Call], Any]]] = [(fake, fake.begin) for fake in world.fakes]

    def wrap(original: Callable[[Call], Any]) -> Callable[[Call], Any]:
        def begin(call: Call) -> Any:
            nonlocal count
            count += 1
            if count == number and not applied:
                raise Killed
            return _Fatal() if count == number else original(call)

        return begin

    for fake, original in originals:
        fake.begin = wrap(original)  # type: ignore[assignment, method-assign]
    try:
        yield lambda: count
    finally:
        for fake, original in originals:
            fake.begin = original  # type: ignore[assignment, method-assign]


def done(*names: str, result: str = "done") -> tuple[StepResult, ...]:
    """Return steps with this result."""
    return tuple(StepResult.model_validate({"step": name, "result": result}) for name in names)


def failed(name: str, reason: str, log_tail: str = "") -> tuple[StepResult, ...]:
    """Return one failed step."""
    return (StepResult(step=name, result="failed", reason=reason, log_tail=log_tail),)


def breaks(*broken: str, step: str = "compile") -> Callable[[FleetWorld], None]:
    """Return what ends every run: badly at ``step`` where its plan brings one of these (``monolith 2``), else well."""

    def answer(world: FleetWorld) -> None:
        for sent in world.running:
            plan = Plan.model_validate_json(world.objects.bodies[run_prefix("web", sent.comment) + "plan.json"])
            brings = {f"{each.component} {each.version}" for each in plan.steps if each.kind == "sync"}
            if brings & set(broken):
                world.report(sent, "failed", failed(step, "exit 1", "no such file"), f"{step} failed: exit 1")
            else:
                skipped = "skipped" if sent.comment.endswith("prover") else "done"
                names = [each.step for each in plan.steps if each.kind != "check"]
                checks = [each.step for each in plan.steps if each.kind == "check"]
                world.report(sent, "ok", done(*names, result=skipped) + done(*checks))

    return answer


async def proven(*versions: str) -> FleetWorld:
    """Return a fleet where release 1 of the monolith went well, and these were set since."""
    world = FleetWorld()
    await world.release("1")
    await world.components.prove("web", {"monolith": "1"}, "a launch")
    for version in versions:
        await world.release(version)
    return world
