"""Releases that nobody needs any more, and garbage: packs and deltas that no listed release needs.

A release is retired by hand: it is listed no more. What only it needed is garbage then, like what a cut upload leaves
behind. First packs and deltas are marked, with the time; only a later run, once they have been marked for long enough,
deletes those that are still not needed. So the packs of a publish in progress, whose manifest comes last, are never
young enough to go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from ops.releases import Refusal, bakes_of
from shared import releases
from shared.clock import Clock
from shared.cloud import ObjectsPort, ServersPort
from shared.components import Components
from shared.documents import CorruptDocument, Documents
from shared.fleets import Fleets
from shared.outlines import Outline
from shared.records import (
    Garbage,
    Membership,
    Sweep,
    deltas_prefix,
    garbage_key,
    manifest_key,
    membership_key,
    pack_key,
    sweep_key,
)

MIN_AGE = timedelta(hours=1)
"""No publish is trusted to be quicker than this from its first pack to its manifest."""


FRESH = timedelta(days=1)
"""So long after a bake its image counts as there, whether EC2 shows it or not."""


@dataclass(frozen=True)
class Needs:
    """Where it is found out what needs a component's releases."""

    objects: ObjectsPort
    servers: ServersPort
    components: Components
    clock: Clock


@dataclass(frozen=True)
class Collected:
    """What a run found: keys that it marked, that wait since an earlier one, and that it deleted (or would have)."""

    component: str
    marked: list[str]
    waiting: list[str]
    deleted: list[str]

    def as_dict(self) -> dict[str, object]:
        """Return it for ``-o json``."""
        return asdict(self)


async def retire(needs: Needs, component: str, version: str, by: str, dry_run: bool) -> None:
    """Take a release off the list, unless a fleet, a server in service or an image needs it.

    Raises:
        Refusal: somebody needs it; nothing has changed.
        UnknownRelease: it is not listed.
        CloudError, CorruptDocument: what needs it cannot be told.
    """
    key, now = manifest_key(component, version), needs.clock.now()
    stored = await needs.objects.get(key)
    if stored is None:
        raise releases.UnknownRelease(f"there is no release {version} of {component}")
    await _refuse_while_needed(needs, component, version)
    if dry_run:
        return
    await Documents(needs.objects).create(sweep_key(component, now), Sweep(by=by, at=now, keys=(key,)))
    await needs.objects.delete(key)
    try:
        await _refuse_while_needed(needs, component, version)
    except Refusal:  # it was set in this very moment, when it was still listed
        await needs.objects.put(key, stored.body, absent=True)
        raise


async def _refuse_while_needed(needs: Needs, component: str, version: str) -> None:
    for wanted, who in await _wanted(needs, component):
        if wanted == version:
            raise Refusal(f"release {version} of {component} stays: {who} needs it")


async def collect(needs: Needs, component: str, age: timedelta, by: str, dry_run: bool) -> Collected:
    """Mark what no release of the component needs, and delete what was marked ``age`` ago or longer.

    Raises:
        Refusal: the age is too short, or what is needed cannot be told in full: nothing was deleted.
        CloudError, CorruptDocument: likewise, as far as anybody knows.
    """
    if age < MIN_AGE:
        raise Refusal(f"an age of {age} could hurt a publish in progress; give at least {MIN_AGE}")
    objects, now = needs.objects, needs.clock.now()
    documents = Documents(objects)
    stored = {*await objects.etags(pack_key(component, "")), *await objects.etags(deltas_prefix(component))}
    garbage = stored - await needed(needs, component)
    marks = await documents.get(Garbage, garbage_key(component))
    seen = marks.seen if marks else {}
    found = sorted_out(component, garbage, seen, now, age)
    if dry_run:
        return found
    left = {key: seen.get(key, now) for key in garbage}
    await documents.change(
        Garbage, garbage_key(component), lambda old: (old or Garbage()).model_copy(update={"seen": left})
    )
    if found.deleted:
        await documents.create(sweep_key(component, now), Sweep(by=by, at=now, keys=tuple(found.deleted)))
    still = await needed(needs, component) if found.deleted else set()
    for key in found.deleted:
        if key not in still:
            await objects.delete(key)
    return found


def sorted_out(
    component: str, garbage: set[str], seen: Mapping[str, datetime], now: datetime, age: timedelta
) -> Collected:
    """Say which keys are marked now, which wait, and which are due. Pure."""
    due = {key for key in garbage if key in seen and now - seen[key] >= age}
    marked = {key for key in garbage if key not in seen}
    return Collected(component, sorted(marked), sorted(garbage - due - marked), sorted(due))


async def needed(needs: Needs, component: str) -> set[str]:
    """Return the keys of all objects that listed releases need; what fleets and images need must be listed.

    Raises:
        Refusal: some release cannot be read, or one that somebody needs is not listed.
    """
    listed = await releases.versions(needs.objects, component)
    missing = [f"{who} needs {version}" for version, who in await _wanted(needs, component) if version not in listed]
    if missing:
        raise Refusal(f"nothing was deleted: {missing[0]} of {component}, and it is not listed: look for it first")
    found: list[Outline] = []
    for version in listed:
        try:
            found.append(await releases.outline(needs.objects, component, version))
        except (CorruptDocument, releases.UnknownRelease) as error:
            raise Refusal(f"nothing was deleted: release {version} of {component} cannot be read") from error
    return await releases.objects_of(needs.objects, component, found)


async def _wanted(needs: Needs, component: str) -> list[tuple[str, str]]:
    """Return (version, who) for every release that somebody may need; twice, where two do."""
    found: list[tuple[str, str]] = []
    fleets = Fleets(needs.objects)
    for name in await fleets.names():
        if component in (await fleets.get(name)).components:
            found += await _wanted_by(needs, name, component)
    return found


async def _wanted_by(needs: Needs, fleet: str, component: str) -> list[tuple[str, str]]:
    """Return what the fleet may launch or bake with, what its servers may go back to, and what its images hold."""
    standing = await needs.components.standing(fleet, component)
    now = standing.current
    versions = (now.version if now else None, now.previous if now else None, standing.good)
    found = [(version, f"fleet {fleet}") for version in versions if version is not None]
    listed = await Documents(needs.objects).get(Membership, membership_key(fleet))
    members = listed.members if listed else ()
    found += [(each.releases[component], f"server {each.server}") for each in members if component in each.releases]
    there = {image.image for image in await needs.servers.images(fleet)}
    for bake in await bakes_of(needs.objects, fleet):
        kept = bake.image in there or (bake.ended or bake.requested) > needs.clock.now() - FRESH
        if bake.stage == "ready" and kept and component in bake.releases:
            found.append((bake.releases[component], f"image {bake.image}"))
    return found
