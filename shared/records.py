"""The documents: what is kept in S3 under ``fleets/<fleet>/``, one model each, and the keys they live at."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.ids import BakeId, ComponentName, FleetName, ImageId, ServerId, StepName, Version
from shared.messages import BuilderReaped, ImageRetired, MembershipChanged, RequestRefused, ServerReplaced
from shared.moments import Moment


class Record(BaseModel):
    """What every document carries: its form, its generation (one more at each write), and who wrote it this time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    generation: int = Field(default=0, ge=0)
    write_id: str = ""


class Part(BaseModel):
    """A piece of a document."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Announced = Annotated[
    ServerReplaced | ImageRetired | BuilderReaped | MembershipChanged | RequestRefused, Field(discriminator="type")
]
"""What is said of an effect once it has happened (``shared.outbox``)."""


class Announcement(Part):
    """A message that is to be published once that is done which it tells of."""

    message: Announced
    at: Moment
    trace: str | None = None
    """The ``traceparent`` of what the message belongs to."""


class Announcing(Record):
    """A document that says, in the write that records an effect, what is to be said of it."""

    outbox: tuple[Announcement, ...] = ()
    """Messages that are not known to have been published."""


class Try(Part):
    """One try of a step; ``reason`` says why it failed."""

    began: datetime
    seconds: float
    cpu_seconds: float = 0.0
    bytes: int = 0
    requests: int = 0
    reason: str = ""


class StepResult(Part):
    """One step as the agent reports it; times from the server's own clock, UTC.

    ``seconds`` go from the first try to the end of the last, with the pauses between them; the other figures are sums.
    """

    step: StepName
    result: Literal["done", "skipped", "failed", "running"]
    fingerprint: str = ""
    parts: dict[str, str] = Field(default_factory=dict)
    """What the fingerprint is made of (``shared.planning``): tells later what has changed since."""
    began: datetime | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of user and system time, of the step's processes that have ended; daemons that it left behind do not count."""
    bytes: int = 0
    requests: int = 0
    reason: str = ""
    log_tail: str = ""
    tries: tuple[Try, ...] = ()
    """Every try, where there was more than one."""


class Report(Part):
    """What the agent writes through its presigned URL while it works, and at the end. Not one of our documents."""

    state: Literal["running", "ok", "failed"]
    attempt: str
    step: StepName | None = None
    began: datetime
    updated: datetime
    steps: tuple[StepResult, ...] = ()
    reason: str = ""


class Attempt(Part):
    """One time that a plan was sent to a server. ``command`` is None until the send is known to have happened.

    ``plan_sha256`` is of the stored plan's bytes, in hex: what the server fetches has to have it. None in records
    of before it was kept.
    """

    attempt: str
    began: datetime
    plan_digest: str
    plan_sha256: str | None = None
    command: str | None = None
    ended: datetime | None = None
    result: Literal["running", "ok", "failed"] = "running"
    step: StepName | None = None
    reason: str = ""
    log_tail: str = ""
    steps: tuple[StepResult, ...] = ()

    @property
    def under_way(self) -> bool:
        """Whether it was sent, and nobody has seen it end."""
        return self.result == "running" and self.command is not None


class Pin(Part):
    """The pointer may not move until ``until``."""

    by: str
    reason: str
    until: Moment | None = None
    asked: Moment | None = None
    """When it was asked for; None where somebody wrote it by hand."""


class Pointer(Record):
    """``image.json``: which image the fleet's servers start from."""

    image: ImageId
    bake: BakeId | None = None
    since: Moment
    by: str
    reason: str = ""
    pin: Pin | None = None
    request: str = ""
    """The id of the message that asked for it: the same message again changes nothing."""
    asked: Moment | None = None
    """When somebody asked for it, or wrote it by hand; None where it moved by itself."""


class Taken(Part):
    """A server that a rollout takes: reserved at first, and out of service from when the budget granted it."""

    server: ServerId
    rollout: int
    granted: Moment | None = None


class Updated(Part):
    """How bringing a server up to date ended; ``undone``: it failed, and the server is back at what it ran before."""

    server: ServerId
    result: Literal["updated", "undone", "failed", "left"]
    at: Moment
    step: StepName | None = None
    reason: str = ""


class Rollout(Record):
    """``rollout.json``: how far the servers in service are with the releases that are set. The reconciler's own."""

    fleet: FleetName
    number: int
    settings: dict[ComponentName, int] = Field(default_factory=dict)
    """The generation of each component's release pointer that this rollout carries out."""
    releases: dict[ComponentName, Version] = Field(default_factory=dict)
    began: Moment
    by: str
    reason: str = ""
    state: Literal["running", "done", "stopped"] = "running"
    why: str = ""
    taken: tuple[Taken, ...] = ()
    ended: tuple[Updated, ...] = ()


