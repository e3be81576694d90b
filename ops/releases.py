"""Releases from the command line: publish a directory, see what there is, who uses it, and what differs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shared import releases
from shared.aws import Cloud
from shared.clock import Clock
from shared.cloud import ObjectsPort
from shared.components import Components, chosen
from shared.documents import Documents
from shared.fleet import Fleet
from shared.fleets import Fleets
from shared.manifests import Entry, Manifest
from shared.packing import Progress
from shared.records import Bake, bakes_prefix
from shared.runs import AGENT, NoPlan, Runs


class Refusal(Exception):
    """What was asked for cannot be done; the message is one sentence that says why and what to do."""


@dataclass(frozen=True)
class ComponentState:
    """One component of a fleet: the release that it runs, the last good one, and those that there are."""

    component: str
    current: str | None
    versions: list[str]
    good: str | None = None
    broken: str = ""
    """Why the current release counts as broken for the fleet; empty when it does not."""
    since: str = ""
    by: str = ""
    reason: str = ""
    previous: str | None = None

    def as_dict(self) -> dict[str, object]:
        """Return it for ``-o json``."""
        return asdict(self)


async def publish(
    cloud: Cloud, component: str, version: str, directory: Path, progress: Progress | None
) -> releases.ReleaseInfo:
    """Publish ``directory`` as a release of the component.

    Raises:
        Refusal: there is no such directory, or nothing can be read from it.
        VersionTaken: the version exists with other content.
    """
    if not directory.is_dir():
        raise Refusal(f"{directory} is not a directory; name the folder that holds the release's files")
    return await releases.publish(cloud.objects, component, version, directory, progress)


async def component_states(components: Components, objects: ObjectsPort, fleet: Fleet) -> list[ComponentState]:
    """Return every component of a fleet with its releases."""
    found = []
    for component, standing in (await components.standings(fleet)).items():
        published = await releases.versions(objects, component)
        now = standing.current
        found.append(
            ComponentState(
                component,
                now.version if now else None,
                list(published),
                good=standing.good,
                broken=standing.broken.reason if standing.broken else "",
                since=f"{now.since:%Y-%m-%dT%H:%M:%SZ}" if now else "",
                by=now.by if now else "",
                reason=now.reason if now else "",
                previous=now.previous if now else None,
            )
        )
    return found


@dataclass
class Uses:
    """Who uses a release: fleets as ``FLEET (current)``, bakes by their id, and the images that were made of them."""

    version: str
    fleets: list[str] = field(default_factory=list)
    bakes: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """Return it for ``-o json``."""
        return asdict(self)


async def uses(cloud: Cloud, components: Components, component: str) -> list[Uses]:
    """Return every published version of a component with what uses it, oldest first.

    Raises:
        Refusal: nothing was ever published of it.
    """
    found = {version: Uses(version) for version in await releases.versions(cloud.objects, component)}
    if not found:
        raise Refusal(f"nothing was published of {component!r}; publish with: python -m ops release publish --help")
    fleets = Fleets(cloud.objects)
    for name in await fleets.names():
        fleet = await fleets.get(name)
        if component in fleet.components:
            await _used_by(cloud, components, fleet, component, found)
    return list(found.values())


async def _used_by(cloud: Cloud, components: Components, fleet: Fleet, component: str, found: dict[str, Uses]) -> None:
    standing = await components.standing(fleet.fleet, component)
    now = standing.current
    roles = {"current": now.version if now else None, "last good": standing.good}
    roles["previous"] = now.previous if now else None
    for role, version in roles.items():
        if version in found:
            found[version].fleets.append(f"{fleet.fleet} ({role})")
    for bake in await bakes_of(cloud.objects, fleet.fleet):
        version = bake.releases.get(component)
        if version in found:
            found[version].bakes.append(bake.bake)
            found[version].images.extend([bake.image] if bake.image else [])


async def described(cloud: Cloud, components: Components, component: str, version: str) -> dict[str, Any]:
    """Return what a release holds, and who uses it.

    Raises:
        UnknownRelease: it was never published.
    """
    release = await releases.manifest(cloud.objects, component, version)
    files = [entry for entry in release.manifest.entries if entry.kind == "file"]
    used = {each.version: each for each in await uses(cloud, components, component)}[version]
    size = sum(entry.size for entry in files)
    return {"component": component, "files": len(files), "bytes": size, "digest": release.digest, **used.as_dict()}


async def bakes_of(objects: ObjectsPort, fleet: str) -> list[Bake]:
    """Return the records of all of a fleet's bakes, oldest first."""
    return await Documents(objects).all(Bake, bakes_prefix(fleet))


@dataclass
class Difference:
    """What changes from one release to another: paths, bytes of files, and steps as ``FLEET: STEP``."""

    component: str
    before: str
    after: str
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    added_bytes: int = 0
    changed_bytes: int = 0
    removed_bytes: int = 0
    steps: dict[str, list[str]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Return it for ``-o json``."""
        return asdict(self)


async def difference(
    cloud: Cloud, clock: Clock, components: Components, component: str, before: str, after: str
) -> Difference:
    """Compare two releases, and say which steps of which fleets the change touches.

    Raises:
        UnknownRelease: one of them was never published.
    """
    old, new = [(await releases.manifest(cloud.objects, component, each)).manifest for each in (before, after)]
    found = compared(old, new)
    runs = Runs(cloud.commands, cloud.objects, clock, AGENT)
    fleets = Fleets(cloud.objects)
    for name in await fleets.names():
        fleet = await fleets.get(name)
        if component in fleet.components:
            found.steps[name] = await _touched(runs, components, fleet, old, new)
    return found


def compared(old: Manifest, new: Manifest) -> Difference:
    """Return the paths and bytes that differ. Pure."""
    found = Difference(old.component, old.version, new.version)
    before, after = ({entry.path: entry for entry in each.entries if entry.path != "."} for each in (old, new))
    for path, entry in after.items():
        if path not in before:
            found.added.append(path)
            found.added_bytes += entry.size
        elif _facts(entry) != _facts(before[path]):
            found.changed.append(path)
            found.changed_bytes += entry.size
    found.removed = [path for path in before if path not in after]
    found.removed_bytes = sum(before[path].size for path in found.removed)
    return found


def _facts(entry: Entry) -> tuple[object, ...]:
    return entry.kind, entry.mode, entry.sha256, entry.target


async def _touched(runs: Runs, components: Components, fleet: Fleet, before: Manifest, after: Manifest) -> list[str]:
    """Return the fleet's steps that a change from one release to the other has run, the others being as they stand."""
    others = chosen(await components.standings(fleet))
    try:
        old = await runs.fingerprints(fleet, {**others, before.component: before.version})
        new = await runs.fingerprints(fleet, {**others, after.component: after.version})
    except NoPlan:
        return []  # the plan cannot be made before every component has a release
    return [step for step, fingerprint in new.items() if old[step] != fingerprint]


def listed(paths: Iterable[str], limit: int) -> list[str]:
    """Return the first paths, and how many more there are. Pure."""
    all_paths = list(paths)
    more = len(all_paths) - limit
    return [*all_paths[:limit], *([f"... and {more} more"] if more > 0 else [])]
