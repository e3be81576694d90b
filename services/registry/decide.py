"""Which image a fleet starts from, and who its members are. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from shared import quarantine
from shared.cloud import Group, GroupMember, Image, Instance
from shared.ids import BAKE_TAG, FLEET_TAG, MANAGED_TAG, PROVEN_TAG
from shared.messages import ImagePinRequested, ImageRollbackRequested, MembershipChanged
from shared.outbox import to_announce
from shared.records import Announcement, Bake, Failures, Launch, Leaver, Member, Membership, Pin, Pointer

PROMOTER = "registry"
"""Who moved the pointer, when nobody asked for it by name."""

REVERT = "revert-of-"
"""How the request of a pointer begins that went back by itself."""

MARGIN = timedelta(hours=1)
"""So long before its quarantine ends an image counts as gone: what the janitor does takes effect late, and clocks
differ. Until then whatever comes to refer to it keeps it."""

SAME_REQUEST = timedelta(minutes=10)
"""SNS may deliver a request twice, as two messages: the same person's same one again so soon is the same one."""


@dataclass(frozen=True)
class Found:
    """The pointer as it is, and the last one that was accepted: the end of its history."""

    pointer: Pointer | None
    etag: str | None
    last: Pointer | None
    modified: datetime | None = None
    """When the pointer was written, as S3 says."""


@dataclass(frozen=True)
class Move:
    """Write this pointer next; its generation follows from the history."""

    pointer: Pointer
    reason: str


@dataclass(frozen=True)
class Keep:
    """Leave the pointer: what is asked for is so already, or something newer stands."""

    reason: str


@dataclass(frozen=True)
class Refuse:
    """Leave the pointer: what is asked for cannot be. The reason is a sentence for whoever asked."""

    reason: str


Standing = Literal["none", "settled", "unfinished", "edited", "deleted"]


def standing(found: Found) -> Standing:
    """Say how the pointer stands to its history. Pure.

    A pointer of ours that is not in the history yet is ``unfinished``: its effects may be missing. Anything else that
    is not the history's end was written by hand.
    """
    pointer, last = found.pointer, found.last
    if pointer is None:
        return "none" if last is None else "deleted"
    if pointer == last:
        return "settled"
    ours = pointer.write_id == seal(pointer) and pointer.generation == next_generation(last)
    return "unfinished" if ours else "edited"


def seal(pointer: Pointer) -> str:
    """Return the write id of a pointer of ours: a digest of all that it says, so that an edit by hand shows. Pure."""
    said = pointer.model_dump_json(by_alias=True, exclude={"write_id"})
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def in_force(found: Found) -> Found:
    """Return what requests are decided on: an edit by hand that was not obeyed counts for nothing. Pure."""
    return replace(found, pointer=found.last) if standing(found) == "edited" else found


def next_generation(last: Pointer | None) -> int:
    """Return the generation that follows the history's end. Pure."""
    return last.generation + 1 if last else 1


def refusal(fleet: str, wanted: str, image: Image | None) -> str | None:
    """Say why the fleet cannot start from this image; None when it can. Pure."""
    if image is None:
        return f"there is no image {wanted} of ours"
    if image.tags.get(MANAGED_TAG) != "true" or image.tags.get(FLEET_TAG) != fleet:
        return f"{wanted} is not an image of fleet {fleet}: it lacks the tags {MANAGED_TAG}=true, {FLEET_TAG}={fleet}"
    if image.state != "available":
        return f"{wanted} is {image.state}, and only an available image can be launched from"
    if image.tags.get(PROVEN_TAG) != "true":
        return f"{wanted} has not passed a proof launch: it lacks the tag {PROVEN_TAG}=true"
    return None


def lasting(image: Image, quarantine_hours: float, now: datetime) -> Image:
    """Return the image; one that the janitor may be retiring by now is not ``available`` any more. Pure."""
    since, keep = quarantine.since(image.tags), timedelta(hours=quarantine_hours)
    if since is None or now - since < keep - min(MARGIN, keep / 2):
        return image
    return replace(image, state="about to be retired")


def may_lag(fleet: str, image: Image) -> bool:
    """Whether EC2 may show the fleet's image as it was a moment ago: still pending, or not tagged as proven. Pure."""
    return image.tags.get(FLEET_TAG) == fleet and (image.state == "pending" or PROVEN_TAG not in image.tags)


def adopted(edited: Pointer, last: Pointer | None, image: Image, now: datetime, written: datetime) -> Pointer:
    """Return the pointer that an operator's edit by hand becomes. Pure."""
    named = edited.by if last is None or edited.by != last.by else "operator"
    bake = image.tags.get(BAKE_TAG, edited.bake)
    return edited.model_copy(update={"since": now, "by": _person(named), "bake": bake, "request": "", "asked": written})


