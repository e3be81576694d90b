"""A fleet as its owners describe it: one YAML file, kept as ``fleets/<fleet>/fleet.json``.

This module is the schema. Every duration is in seconds. ``deploy.fleet`` reads the YAML and finds the lines to blame.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from shared.ids import ComponentName, FleetName, StepName

RelativePath = Annotated[
    str,
    StringConstraints(
        max_length=1000, pattern=r"^[A-Za-z0-9_@+-][A-Za-z0-9._@+-]*(/[A-Za-z0-9_@+-][A-Za-z0-9._@+-]*)*$"
    ),
]
"""A path below the server's root directory (``srv/monolith``) or below the fleet's folder (``scripts/build.sh``)."""

UserName = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
"""A user of the server, by name."""

EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Retry(_Described):
    """How often a step is tried before it has failed. Each try has the step's whole timeout."""

    tries: int = Field(ge=1, le=10)
    pause: float = Field(default=5, ge=0, le=600)
    """Between the end of a try and the next."""


class RunStep(_Described):
    """Run a script in the server's root directory. It must be safe to run again."""

    step: StepName
    run: RelativePath
    script: str = Field(default="", max_length=200_000)
    """The script's text; filled in when the description is read."""
    needs: tuple[StepName, ...] = ()
    inputs: dict[ComponentName, tuple[str, ...]] = Field(default_factory=dict)
    """Files of components that the script reads, as globs: the step runs again only when one of them changes.

    A component that the step needs but does not list here counts as read in full.
    """
    environment: dict[EnvironmentName, str] = Field(default_factory=dict)
    user: UserName | None = None
    """Whom it runs as, with that user's groups and HOME; root when nobody is named."""
    timeout: float = Field(default=600, gt=0, le=14400)
    retry: Retry | None = None
    """Not tried again when nothing is said."""


class SyncStep(_Described):
    """Bring the fleet's current release of a component to a directory, which is always a whole release."""

    step: StepName
    sync: ComponentName
    to: RelativePath
    needs: tuple[StepName, ...] = ()
    timeout: float = Field(default=1800, gt=0, le=14400)
    retry: Retry | None = None
    """Not tried again when nothing is said; a download that breaks off goes on by itself a few times in any case."""


class CheckStep(_Described):
    """Ask a URL until it answers 200; ``{address}`` is the server's own. Never skipped."""

    step: StepName
    check: str = Field(pattern=r"^https?://")
    needs: tuple[StepName, ...] = ()
    timeout: float = Field(default=60, gt=0, le=3600)


Step = RunStep | SyncStep | CheckStep


class Capacity(_Described):
    """How many servers the group is made with. Afterwards the group's own numbers count."""

    min: int = Field(ge=0, le=1000)
    desired: int = Field(ge=0, le=1000)
    max: int = Field(ge=1, le=1000)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.desired <= self.max:
            raise ValueError("must be min <= desired <= max")
        return self


class Health(_Described):
    """The health page of a server in service: asked ``failures`` times before the server counts as sick."""

    url: str = Field(pattern=r"^https?://")
    timeout: float = Field(default=2, gt=0, le=60)
    failures: int = Field(default=3, ge=1, le=20)
    interval: float = Field(default=1, gt=0, le=60)


class Scaling(_Described):
    """A CloudWatch metric of the load: above ``high`` the group grows by ``step``, below ``low`` it shrinks by it."""

    namespace: str = Field(pattern=r"^[^:]{1,255}$")
    metric: str = Field(pattern=r"^.{1,255}$")
    high: float
    low: float
    step: int = Field(ge=1, le=100)
    period: int = Field(default=60, ge=1, le=3600)
    cooldown: int = Field(default=60, ge=0, le=3600)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        return self


class LaunchPolicy(_Described):
    """How long a launch may take and how often it is tried."""

    attempts: int = Field(default=2, ge=1, le=10)
    deadline: float = Field(default=3600, gt=0, le=172800)
    """From the hook to service; past it the launch is given up."""
    heartbeat: int = Field(default=300, ge=30, le=7200)
    """The launch hook's timeout; the provisioner restarts it three times as often."""
    at_once: int = Field(default=100, ge=1, le=1000)
    """Servers that are provisioned at the same time; others wait for their turn in their hooks. After an outage Auto
    Scaling launches all that are missing together, and all would ask for the same code at once."""
    tries: int = Field(default=3, ge=1, le=100)
    """Launches in a row that may fail with the same image and releases. After them servers are not given up any more:
    they wait in their hooks and try again every few minutes, until the image or a release is another."""


class DisruptionPolicy(_Described):
    """The one budget that repair, chaos, rotation and operators draw on."""

    floor: int = Field(default=1, ge=0)
    """Healthy servers in service are never taken below this."""
    unavailable: int = Field(default=1, ge=1)
    """Servers that may be missing at once because of us."""
    hourly: int = Field(default=20, ge=1)
    breaker: float = Field(default=0.5, gt=0, le=1)
    """When more than this part of the fleet looks sick at once, hold and call a person."""