class Update(Record):
    """``updates/<instance>.json``: how a server in service was last brought up to date. The provisioner's own."""

    fleet: FleetName
    server: ServerId
    rollout: int
    began: Moment
    trace: str | None = None
    """The ``traceparent`` of the message that began it."""
    releases: dict[ComponentName, Version]
    before: dict[ComponentName, Version]
    """What the server ran when this began, and goes back to when it fails."""
    attempts: tuple[Attempt, ...] = ()
    turned: int | None = None
    """How many attempts had failed when it turned back; None: it has not."""
    turned_at: Moment | None = None
    """From when the time for the way back counts. Later than the last attempt's end where nobody looked in between."""
    result: Literal["running", "updated", "undone", "failed", "left"] = "running"
    ended: Moment | None = None
    step: StepName | None = None
    reason: str = ""
    log_tail: str = ""


class Fallback(Part):
    """A launch or bake goes on with a component's last good release, since it failed with the one that is set."""

    component: ComponentName
    broken: Version
    setting: int
    """The generation of the release pointer that named ``broken``: set anew, it is tried again."""
    good: Version
    after: int
    """How many attempts had been made by then."""
    step: StepName | None = None
    reason: str = ""
    log_tail: str = ""


class Bake(Record):
    """``bakes/<bake>.json``: how an image came to be."""

    bake: BakeId
    fleet: FleetName
    trace: str | None = None
    """The ``traceparent`` of the message that began it: what is done for the bake goes on from there."""
    stage: Literal["builder", "provision", "snapshot", "proof", "ready", "failed"] = "builder"
    requested: datetime
    by: str
    reason: str = ""
    stock: ImageId | None = None
    releases: dict[ComponentName, Version] = Field(default_factory=dict)
    fallbacks: tuple[Fallback, ...] = ()
    builder: ServerId | None = None
    provision: Attempt | None = None
    failed: tuple[Attempt, ...] = ()
    """The builder's attempts before ``provision``, with releases that are under suspicion."""
    spoiled: tuple[ServerId, ...] = ()
    """Builders that ran a release which was fallen back from: no image is made of them."""
    lost: tuple[ServerId, ...] = ()
    """Builders and provers that died or never connected: others were launched in their place."""
    image: ImageId | None = None
    prover: ServerId | None = None
    proof: Attempt | None = None
    ended: datetime | None = None
    step: StepName | None = None
    failure: str = ""
    log_tail: str = ""
    seconds: float = 0.0


class Baking(Record):
    """``baking.json``: the fleet's latest bake. The next one is claimed here, once this one has ended."""

    bake: BakeId
    claimed: datetime


class Launch(Record):
    """``servers/<instance>.json``: one launch, from the hook to service."""

    fleet: FleetName
    server: ServerId
    image: ImageId
    claimed: datetime
    trace: str | None = None
    """The ``traceparent`` of the message that began it: what is done for the launch goes on from there."""
    ordered: datetime | None = None
    """When EC2 took the order to launch it; None in records of before this was kept."""
    releases: dict[ComponentName, Version] = Field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()
    fallbacks: tuple[Fallback, ...] = ()
    result: Literal["running", "ready", "failed"] = "running"
    ended: datetime | None = None
    reason: str = ""


class Took(Part):
    """What a step took in one launch or bake, which ``run`` names."""

    run: str
    at: Moment
    seconds: float
    cpu_seconds: float = 0.0
    bytes: int = 0


class Pace(Part):
    """A step's history (``shared.pace``): what is usual, and the latest runs, the last one last."""

    usual: tuple[Took, ...] = ()
    latest: tuple[Took, ...] = ()


class Paces(Record):
    """``paces/launch.json`` (the provisioner's), ``paces/bake.json`` (the baker's): how long each step takes."""

    steps: dict[StepName, Pace] = Field(default_factory=dict)


class FailedLaunch(Part):
    """One launch that was given up: from which image, with which releases."""

    server: ServerId
    image: ImageId
    releases: dict[ComponentName, Version] = Field(default_factory=dict)
    at: datetime


class Failures(Record):
    """``failures.json``: the launches given up since one last came through, the latest last."""

    launches: tuple[FailedLaunch, ...] = ()

    def of(self, image: str, releases: Mapping[str, str]) -> tuple[FailedLaunch, ...]:
        """Return the latest launches in a row that had this image and these releases."""
        alike = [(each.image, each.releases) == (image, releases) for each in self.launches]
        begin = len(alike) - next((place for place, same in enumerate(reversed(alike)) if not same), len(alike))
        return self.launches[begin:]


class Member(Part):
    """A server that takes traffic."""

    server: ServerId
    address: str
    zone: str = ""
    image: ImageId
    releases: dict[ComponentName, Version] = Field(default_factory=dict)
    since: datetime
    """When it first took traffic: an update does not change that."""


