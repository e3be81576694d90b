"""Garbage of releases: packs and deltas that no listed release needs, such as a cut upload leaves behind.

First they are marked, with the time; only a later run, once they have been marked for long enough, deletes those that
are still not needed. So the packs of a publish in progress, whose manifest comes last, are never young enough to go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError

from ops.releases import Refusal, bakes_of
from shared import releases
from shared.clock import Clock
from shared.cloud import ObjectsPort
from shared.components import Components
from shared.documents import Documents
from shared.fleets import Fleets
from shared.outlines import Outline
from shared.records import Garbage, Sweep, deltas_prefix, garbage_key, pack_key, sweep_key

MIN_AGE = timedelta(hours=1)
"""No publish is trusted to be quicker than this from its first pack to its manifest."""


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


async def collect(
    objects: ObjectsPort, components: Components, clock: Clock, component: str, age: timedelta, by: str, dry_run: bool
) -> Collected:
    """Mark what no release of the component needs, and delete what was marked ``age`` ago or longer.

    Raises:
        Refusal: the age is too short, or what is needed cannot be told in full: nothing was deleted.
        CloudError, CorruptDocument: likewise, as far as anybody knows.
    """
    if age < MIN_AGE:
        raise Refusal(f"an age of {age} could hurt a publish in progress; give at least {MIN_AGE}")
    documents, now = Documents(objects), clock.now()
    stored = {*await objects.keys(pack_key(component, "")), *await objects.keys(deltas_prefix(component))}
    garbage = stored - await needed(objects, components, component)
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
    still = await needed(objects, components, component) if found.deleted else set()
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


async def needed(objects: ObjectsPort, components: Components, component: str) -> set[str]:
    """Return the keys of all objects that listed releases need; what fleets and bakes need must be listed.

    Raises:
        Refusal: some release cannot be read, or one that a fleet needs is not listed.
    """
    listed = await releases.versions(objects, component)
    missing = [
        f"{who} needs {version}"
        for version, who in await _wanted(objects, components, component)
        if version not in listed
    ]
    if missing:
        raise Refusal(f"nothing was deleted: {missing[0]} of {component}, and it is not listed: look for it first")
    found: list[Outline] = []
    for version in listed:
        try:
            found.append(await releases.outline(objects, component, version))
        except (ValidationError, releases.UnknownRelease) as error:
            raise Refusal(f"nothing was deleted: release {version} of {component} cannot be read") from error
    return await releases.objects_of(objects, component, found)


async def _wanted(objects: ObjectsPort, components: Components, component: str) -> list[tuple[str, str]]:
    """Return (version, who) for every release that a fleet may launch or bake with, or that an image was made with."""
    found: list[tuple[str, str]] = []
    fleets = Fleets(objects)
    for name in await fleets.names():
        if component not in (await fleets.get(name)).components:
            continue
        standing = await components.standing(name, component)
        now = standing.current
        versions = (now.version if now else None, now.previous if now else None, standing.good)
        found += [(version, f"fleet {name}") for version in versions if version is not None]
        found += [
            (bake.releases[component], f"image {bake.image}")
            for bake in await bakes_of(objects, name)
            if bake.stage == "ready" and component in bake.releases
        ]
    return found
