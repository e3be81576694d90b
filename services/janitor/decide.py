"""Which images and builders are due, and why the others stay. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest

from shared import pauses, quarantine
from shared.cloud import Group, Image, Instance, TemplateVersion
from shared.fleet import Fleet
from shared.ids import BAKE_TAG, FLEET_TAG, MANAGED_TAG, QUARANTINE_TAG, ROLE_TAG
from shared.messages import BuilderReaped, ImageRetired, ImageRetirementRequested
from shared.records import Announced, Bake, Pause, Pointer, Removals

MOST_DUE = 0.5
"""When more than this part of all images is due at once, the view is more likely wrong than the images old."""

APPROVAL_GOOD_FOR = timedelta(hours=1)

ROLES = ("builder", "prover")
GONE = ("shutting-down", "terminated")


@dataclass(frozen=True)
class View:
    """All that may refer to an image, as it was observed at ``now``."""

    fleet: Fleet
    images: Sequence[Image]
    pointer: Pointer | None
    history: Sequence[Pointer]
    bakes: Mapping[str, Bake]
    templates: Sequence[TemplateVersion]
    group: Group
    instances: Sequence[Instance]
    """The group's members, and all others with the fleet's tags."""
    pause: Pause | None
    now: datetime
    removals: Removals | None = None
    """What is to be said of what was removed, and the images that a person has said may go."""


@dataclass(frozen=True)
class Quarantine:
    """Tag the image, and look again after the policy's hours."""

    image: str


@dataclass(frozen=True)
class Release:
    """Something refers to the image again: take the tag's value away."""

    image: str
    reason: str


@dataclass(frozen=True)
class Retire:
    """Deregister the image and delete its snapshots."""

    image: Image
    reason: str


@dataclass(frozen=True)
class Reap:
    """Terminate a builder or prover that nobody waits for."""

    server: str
    reason: str


STOPPED, HELD = STOP_CAUSES = ("janitor-stopped", "retirement-held")
"""The alerts of a stop: something is missing from what was seen; so many images are due that a person must approve."""


@dataclass(frozen=True)
class Stop:
    """Touch nothing and call a person."""

    reason: str
    cause: str = STOPPED


Action = Quarantine | Release | Retire | Reap


def clean(view: View) -> tuple[Action, ...] | Stop:
    """List what is due in this fleet. Pure."""
    wrong = incomplete(view)
    if wrong is not None:
        return Stop(wrong)
    keep = kept(view)
    ours, old = _ours(view), due(view, keep)
    approved = view.removals.approved if view.removals is not None else ()
    at_once = [image for image in old if image.image not in approved]
    # One image alone says nothing about the view: a fleet's first bake may have failed.
    if len(at_once) > 1 and len(at_once) > MOST_DUE * len(ours):
        return Stop(f"{len(at_once)} of {len(ours)} images are due at once, which is more than half", HELD)
    released = tuple(
        Release(each.image, keep[each.image]) for each in ours if each.image in keep and _quarantined(each)
    )
    if pauses.of_automation(view.pause, view.now):
        return released
    return (*released, *_retirements(old, view), *_leaked(view))


def too_late(request: ImageRetirementRequested, now: datetime) -> str | None:
    """Say why nobody may still go by this request, if so: what is due now is not what somebody looked at then. Pure."""
    if now - request.asked <= APPROVAL_GOOD_FOR:
        return None
    return f"it was asked for at {request.asked:%Y-%m-%d %H:%M} UTC; look again at what is due, and ask anew"


def due(view: View, keep: Collection[str]) -> list[Image]:
    """Return the fleet's images that nothing needs. Pure."""
    return [image for image in _ours(view) if image.image not in keep]


def happened(view: View, said: Announced) -> bool:
    """Whether that was done which is to be announced: the image is not there any more, nor the builder. Pure."""
    match said:
        case ImageRetired(image=image):
            return image not in {each.image for each in view.images}
        case BuilderReaped(server=server):
            return server not in {each.server for each in view.instances if each.state not in GONE}
    return True


def incomplete(view: View) -> str | None:
    """Say what is missing from the view, if anything: nothing may follow from such a view. Pure."""
    if not view.group.managed:
        return f"the group {view.group.fleet} lacks our ownership tag"
    if view.pointer is None and view.history:
        return "the pointer is gone, though it has a history"
    if view.pointer is not None and view.pointer.image not in {each.image for each in view.images}:
        return f"the pointer's image {view.pointer.image} is not among the fleet's images"
    seen = {each.server for each in view.instances}
    unseen = sorted(member.server for member in view.group.members if member.server not in seen)
    return f"EC2 does not show {unseen[0]}, a member of the group" if unseen else None