def promotion(pointer: Pointer | None, bake: Bake, image: str, now: datetime) -> Move | Keep:
    """Say whether the pointer moves to a bake's image, which was verified. Pure.

    A bake that was asked for before a person last moved the pointer does not undo that.
    """
    if pointer is not None:
        kept = _kept_by(pointer, bake, image, now)
        if kept is not None:
            return Keep(kept)
    reason = f"bake {bake.bake} passed its proof launch"
    return Move(Pointer(image=image, bake=bake.bake, since=now, by=PROMOTER, reason=reason), reason)


def _kept_by(pointer: Pointer, bake: Bake, image: str, now: datetime) -> str | None:
    if pointer.image == image:
        return f"the pointer is at {image} already"
    if pinned(pointer, now) is not None:
        return f"{pointer.image} is pinned: {pinned(pointer, now)}"
    if pointer.by == PROMOTER and pointer.bake is not None:
        return None if bake.bake > pointer.bake else f"bake {bake.bake} is older than the pointer's, {pointer.bake}"
    if bake.requested <= pointer.since:
        return f"{pointer.by} moved the pointer to {pointer.image} at {pointer.since}, after this bake was asked for"
    return None


def to_blame(pointer: Pointer, bake: Bake | None, failures: Failures | None, tries: int) -> str | None:
    """Say why the pointer's image is to blame for failed launches; None when it is not, or it may be a release. Pure.

    It is when launches in a row failed with nothing newer on them than what the image was baked with. What an
    automatic revert led to is left alone: then it is hardly the image.
    """
    if bake is None or failures is None or pointer.request.startswith(REVERT):
        return None
    failed = failures.of(pointer.image, bake.releases)
    if len(failed) < tries or failed[0].at < pointer.since:
        return None
    return f"{len(failed)} launches in a row failed from it, the last of {failed[-1].server}, without any newer release"


def revert(
    fleet: str, pointer: Pointer, history: Sequence[Pointer], images: Mapping[str, Image], reason: str, now: datetime
) -> Move | Keep:
    """Say where the pointer goes when its image is to blame: to the last one before that is still fit. Pure."""
    if pinned(pointer, now) is not None:
        return Keep(f"{pointer.image} is pinned {pinned(pointer, now)}")
    for each in history:
        if each.image != pointer.image and refusal(fleet, each.image, images.get(each.image)) is None:
            why = f"reverted from {pointer.image}: {reason}"
            request = f"{REVERT}{pointer.image}"
            return Move(
                Pointer(image=each.image, bake=each.bake, since=now, by=PROMOTER, reason=why, request=request), why
            )
    return Keep(f"there is no earlier image to go back to from {pointer.image}")


def pinned(pointer: Pointer, now: datetime) -> str | None:
    """Say who holds the pointer, and until when; None when nobody does. Pure."""
    pin = pointer.pin
    if pin is None or (pin.until is not None and pin.until <= now):
        return None
    return f"by {pin.by} until {pin.until or 'it is lifted'} ({pin.reason or 'no reason given'})"


def newest(images: Sequence[Image], fleet: str) -> Image | None:
    """Return the fleet's latest baked image that can be launched from. Pure."""
    fit = [each for each in images if each.tags.get(BAKE_TAG) and refusal(fleet, each.image, each) is None]
    return max(fit, key=lambda each: each.tags[BAKE_TAG], default=None)


def rollback(
    request: ImageRollbackRequested,
    pointer: Pointer | None,
    history: Sequence[Pointer],
    images: Mapping[str, Image],
    now: datetime,
) -> Move | Keep | Refuse:
    """Say where a rollback leads. ``history`` is newest first. Pure."""
    if pointer is None:
        return Refuse(f"fleet {request.fleet} has no image of its own yet, so there is none to go back from")
    if any(each.request == request.id for each in history):
        return Keep(f"request {request.id} was carried out before")
    kept = _overtaken(request, history) or _so_already(request, pointer)
    if kept is not None:
        return Keep(kept)
    image = _goal(request, pointer, history, images, now)
    if isinstance(image, Refuse):
        return image
    why = request.reason or f"rolled back from {pointer.image}"
    return Move(_asked(request, image, why, now), f"{request.by} asked to go back from {pointer.image}: {why}")


def _goal(
    request: ImageRollbackRequested,
    pointer: Pointer,
    history: Sequence[Pointer],
    images: Mapping[str, Image],
    now: datetime,
) -> Image | Refuse:
    if pinned(pointer, now) is not None:
        return Refuse(f"{pointer.image} is pinned {pinned(pointer, now)}; lift the pin first")
    if request.to is not None:
        return _wanted(request, request.to, images)
    return _previous(request, pointer, history, images)


