"""Where the time of launches went: what ``launch list``, ``launch show`` and ``launch pace`` tell."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from statistics import median

from shared.aws import Cloud
from shared.clock import Clock
from shared.cloud import NotFound, ObjectsPort
from shared.documents import Documents
from shared.fleets import Fleets
from shared.pace import Kind, slow
from shared.phases import from_image, phases, waiting_s
from shared.records import (
    Launch,
    Membership,
    Paces,
    StepResult,
    launch_key,
    membership_key,
    paces_key,
    report_key,
    servers_prefix,
)
from shared.runs import read_report


@dataclass(frozen=True)
class Line:
    """One stretch of a launch: a phase (``shared.phases``), or a step, which has figures of its work too."""

    what: str
    kind: str
    """phase or step."""
    at_s: float | None
    """Since EC2's order, or the claim where that is unknown; None for what did not run."""
    seconds: float
    cpu_seconds: float | None = None
    waiting_seconds: float | None = None
    bytes: int | None = None
    requests: int | None = None
    result: str = ""


@dataclass(frozen=True)
class Told:
    """One launch. ``seconds`` go from EC2's order until it ended, or until now."""

    fleet: str
    server: str
    image: str
    from_image: bool
    """Whether it came from an image that brought a ledger along; else it ran the full plan."""
    releases: dict[str, str]
    ordered: datetime
    result: str
    reason: str
    trace: str
    seconds: float
    lines: list[Line]

    def of(self, *names: str) -> float:
        """Return the seconds of these phases together."""
        return sum(line.seconds for line in self.lines if line.kind == "phase" and line.what in names)

    @property
    def steps(self) -> list[Line]:
        """The steps that ran."""
        return [line for line in self.lines if line.kind == "step" and line.at_s is not None]

    def as_dict(self) -> dict[str, object]:
        """Return it for ``-o json``."""
        return asdict(self)


@dataclass(frozen=True)
class StepPace:
    """How a step fares: medians of its latest runs and of those before, in seconds; None: there are none before."""

    kind: Kind
    step: str
    runs: int
    latest_s: float
    usual_s: float | None
    slow: str
    """A sentence, where it has become much slower."""


async def show(cloud: Cloud, clock: Clock, fleet: str, server: str) -> Told:
    """Return where a launch's time went.

    Raises:
        UnknownFleet: nobody described the fleet.
        NotFound: there is no record of such a launch.
    """
    await Fleets(cloud.objects).get(fleet)
    documents = Documents(cloud.objects)
    launch = await documents.get(Launch, launch_key(fleet, server))
    if launch is None:
        raise NotFound(f"there is no record of a launch of {server} in {fleet}; see: python -m ops launch list {fleet}")
    listed = await documents.get(Membership, membership_key(fleet))
    return told(await _as_of_now(cloud.objects, launch), listed, clock.now())


async def launches(cloud: Cloud, clock: Clock, fleet: str, *, all_of_them: bool) -> list[Told]:
    """Return the launches of the servers that are in the group, or all on record, the latest first.

    Raises:
        UnknownFleet: nobody described the fleet.
        NotFound: it has no group yet.
    """
    await Fleets(cloud.objects).get(fleet)
    documents = Documents(cloud.objects)
    if all_of_them:
        recorded = await documents.all(Launch, servers_prefix(fleet))
    else:
        members = [member.server for member in (await cloud.groups.describe(fleet)).members]
        recorded = [*(await documents.named(Launch, servers_prefix(fleet), members)).values()]
    listed = await documents.get(Membership, membership_key(fleet))
    found = [told(await _as_of_now(cloud.objects, each), listed, clock.now()) for each in recorded]
    return sorted(found, key=lambda each: each.ordered, reverse=True)


async def pace(cloud: Cloud, fleet: str) -> list[StepPace]:
    """Return how the steps of launches from images, and of bakes, fare against their own history.

    Raises:
        UnknownFleet: nobody described the fleet.
    """
    await Fleets(cloud.objects).get(fleet)
    documents = Documents(cloud.objects)
    bakes = await documents.get(Paces, paces_key(fleet, "bake"))
    from_images = await documents.get(Paces, paces_key(fleet, "launch"))
    return [*_paces("launch", from_images), *_paces("bake", bakes)]


def told(launch: Launch, listed: Membership | None, now: datetime) -> Told:
    """Return where a launch's time went, from its record and the membership. Pure."""
    members = {each.server: each.since for each in listed.members} if listed else {}
    zero = launch.ordered or launch.claimed
    lines = _lines(launch, zero, members.get(launch.server), now)
    last = max((line.at_s + line.seconds for line in lines if line.at_s is not None), default=0.0)
    return Told(
        fleet=launch.fleet,
        server=launch.server,
        image=launch.image,
        from_image=from_image(launch),
        releases=dict(launch.releases),
        ordered=zero,
        result=launch.result,
        reason=launch.reason,
        trace=launch.trace.split("-")[1] if launch.trace else "",
        seconds=(now - zero).total_seconds() if launch.result == "running" else last,
        lines=lines,
    )


def _lines(launch: Launch, zero: datetime, member_since: datetime | None, now: datetime) -> list[Line]:
    """Return phases and steps in the order of their beginnings; what did not run stays where the plan has it."""
    around = [
        Line(each.name, "phase", (each.began - zero).total_seconds(), each.seconds)
        for each in phases(launch, member_since)
    ]
    steps = []
    for attempt in launch.attempts:
        at = attempt.began
        for step in attempt.steps:
            at = step.began or at
            steps.append((at, _step(step, zero, now)))
    ordered = [(zero + timedelta(seconds=line.at_s or 0.0), 0, line) for line in around]
    ordered += [(at, 1, line) for at, line in steps]
    return [line for _, _, line in sorted(ordered, key=lambda each: each[:2])]


def _step(step: StepResult, zero: datetime, now: datetime) -> Line:
    if step.began is None:
        return Line(step.step, "step", None, 0.0, result=step.result)
    at_s = (step.began - zero).total_seconds()
    if step.result == "running":
        return Line(step.step, "step", at_s, max(0.0, (now - step.began).total_seconds()), result=step.result)
    worked = (round(step.cpu_seconds, 3), round(waiting_s(step), 3), step.bytes, step.requests)
    return Line(step.step, "step", at_s, step.seconds, *worked, result=step.result)


def _paces(kind: Kind, paces: Paces | None) -> list[StepPace]:
    found = []
    for step, each in (paces.steps if paces else {}).items():
        become = slow(step, each)
        latest, usual = ([took.seconds for took in runs] for runs in (each.latest, each.usual))
        found.append(
            StepPace(
                kind,
                step,
                len(latest) + len(usual),
                median(latest),
                median(usual) if usual else None,
                become.sentence(kind) if become else "",
            )
        )
    return found


async def _as_of_now(objects: ObjectsPort, launch: Launch) -> Launch:
    """Return the launch with the agent's latest word on an attempt under way, which the record lacks until its end."""
    if not launch.attempts or launch.attempts[-1].result != "running":
        return launch
    last = launch.attempts[-1]
    stored = await objects.get(report_key(launch.fleet, last.attempt))
    report = read_report(stored.body, last.attempt) if stored else None
    if report is None:
        return launch
    return launch.model_copy(
        update={"attempts": (*launch.attempts[:-1], last.model_copy(update={"steps": report.steps}))}
    )