def kept(view: View) -> Mapping[str, str]:
    """Return each image that something needs, with what needs it. Pure."""
    reasons: dict[str, str] = {}
    for image, reason in (*_pointed(view), *_proven(view), *_launching(view), *_baking(view)):
        reasons.setdefault(image, reason)
    return reasons


def _pointed(view: View) -> list[tuple[str, str]]:
    """The pointer, and every pointer that was in force within the retention."""
    present = [(view.pointer.image, "it is the pointer's")] if view.pointer is not None else []
    reigns = sorted(view.history, key=lambda each: each.generation)
    began = _retention_began(view)
    past = [
        (each.image, f"it was the pointer's, generation {each.generation}")
        for each, following in zip_longest(reigns, reigns[1:])
        if following is None or following.since > began
    ]
    return present + past


def _proven(view: View) -> list[tuple[str, str]]:
    """The last ones that passed their proof, however old, and the young ones."""
    there = {each.image: each for each in view.images if each.state == "available"}
    proven = {bake.image: bake.ended or bake.requested for bake in view.bakes.values() if bake.stage == "ready"}
    newest = sorted((image for image in proven if image in there), key=lambda image: proven[image], reverse=True)
    policy = view.fleet.policies.retention
    began = _retention_began(view)
    last = [(image, f"it is one of the last {policy.keep} proven") for image in newest[: policy.keep]]
    young = [
        (image, f"it is proven and younger than {policy.days:g} days") for image in newest if proven[image] > began
    ]
    return [(image, reason) for image, reason in last + young if image is not None]


def _launching(view: View) -> list[tuple[str, str]]:
    """What servers run, and what the launch template may launch.

    Of the template's versions those count that a launch can start from: the default one, the newest one, and those
    of the members. Nothing ever deletes the others, so counting them would keep every image for ever.
    """
    used = {member.template_version for member in view.group.members}
    newest = max((each.version for each in view.templates), default=0)
    versions = [
        (each.image, f"version {each.version} of the launch template names it")
        for each in view.templates
        if each.default or each.version == newest or str(each.version) in used
    ]
    return [(each.image, f"{each.server} runs it") for each in view.instances] + versions


def _baking(view: View) -> list[tuple[str, str]]:
    """What running bakes have made; the tag says so before the record does."""
    running = {bake.bake for bake in view.bakes.values() if _runs(bake)}
    recorded = [(bake.image, bake.bake) for bake in view.bakes.values() if bake.bake in running and bake.image]
    tagged = [(each.image, each.tags[BAKE_TAG]) for each in view.images if each.tags.get(BAKE_TAG) in running]
    return [(image, f"the bake {bake} is running") for image, bake in recorded + tagged]


def _retention_began(view: View) -> datetime:
    return view.now - timedelta(days=view.fleet.policies.retention.days)


def _retirements(old: Sequence[Image], view: View) -> tuple[Quarantine | Retire, ...]:
    wait = timedelta(hours=view.fleet.policies.retention.quarantine_hours)
    actions: list[Quarantine | Retire] = []
    for image in old:
        since = quarantine.since(image.tags)
        if since is None:
            actions.append(Quarantine(image.image))
        elif view.now - since >= wait:
            actions.append(Retire(image, f"nothing needs it, and it was set aside on {since:%Y-%m-%d %H:%M} UTC"))
    return tuple(actions)


def _leaked(view: View) -> tuple[Reap, ...]:
    longest = timedelta(hours=view.fleet.policies.retention.builder_hours)
    running = {bake.bake for bake in view.bakes.values() if _runs(bake)}
    return tuple(
        Reap(
            each.server,
            f"a {each.tags[ROLE_TAG]} since {each.launched:%Y-%m-%d %H:%M} UTC, and its bake is not running",
        )
        for each in view.instances
        if each.tags.get(ROLE_TAG) in ROLES
        and each.tags.get(MANAGED_TAG) == "true"
        and each.tags.get(FLEET_TAG) == view.fleet.fleet
        and each.state not in GONE
        and view.group.member(each.server) is None
        and view.now - each.launched > longest
        and each.tags.get(BAKE_TAG) not in running
    )


def _runs(bake: Bake) -> bool:
    return bake.stage not in ("ready", "failed")


def _ours(view: View) -> list[Image]:
    ours = {MANAGED_TAG: "true", FLEET_TAG: view.fleet.fleet}
    return [image for image in view.images if ours.items() <= image.tags.items()]


def _quarantined(image: Image) -> bool:
    return image.tags.get(QUARANTINE_TAG, "") != ""