def _overtaken(request: ImageRollbackRequested | ImagePinRequested, history: Sequence[Pointer]) -> str | None:
    """Say who asked for another pointer after this was asked for, if anybody did: requests come in any order. Pure."""
    for each in history:
        if each.asked is not None and each.asked > request.asked:
            return f"{each.by} asked for another pointer at {each.asked}, after this was asked for"
    return None


def _so_already(request: ImageRollbackRequested, pointer: Pointer) -> str | None:
    """Say why there is nothing to do: the pointer is there, or the same person asked for this a moment ago. Pure."""
    if request.to == pointer.image:
        return f"the pointer is at {pointer.image} already"
    same = (pointer.by, pointer.reason) == (request.by, request.reason or pointer.reason) and pointer.request
    recent = pointer.asked is not None and request.asked - pointer.asked < SAME_REQUEST
    if same and recent and request.to is None:
        return (
            f"{pointer.by} was rolled back to {pointer.image} a moment ago; to go further back, name the image in `to`"
        )
    return None


def _wanted(request: ImageRollbackRequested, wanted: str, images: Mapping[str, Image]) -> Image | Refuse:
    why_not = refusal(request.fleet, wanted, images.get(wanted))
    return Refuse(f"cannot go back to {wanted}: {why_not}") if why_not else images[wanted]


def _previous(
    request: ImageRollbackRequested, pointer: Pointer, history: Sequence[Pointer], images: Mapping[str, Image]
) -> Image | Refuse:
    """Return the image before the one that stood when the request was made: it may have been promoted over since."""
    stood = next((each for each in history if each.since <= request.asked), pointer)
    for each in history:
        earlier = each.generation < stood.generation and each.image not in {stood.image, pointer.image}
        if earlier and refusal(request.fleet, each.image, images.get(each.image)) is None:
            return images[each.image]
    return Refuse(f"fleet {request.fleet} has no earlier image that is still available")


def pin(
    request: ImagePinRequested,
    pointer: Pointer | None,
    history: Sequence[Pointer],
    image: Image | None,
    now: datetime,
) -> Move | Keep | Refuse:
    """Say what a pin request does to the pointer. ``image`` is the one that the request names. Pure."""
    if any(each.request == request.id for each in history):
        return Keep(f"request {request.id} was carried out before")
    if request.image is None:
        return _lifted(request, pointer)
    overtaken = _overtaken(request, history)
    if overtaken is not None:
        return Keep(overtaken)
    ended = request.until is not None and request.until <= now
    why_not = f"the pin would have ended at {request.until}" if ended else refusal(request.fleet, request.image, image)
    if image is None or why_not is not None:
        return Refuse(f"cannot pin {request.image}: {why_not}")
    return _held(request, pointer, image, now)


def _held(request: ImagePinRequested, pointer: Pointer | None, image: Image, now: datetime) -> Move | Keep:
    held = Pin(by=request.by, reason=request.reason, until=request.until, asked=request.asked)
    if pointer is None or pointer.image != image.image:
        moved = _asked(request, image, request.reason or "pinned", now)
        return Move(moved.model_copy(update={"pin": held}), f"pinned to {image.image} by {request.by}")
    return Move(_noted(pointer, request, held), f"pinned by {request.by}")


def _lifted(request: ImagePinRequested, pointer: Pointer | None) -> Move | Keep:
    """Lift the pin; that nothing was pinned is written down too, for a pin asked for earlier may yet come. Pure."""
    if pointer is None:
        return Keep("nothing is pinned")
    pin = pointer.pin
    if pin is not None and pin.asked is not None and pin.asked > request.asked:
        return Keep(f"{pin.by} asked for the pin at {pin.asked}, after this was asked for")
    return Move(_noted(pointer, request, None), f"pin lifted by {request.by}" if pin else "nothing was pinned")


def _noted(pointer: Pointer, request: ImagePinRequested, pin: Pin | None) -> Pointer:
    """Return the pointer where it is, with the request that it has seen. Pure."""
    asked = max(request.asked, pointer.asked or request.asked)
    return pointer.model_copy(update={"pin": pin, "request": request.id, "asked": asked})


def _asked(request: ImageRollbackRequested | ImagePinRequested, image: Image, reason: str, now: datetime) -> Pointer:
    return Pointer(
        image=image.image,
        bake=image.tags.get(BAKE_TAG),
        since=now,
        by=_person(request.by),
        reason=reason,
        request=request.id,
        asked=request.asked,
    )


def _person(by: str) -> str:
    return by if by and by != PROMOTER else "operator"