class DrainPolicy(_Described):
    """How long a server goes on serving after it was announced as gone."""

    seconds: int = Field(default=10, ge=0, le=3600)
    heartbeat: int = Field(default=300, ge=30, le=7200)


class RetentionPolicy(_Described):
    """The backlog of images, and how long people can read what happened."""

    days: float = Field(default=14, gt=0)
    keep: int = Field(default=3, ge=1)
    """Never fewer than this many proven images, however old."""
    quarantine_hours: float = Field(default=24, ge=0)
    builder_hours: float = Field(default=6, gt=0)
    records_days: float = Field(default=90, ge=20)
    """How long the records of launches, updates, bakes and destructive calls are kept once the server or the image is
    gone. At least as long as a message can be under way: four days in a queue, and fourteen as a dead letter."""


class RolloutPolicy(_Described):
    """How a release that is set comes to servers in service: a few at a time, within the disruption budget."""

    automatic: bool = True
    """Whether setting a release begins a rollout; else it waits for launches, unless whoever sets it asks for one."""
    at_once: int = Field(default=1, ge=1, le=100)
    """Servers that may be on the way at once; the disruption budget may allow fewer."""
    failures: int = Field(default=1, ge=1, le=100)
    """The rollout stops once so many servers have failed."""
    drain: bool = True
    """Whether a server takes no traffic meanwhile: announced as gone, drained, and a member again afterwards."""


class ChaosPolicy(_Described):
    """Daily kills. Off unless the fleet opts in."""

    enabled: bool = False
    kills_per_day: float = Field(default=1, gt=0, le=24)
    hours: tuple[int, int] = (9, 17)
    """UTC hours of working days in which a kill may happen, from and up to."""
    alarms: tuple[str, ...] = ()
    """CloudWatch alarms that mean an incident: firing or unknown, nobody is killed."""


class BakePolicy(_Described):
    """Baking costs builders: what asks without end is refused."""

    daily: int = Field(default=6, ge=1, le=100)
    """Bakes within 24 hours. The last is the night's: whoever else asks has one less."""


class Quarantine(_Described):
    """How long a disabled server is kept for a look."""

    hours: float = Field(default=72, gt=0)


class Policies(_Described):
    """Everything a fleet's owners may decide about how it is kept."""

    launch: LaunchPolicy = LaunchPolicy()
    disruption: DisruptionPolicy = DisruptionPolicy()
    drain: DrainPolicy = DrainPolicy()
    bakes: BakePolicy = BakePolicy()
    retention: RetentionPolicy = RetentionPolicy()
    rollout: RolloutPolicy = RolloutPolicy()
    chaos: ChaosPolicy = ChaosPolicy()
    quarantine: Quarantine = Quarantine()


class Fleet(_Described):
    """One fleet."""

    form: Literal[1] = Field(default=1, alias="schema")
    fleet: FleetName
    description: str = ""
    stock: str = Field(pattern=r"^(ami-[0-9a-f]{8}([0-9a-f]{9})?|/[A-Za-z0-9_./-]+)$")
    """The stock image: an image id, or the Systems Manager parameter that holds one."""
    type: str = Field(default="m7i.large", pattern=r"^[a-z0-9-]+\.[a-z0-9-]+$")
    zones: tuple[str, ...] = Field(default=("us-east-1a", "us-east-1b"), min_length=1)
    subnets: tuple[str, ...] = ()
    capacity: Capacity
    parallel: int = Field(default=1, ge=1, le=16)
    """How many steps of the plan a server runs at once: 1 is strictly in order.

    With more, a step begins as soon as those that it needs are done, whatever else stands before it in the plan.
    """
    plan: tuple[Step, ...] = Field(min_length=1)
    health: Health
    scaling: Scaling | None = None
    policies: Policies = Policies()

    @property
    def components(self) -> tuple[str, ...]:
        """The components that the plan syncs, in its order, each once."""
        return tuple(dict.fromkeys(step.sync for step in self.plan if isinstance(step, SyncStep)))

    @model_validator(mode="after")
    def _plan_holds_together(self) -> Self:
        seen: set[str] = set()
        for step in self.plan:
            if step.step in seen:
                raise ValueError(f"plan: the step {step.step!r} is there twice; give each step a name of its own")
            for need in step.needs:
                if need not in seen:
                    raise ValueError(f"plan: {step.step!r} needs {need!r}, which is not a step before it")
            seen.add(step.step)
        syncs = [step for step in self.plan if isinstance(step, SyncStep)]
        for number, sync in enumerate(syncs):
            for other in syncs[:number]:
                if overlap(sync.to, other.to):
                    raise ValueError(f"plan: {sync.step!r} syncs to {sync.to}, where {other.step!r} does already")
        for step in self.plan:
            unknown = set(step.inputs) - set(self.components) if isinstance(step, RunStep) else set()
            if unknown:
                raise ValueError(f"plan: {step.step!r} has inputs from {sorted(unknown)[0]!r}, which no step syncs")
        return self


def overlap(one: str, other: str) -> bool:
    """Whether two directories are the same, or one is inside the other. Pure."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")
