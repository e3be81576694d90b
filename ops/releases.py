"""Releases from the command line: publish a directory, list, and say which one a fleet runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from shared import releases
from shared.aws import Cloud
from shared.clock import Clock
from shared.documents import Documents
from shared.fleets import Fleets
from shared.packing import Progress


class Refusal(Exception):
    """What was asked for cannot be done; the message is one sentence that says why and what to do."""


@dataclass(frozen=True)
class ComponentState:
    """One component of a fleet: the release that it runs, and those that there are."""

    component: str
    current: str | None
    versions: list[str]

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


async def set_release(cloud: Cloud, clock: Clock, fleet: str, component: str, version: str, by: str) -> None:
    """Make a release the one that the fleet's next launches and bakes use.

    Raises:
        UnknownFleet, Refusal: the fleet, the component or the release does not exist.
    """
    described = await Fleets(cloud.objects).get(fleet)
    if component not in described.components:
        known = ", ".join(described.components)
        raise Refusal(f"fleet {fleet} has no component {component!r}; it has {known}")
    published = await releases.versions(cloud.objects, component)
    if version not in published:
        raise Refusal(f"there is no release {version} of {component}; published are {', '.join(published) or 'none'}")
    await releases.set_current(Documents(cloud.objects), clock, fleet, component, version, by=by)


async def component_states(cloud: Cloud, fleet: str) -> list[ComponentState]:
    """Return every component of a fleet with its current release and those that were published."""
    described = await Fleets(cloud.objects).get(fleet)
    documents = Documents(cloud.objects)
    found = []
    for component in described.components:
        current = await releases.current(documents, fleet, component)
        published = await releases.versions(cloud.objects, component)
        found.append(ComponentState(component, current.version if current else None, list(published)))
    return found