# Membership.


@dataclass(frozen=True)
class Roll:
    """What is seen of the servers of a group: those in service in EC2, and how each was launched."""

    group: Group
    instances: Mapping[str, Instance]
    launches: Mapping[str, Launch]
    now: datetime
    updating: Mapping[str, int] = field(default_factory=dict)
    """Servers that are being brought up to date, with the rollout that took them: they take no traffic."""


def membership(roll: Roll, old: Membership | None) -> Membership:
    """Return who the members are: in service, seen by EC2, and not about to leave. Pure.

    A member that EC2 does not show for a moment stays.
    """
    before = old or Membership()
    leaving = tuple(each for each in before.leaving if _leaves(each, roll))
    gone = {each.server for each in leaving}
    known = {each.server: each for each in before.members}
    listed: tuple[Leaver | Member, ...] = (*before.leaving, *before.members)
    firsts = {each.server: each.since for each in listed}
    serving = [each for each in roll.group.members if each.in_service and each.server not in gone]
    members = [
        _member(each, roll, known.get(each.server), firsts.get(each.server) or roll.now)
        for each in sorted(serving, key=lambda each: each.server)
    ]
    present = tuple(each for each in members if each is not None)
    return before.model_copy(update={"members": present, "leaving": leaving})


def renewed(roll: Roll, old: Membership | None, trace: str | None) -> Membership:
    """Return who the members are, with what is to be said of those who joined or left. Pure."""
    new = membership(roll, old)
    before = {member.server for member in old.members} if old else set()
    after = {member.server for member in new.members}
    if before == after:
        return new
    fleet, generation = roll.group.fleet, new.generation + 1
    said = MembershipChanged(
        id=f"members-{fleet}-{generation}"[:64],
        time=roll.now,
        source="registry",
        fleet=fleet,
        generation=generation,
        joined=tuple(sorted(after - before)),
        left=tuple(sorted(before - after)),
    )
    return to_announce(new, Announcement(message=said, at=roll.now, trace=trace))


def _leaves(leaver: Leaver, roll: Roll) -> bool:
    """Whether the server is still on its way out: of the group, or of traffic until its update has ended."""
    member = roll.group.member(leaver.server)
    if member is None:
        return False
    return leaver.update is None or not member.in_service or roll.updating.get(leaver.server) == leaver.update


def _member(member: GroupMember, roll: Roll, known: Member | None, since: datetime) -> Member | None:
    instance = roll.instances.get(member.server)
    if instance is None or not instance.address:
        return known
    launch = roll.launches.get(member.server)
    return Member(
        server=member.server,
        address=instance.address,
        zone=instance.zone or member.zone,
        image=instance.image,
        releases=launch.releases if launch else {},
        since=since,
    )


def announced(old: Membership | None, server: str, now: datetime, update: int | None = None) -> Membership:
    """Return the membership without this server, which is about to leave, if only for an ``update``. Pure."""
    before = old or Membership()
    if any(each.server == server for each in before.leaving):
        return before
    members = tuple(each for each in before.members if each.server != server)
    since = next((each.since for each in before.members if each.server == server), None)
    leaver = Leaver(server=server, announced=now, update=update, since=since)
    return before.model_copy(update={"members": members, "leaving": (*before.leaving, leaver)})


def told(old: Membership, server: str, now: datetime) -> Membership:
    """Return the membership with the leaver marked as published; its drain begins now. Pure."""
    leaving = tuple(
        each.model_copy(update={"announced": now, "told": True}) if each.server == server and not each.told else each
        for each in old.leaving
    )
    return old.model_copy(update={"leaving": leaving})


@dataclass(frozen=True)
class Announce:
    """Take the server off the list and say so."""

    reason: str


@dataclass(frozen=True)
class Drain:
    """It was announced; let it serve on for so long."""

    after_s: float
    reason: str


@dataclass(frozen=True)
class LetGo:
    """Complete the hook."""

    reason: str


def leaving(server: str, old: Membership | None, drain_s: float, now: datetime) -> Announce | Drain | LetGo:
    """Say what a server that waits in its terminating hook needs next. Pure."""
    before = old or Membership()
    leaver = next((each for each in before.leaving if each.server == server), None)
    if leaver is None:
        if any(each.server == server for each in before.members):
            return Announce(f"{server} is a member and about to leave")
        return LetGo(f"{server} was never a member")
    if not leaver.told:
        return Announce(f"{server} is off the list, and nobody may have been told")
    left = drain_s - (now - leaver.announced).total_seconds()
    return Drain(left, f"{server} drains for {left:.0f} s more") if left > 0 else LetGo(f"{server} has drained")