class Leaver(Part):
    """A server that was announced as gone and has yet to be let go."""

    server: ServerId
    announced: datetime
    update: int | None = None
    """The rollout that it is brought up to date for: it stays in the group, and becomes a member again."""
    since: datetime | None = None
    """When it first took traffic."""
    told: bool = False
    """Whether the announcement is known to have been published; until then it is published again."""


class Membership(Announcing):
    """``membership.json``: who serves now."""

    members: tuple[Member, ...] = ()
    leaving: tuple[Leaver, ...] = ()


class Pause(Record):
    """``pause.json``: while it stands, chaos (or all automation) does nothing destructive."""

    what: Literal["chaos", "automation"]
    by: str
    reason: str = ""
    until: datetime | None = None


class FleetStatus(Announcing):
    """``status.json``: what the reconciler last said of the fleet, and the disruptions that the budget counts."""

    state: Literal["converged", "degraded"]
    since: datetime
    healthy: int
    wanted: int
    disruptions: tuple[Disruption, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    """People's requests of the last day that were refused."""

    def within_hour(self, now: datetime) -> tuple[Disruption, ...]:
        """Return the disruptions that ``hourly`` of the disruption policy counts."""
        return tuple(each for each in self.disruptions if each.at > now - timedelta(hours=1))


class Refusal(Part):
    """A request to take a server out of service that was refused."""

    request: str
    """The message's id: the same message again is refused once."""
    type: str
    server: ServerId
    by: str
    at: datetime
    reason: str


class Removals(Announcing):
    """``removals.json``: what the janitor is about to say of images and builders that it removes."""

    fleet: FleetName
    approved: tuple[ImageId, ...] = ()
    """The images that were due when somebody last asked that all such be retired, however many."""


class Disruption(Part):
    """One server taken out of service by us."""

    server: ServerId
    at: datetime
    by: str
    reason: str = ""
    over: datetime | None = None
    """When it was back, if it was taken out for a while only."""


class Alarm(Record):
    """``alerts/<cause>.json``: an alert that stands."""

    fleet: FleetName
    cause: str
    reason: str
    next: str = ""
    """What to look at or type; none where the alert was raised before this was kept."""
    raised: datetime
    announced: bool = False
    """Whether it was published; until then whoever raises it again publishes it."""


class Audit(Record):
    """``audit/<date>/<time>-<what>-<id>.json``: written before every destructive call."""

    fleet: FleetName
    service: str
    action: str
    target: str
    by: str
    reason: str
    at: datetime


class Release(Record):
    """``releases/<component>/current.json`` under the fleet: which release of a component it runs.

    It is written when a release is set and at no other time, so its generation is the number of the setting.
    """

    component: ComponentName
    version: Version
    since: Moment
    by: str
    reason: str = ""
    previous: Version | None = None
    rollout: bool = False
    """Whether servers in service are brought to it too; else only launches and bakes use it."""
    undo: bool = False
    """Whether it was set by going back."""
    asked: Moment | None = None
    """When it was asked for: what was asked for earlier and comes later does not change it."""

    @property
    def newest(self) -> datetime:
        """When somebody last asked for a release, as far as this tells."""
        return self.asked or self.since


class Broken(Part):
    """Why a release counts as broken for a fleet: something failed with it and went well with the last good one."""

    version: Version
    setting: int
    """The generation of the release pointer that was judged: setting the release anew gives it another chance."""
    at: Moment
    by: str
    """What found it out: a launch, a bake or an update."""
    reason: str
    step: StepName | None = None
    log_tail: str = ""


class Verdict(Record):
    """``releases/<component>/verdict.json`` under the fleet: what launches, bakes and updates found of its releases."""

    component: ComponentName
    good: Version | None = None
    """The last release with which one of them went well."""
    good_since: Moment | None = None
    proof: str = ""
    broken: Broken | None = None


class Garbage(Record):
    """``releases/<component>/garbage.json``: objects that no release needs, and since when that is known."""

    seen: dict[str, Moment] = Field(default_factory=dict)


class Sweep(Record):
    """``releases/<component>/sweeps/<time>.json``: written before objects of a component are deleted."""

    by: str
    at: Moment
    keys: tuple[str, ...]


def pointer_key(fleet: str) -> str:
    """Where the pointer is."""
    return f"fleets/{fleet}/image.json"


def history_key(fleet: str, generation: int) -> str:
    """Where the pointer's generation is kept for ever; the number sorts as text."""
    return f"fleets/{fleet}/image-history/{generation:08d}.json"


def config_key(fleet: str) -> str:
    """Where the fleet's description is, as JSON."""
    return f"fleets/{fleet}/fleet.json"


def bake_key(fleet: str, bake: str) -> str:
    """Where a bake's record is."""
    return f"{bakes_prefix(fleet)}{bake}.json"


def bakes_prefix(fleet: str) -> str:
    """Where the records of all bakes are."""
    return f"fleets/{fleet}/bakes/"


def baking_key(fleet: str) -> str:
    """Where it says which bake of the fleet is the latest."""
    return f"fleets/{fleet}/baking.json"


def launch_key(fleet: str, server: str) -> str:
    """Where a launch's record is."""
    return f"{servers_prefix(fleet)}{server}.json"


def servers_prefix(fleet: str) -> str:
    """Where the records of all launches are."""
    return f"fleets/{fleet}/servers/"


def run_prefix(fleet: str, attempt: str) -> str:
    """Where the plan, and the agent's report, of one attempt are."""
    return f"fleets/{fleet}/runs/{attempt}/"


def runs_prefix(fleet: str, owner: str) -> str:
    """What the keys of all attempts begin with that were made for a server, or for a bake."""
    return f"fleets/{fleet}/runs/{owner}-"


def audit_prefix(fleet: str) -> str:
    """What the keys of all the fleet's audits begin with."""
    return f"fleets/{fleet}/audit/"


def audit_key(fleet: str, at: datetime, action: str, target: str) -> str:
    """Where it says what was about to be done to whom; the time sorts as text."""
    return f"{audit_prefix(fleet)}{at:%Y-%m-%d}/{at:%H%M%S.%f}-{action}-{target}.json"


def paces_key(fleet: str, kind: str) -> str:
    """Where it says how long the steps of the fleet's launches, or bakes, take."""
    return f"fleets/{fleet}/paces/{kind}.json"


def report_key(fleet: str, attempt: str) -> str:
    """Where the agent's report of one attempt is."""
    return run_prefix(fleet, attempt) + "report.json"


def failures_key(fleet: str) -> str:
    """Where the launches are that were given up since one last came through."""
    return f"fleets/{fleet}/failures.json"


def membership_key(fleet: str) -> str:
    """Where the membership is."""
    return f"fleets/{fleet}/membership.json"


def pause_key(fleet: str) -> str:
    """Where a pause is."""
    return f"fleets/{fleet}/pause.json"


def removals_key(fleet: str) -> str:
    """Where the janitor's outbox is."""
    return f"fleets/{fleet}/removals.json"


def status_key(fleet: str) -> str:
    """Where the reconciler's last word on the fleet is."""
    return f"fleets/{fleet}/status.json"


def alert_key(fleet: str, cause: str) -> str:
    """Where a standing alert is."""
    return f"fleets/{fleet}/alerts/{cause}.json"


def current_release_key(fleet: str, component: str) -> str:
    """Where the fleet's current release of a component is."""
    return f"fleets/{fleet}/releases/{component}/current.json"


def rollout_key(fleet: str) -> str:
    """Where the fleet's rollout is."""
    return f"fleets/{fleet}/rollout.json"


def update_key(fleet: str, server: str) -> str:
    """Where it says how a server was last brought up to date."""
    return f"{updates_prefix(fleet)}{server}.json"


def updates_prefix(fleet: str) -> str:
    """Where the records of all updates are."""
    return f"fleets/{fleet}/updates/"


def release_history_key(fleet: str, component: str, generation: int) -> str:
    """Where a setting of the fleet's release is kept for ever; the number sorts as text."""
    return f"fleets/{fleet}/releases/{component}/history/{generation:08d}.json"


def verdict_key(fleet: str, component: str) -> str:
    """Where it says which of a component's releases the fleet knows to be good or broken."""
    return f"fleets/{fleet}/releases/{component}/verdict.json"


def garbage_key(component: str) -> str:
    """Where it says which of a component's objects no release needs."""
    return f"releases/{component}/garbage.json"


def sweep_key(component: str, at: datetime) -> str:
    """Where it says which of a component's objects were about to be deleted then."""
    return f"releases/{component}/sweeps/{at:%Y%m%dt%H%M%S.%f}.json"


def manifest_key(component: str, version: str) -> str:
    """Where a release's manifest is; it appears last, when all the content is there."""
    return f"releases/{component}/{version}/manifest.json"


def pack_key(component: str, digest: str) -> str:
    """Where a pack of a component's content is."""
    return f"releases/{component}/packs/{digest}"


def delta_key(component: str, manifest: str, base: str, digest: str) -> str:
    """Where a delta is: from the release of one manifest (SHA-256) to that of another, by its own SHA-256."""
    return f"{deltas_prefix(component)}{manifest}/{base}/{digest}"


def deltas_prefix(component: str) -> str:
    """What the keys of all of a component's deltas begin with."""
    return f"releases/{component}/deltas/"


FleetStatus.model_rebuild()
